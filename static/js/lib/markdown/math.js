// Formulas in Markdown: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, within a line, over lines, and as blocks.

const CLOSES = { $: "$", $$: "$$", "\\(": "\\)", "\\[": "\\]" };
const DISPLAY = new Set(["$$", "\\["]);

export function mathRules(parser) {
  parser.inline.ruler.before("escape", "math", inlineRule);
  parser.block.ruler.before("fence", "math_block", blockRule, { alt: ["paragraph", "reference", "blockquote", "list"] });
}

function openerAt(text, at) {
  const two = text.slice(at, at + 2);
  if (two in CLOSES) return two;
  return text[at] === "$" ? "$" : null;
}

/** Where `close` stands in `text` from `at` on, before `end`; -1 where it does not. What is escaped is none. */
function closerIn(text, close, at, end) {
  for (let found = text.indexOf(close, at); found >= 0 && found + close.length <= end; found = text.indexOf(close, found + 1)) {
    if (close[0] === "\\" || text[found - 1] !== "\\") return found;
  }
  return -1;
}

function inlineRule(state, silent) {
  const open = openerAt(state.src, state.pos);
  if (!open) return false;
  const close = CLOSES[open];
  const start = state.pos + open.length;
  // What was not found once is not looked for again, or many openings would each read all that follows.
  state.withoutCloser ??= {};
  if (state.posMax <= state.withoutCloser[close]) return false;
  const end = closerIn(state.src, close, start, state.posMax);
  if (end < 0) {
    state.withoutCloser[close] = state.posMax;
    return false;
  }
  const source = state.src.slice(start, end);
  if (!source.trim()) return false;
  // As in pandoc: no space inside of single dollars and no digit behind them, for most dollars are money; nor code.
  if (open === "$" && (/^\s|\s$|[\n`]/.test(source) || /\d/.test(state.src[end + 1] ?? ""))) return false;
  if (!silent) push(state, "math", source, DISPLAY.has(open));
  state.pos = end + close.length;
  return true;
}

/** A formula that begins a line and ends one; an opening sign alone on its line may still wait for its end. */
function blockRule(state, startLine, endLine, silent) {
  const line = (number) => state.src.slice(state.bMarks[number] + state.tShift[number], state.eMarks[number]).trimEnd();
  const first = line(startLine);
  const open = first.slice(0, 2);
  if (!DISPLAY.has(open) || state.sCount[startLine] - state.blkIndent >= 4) return false;
  const close = CLOSES[open];
  const isAlone = first === open;
  let last = startLine;
  let at = first.indexOf(close, 2);
  while (at < 0) {
    last++;
    const isOutside = last >= endLine || (state.sCount[last] < state.blkIndent && line(last));
    if (isOutside || (!isAlone && !line(last))) break;
    at = line(last).indexOf(close);
  }
  if (at < 0 ? !isAlone : line(last).length > at + close.length) return false; // goes on within its line
  if (silent) return true;
  const until = at < 0 ? last : last + 1;
  const whole = state.getLines(startLine, until, state.sCount[startLine], false).trim();
  const token = push(state, "math_block", whole.slice(2, at < 0 ? undefined : whole.lastIndexOf(close)).trim(), true);
  token.map = [startLine, until];
  token.meta.isOpen = at < 0;
  state.line = until;
  return true;
}

function push(state, type, source, display) {
  const token = state.push(type, "math", 0);
  token.content = source;
  token.meta = { display };
  return token;
}
