// Differences of two lists.
export { diffArrays } from "diff";
