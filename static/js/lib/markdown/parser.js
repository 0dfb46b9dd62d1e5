// The parser: markdown-it (CommonMark, tables, strikethrough, bare addresses) and what answers of models need beyond it.
import { cjkFriendly, MarkdownIt } from "../../../vendor/markdown-it/markdown-it.js";
import { mathRules } from "./math.js";
import { tableRules } from "./table.js";

// Markup of a text is never markup of the page: with `html: false` the parser has no tokens for it.
const parser = new MarkdownIt({ html: false, linkify: true }).use(cjkFriendly).use(mathRules).use(tableRules);
// Every address is parsed as one; which of them become links is decided where elements are made.
parser.validateLink = () => true;
parser.normalizeLinkText = (text) => text;
parser.linkify.add("ftp:", null).add("//", null);
parser.linkify.add("www.", { validate: hostLength, normalize: (match) => (match.url = `http://${match.url}`) });
parser.inline.ruler.before("autolink", "break", lineBreak);
parser.core.ruler.after("inline", "tasks", tasks);

/** How many characters from `at` on are a host with a path. */
function hostLength(text, at, { re }) {
  const host = re.get_relative_proto_validator();
  host.lastIndex = at;
  return host.exec(text)?.[0].length ?? 0;
}

/** `<br>`, the only way to a second line in a table's cell. */
function lineBreak(state, silent) {
  const match = state.src.slice(state.pos, state.pos + 8).match(/^<br\s*\/?>/i);
  if (!match) return false;
  if (!silent) state.push("hardbreak", "br", 0);
  state.pos += match[0].length;
  return true;
}

/** `[ ]` and `[x]` at the start of a list's item as a token of their own. */
function tasks(state) {
  state.tokens.forEach((token, index) => {
    const text = token.type === "inline" && state.tokens[index - 2]?.type === "list_item_open" && token.children[0];
    const match = text && text.type === "text" && text.content.match(/^\[([ xX])\](?=\s)/);
    if (!match) return;
    const box = new state.Token("task", "input", 0);
    box.meta = { checked: match[1] !== " " };
    text.content = text.content.slice(match[0].length);
    token.children.unshift(box);
  });
}

/** `text` (lines end with \n) as markdown-it's tokens, and whether it has link references: they hold for all of it. */
export function parse(text) {
  const env = {};
  const tokens = parser.parse(text, env);
  return { tokens, hasReferences: Object.keys(env.references ?? {}).length > 0 };
}
