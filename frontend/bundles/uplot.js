// Time series on a canvas.
export { default } from "uplot";
