// The elements of a text that grows. Only its last blocks are parsed again: no later line changes what is before them.
import { elements } from "./elements.js";
import { parse } from "./parser.js";

// A block is closed by the start of the next one, which the rest of that line can still take back (`*` begins a list,
// `**bold**` goes on with the paragraph before it). So the last two are open.
const OPEN_BLOCKS = 2;

export class Blocks {
  #settled = ""; // the text of the blocks that stay
  #elements = []; // of these

  constructor(redraw) {
    this.redraw = () => {
      this.clear();
      redraw();
    };
  }

  clear() {
    this.#settled = "";
    this.#elements = [];
  }

  /** Descriptions of the elements for `text`; those of blocks that stay are the same objects each time. */
  elements(text) {
    const source = text.includes("\r") ? text.replaceAll(/\r\n?/g, "\n") : text;
    if (!source.startsWith(this.#settled)) this.clear();
    const tail = source.slice(this.#settled.length);
    const { tokens, hasReferences } = parse(tail);
    if (hasReferences && this.#settled) {
      // A link's address may stand anywhere, so the whole text is parsed from now on.
      this.clear();
      return elements(parse(source).tokens, this.redraw);
    }
    const found = elements(tokens, this.redraw);
    const all = [...this.#elements, ...found];
    const lines = tokens.filter((token) => token.level === 0 && token.nesting >= 0 && token.map).map((token) => token.map[0]);
    const closed = lines.length - OPEN_BLOCKS;
    if (closed > 0 && !hasReferences) {
      this.#settled += tail.slice(0, lineStart(tail, lines[closed]));
      this.#elements.push(...found.slice(0, closed));
    }
    return all;
  }
}

function lineStart(text, line) {
  let at = 0;
  for (let count = 0; count < line; count++) at = text.indexOf("\n", at) + 1;
  return at;
}
