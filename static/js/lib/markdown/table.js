// Tables whose cells hold code with `|` in it. GFM wants these escaped and drops what a row has too much; models write
// them as they are. A row that fits its table only when the code's `|` part no cells is read that way.

const CODE = /(?<![`\\])(`+)(?!`)(.*?[^`])\1(?!`)/g;
const STAND_IN = "\ufdd0"; // for a `|`; Unicode keeps it free for a program's own use

export function tableRules(parser) {
  const { ruler } = new parser.constructor().block;
  ruler.enableOnly("table");
  const [table] = ruler.getRules("");
  const rule = (state, ...words) => withStandIns(table, state, ...words);
  parser.block.ruler.at("table", rule, { alt: ["paragraph", "reference"] });
}

const cellsOf = (line) => line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/);

/** How many columns the row of dashes below a table's head says; 0 where `line` is none. */
function columnsOf(line) {
  const cells = cellsOf(line);
  return cells.every((cell) => /^:?-+:?$/.test(cell.trim())) ? cells.length : 0;
}

function withStandIns(table, state, startLine, endLine, silent) {
  const { src } = state;
  const line = (number) => src.slice(state.bMarks[number] + state.tShift[number], state.eMarks[number]);
  const columns = startLine + 2 > endLine ? 0 : columnsOf(line(startLine + 1));
  if (!columns) return false;
  for (let at = startLine; at < endLine && line(at).trim(); at++) {
    const read = line(at).replaceAll(CODE, (code) => code.replaceAll(/(?<!\\)\|/g, STAND_IN));
    if (cellsOf(line(at)).length === columns || cellsOf(read).length !== columns) continue;
    state.src = state.src.slice(0, state.eMarks[at] - read.length) + read + state.src.slice(state.eMarks[at]);
  }
  const before = state.tokens.length;
  const isTable = table(state, startLine, endLine, silent);
  state.src = src;
  for (const token of state.tokens.slice(before)) token.content = token.content.replaceAll(STAND_IN, "|");
  return isTable;
}
