// Colours for code by highlight.js. Loaded when the first code in a named language appears; plain until then.
import { node } from "./nodes.js";

const PLAIN = new Set(["text", "txt", "plain", "plaintext", "markdown", "md"]);
const MOST_CHARACTERS = 100_000;

let library = null;
let loading = null;
const waiting = new Set();

function load() {
  loading ??= import("../../vendor/highlight/highlight.js").then(
    ({ lowlight }) => {
      library = lowlight;
      for (const redraw of waiting) redraw();
      waiting.clear();
    },
    () => {}, // code stays plain
  );
}

/**
 * Children of an element for `code`: plain where the language is unknown or the text is very long, and as long as the
 * library is on its way; `redraw` is called once it is there.
 */
export function highlight(code, language, redraw) {
  if (!language || PLAIN.has(language) || code.length > MOST_CHARACTERS) return [code];
  if (!library) {
    waiting.add(redraw);
    load();
    return [code];
  }
  if (!library.registered(language)) return [code];
  return library.highlight(language, code, { prefix: "hl-" }).children.map(coloured);
}

function coloured(part) {
  if (part.type === "text") return part.value;
  return node("span", { className: part.properties.className.join(" ") }, part.children.map(coloured));
}
