// Word differences of two texts.
import { diffArrays } from "../../vendor/diff/diff.js";

const MOST_CHANGES = 4000; // words that are missing or new; the effort grows with their square

export const words = (text) => text.match(/\s+|[\p{Script=Han}]|[\p{L}\p{N}_'’-]+|[^\s]/gu) ?? [];

/**
 * `text` in parts {kind, text}: "same" as `reference` at this place, "new", or "gap", where words of `reference` are
 * missing (`text` then holds these; all others joined are `text`). Null where more than MOST_CHANGES words differ.
 */
export function compareWords(reference, text) {
  const before = spaced(reference);
  const after = spaced(text);
  const bare = (list) => list.map((word) => word.trim());
  const changes = diffArrays(bare(before), bare(after), { maxEditLength: MOST_CHANGES });
  if (!changes) return null;
  let [from, at] = [0, 0];
  const parts = changes.map(({ added, removed, count }) => {
    const part = removed ? before.slice(from, from + count) : after.slice(at, at + count);
    if (!added) from += count;
    if (!removed) at += count;
    return [added ? "new" : removed ? "gap" : "same", part.join("")];
  });
  return joined(parts);
}

/** The words of `text`, each with the space behind it; how wide that is makes no difference. */
function spaced(text) {
  const list = [];
  for (const word of words(text)) {
    if (list.length && !word.trim()) list[list.length - 1] += word;
    else list.push(word);
  }
  return list;
}

/** Neighbours of one kind as one part. Words that others replace are no gap, and neither are mere spaces. */
function joined(list) {
  const parts = [];
  for (const [kind, text] of list) {
    if (parts.at(-1)?.kind === kind) parts.at(-1).text += text;
    else parts.push({ kind, text });
  }
  const replaced = (index) => [parts[index - 1], parts[index + 1]].some((part) => part?.kind === "new" && part.text.trim());
  return parts.filter(({ kind, text }, index) => kind !== "gap" || (text.trim() && !replaced(index)));
}

/** Number of the first word (spaces aside, from 1) where not all texts are the same; 0 where all are equal. */
export function firstDivergence(...texts) {
  const [first, ...others] = texts.map((text) => words(text).filter((word) => word.trim()));
  const longest = Math.max(first.length, ...others.map((other) => other.length));
  for (let at = 0; at < longest; at++) if (others.some((other) => other[at] !== first[at])) return at + 1;
  return 0;
}

/** Where the word number `n` (from 1) of `text` begins; the text's end where it has fewer. */
export function wordStart(text, n) {
  let at = 0;
  let count = 0;
  for (const word of words(text)) {
    if (word.trim() && ++count === n) return at;
    at += word.length;
  }
  return text.length;
}
