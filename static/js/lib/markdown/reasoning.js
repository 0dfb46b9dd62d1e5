// What a reasoning model thinks before it answers: `<think>…</think>` at the beginning of its text.

const OPEN = /^\s*<think(?:ing)?>/i;
const CLOSE = /<\/think(?:ing)?>/i;
// Where the chat template has written the opening tag, the text begins within: its end stands alone on a line.
const CLOSE_ALONE = /^[ \t]*<\/think(?:ing)?>[ \t]*$/im;
const BEGUN_TAG = /<\/?[a-z]{0,8}$/i;

/**
 * `text` parted into {thoughts, isOpen, answer}; `thoughts` is null where there are none. While `live`, a tag whose
 * rest has not come is left out.
 */
export function partReasoning(text, live) {
  const parts = [];
  let rest = text;
  const alone = OPEN.test(text) ? null : text.match(CLOSE_ALONE);
  if (alone && !/<think/i.test(text.slice(0, alone.index))) {
    parts.push(text.slice(0, alone.index));
    rest = text.slice(alone.index + alone[0].length);
  }
  for (let open = rest.match(OPEN); open; open = rest.match(OPEN)) {
    rest = rest.slice(open[0].length);
    const close = rest.match(CLOSE);
    parts.push(close ? rest.slice(0, close.index) : live ? rest.replace(BEGUN_TAG, "") : rest);
    if (!close) return { thoughts: join(parts), isOpen: true, answer: "" };
    rest = rest.slice(close.index + close[0].length);
  }
  const isBegun = live && rest.trim() && "<thinking>".startsWith(rest.trim().toLowerCase());
  return { thoughts: parts.length ? join(parts) : null, isOpen: false, answer: isBegun ? "" : rest };
}

const join = (parts) => parts.map((part) => part.trim()).filter(Boolean).join("\n\n");
