// Word differences of two texts by their longest common subsequence.

const MOST_WORDS = 4000; // beyond the common beginning and end; the table is quadratic

export const words = (text) => text.match(/\s+|[\p{Script=Han}]|[\p{L}\p{N}_'’-]+|[^\s]/gu) ?? [];

/**
 * `text` in parts {kind, text}: "same" as `reference` at this place, "new", or "gap", where words of `reference` are
 * missing (`text` then holds these; all others joined are `text`). Null where the texts are too long.
 */
export function compareWords(reference, text) {
  const a = words(reference);
  const b = words(text);
  let start = 0;
  while (start < a.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const middle = between(a.slice(start, a.length - end), b.slice(start, b.length - end));
  if (!middle) return null;
  const same = (list) => list.map((word) => ["same", word]);
  return joined([...same(b.slice(0, start)), ...middle, ...same(b.slice(b.length - end))]);
}

function between(a, b) {
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] =
        a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const found = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      found.push(["same", b[j++]]);
      i++;
    } else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) {
      found.push(["gap", a[i++]]);
    } else found.push(["new", b[j++]]);
  }
  return found;
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
