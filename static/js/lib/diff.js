// Word differences of two texts by their longest common subsequence.

const MOST_WORDS = 4000; // the table is quadratic

export const words = (text) => text.match(/\s+|[\p{Script=Han}]|[\p{L}\p{N}_'’-]+|[^\s]/gu) ?? [];

/** For each word of `text`: [word, whether `reference` has it at this place]; null where the texts are too long. */
export function compareWords(reference, text) {
  const a = words(reference);
  const b = words(text);
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
  for (let j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) {
      found.push([b[j++], true]);
      i++;
    } else if (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else found.push([b[j++], false]);
  }
  return found;
}

/** Number of the first word (spaces aside, from 1) where the texts part; 0 where they are equal. */
export function firstDivergence(one, other) {
  const [a, b] = [one, other].map((text) => words(text).filter((word) => word.trim()));
  const at = a.findIndex((word, index) => word !== b[index]);
  if (at >= 0) return at + 1;
  return b.length > a.length ? a.length + 1 : 0;
}
