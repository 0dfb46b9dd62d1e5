// Markdown as DOM nodes, block by block. While a text grows only its last blocks are drawn again.
import { copyText } from "./clipboard.js";
import { el, icon } from "./dom.js";
import { highlight } from "./highlight.js";
import { gettext } from "./i18n.js";
import { inline } from "./inline.js";
import { formula } from "./math.js";
import { toast } from "./toast.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MOST_NESTING = 6;

/** The sources of the blocks of a text: parted by blank lines, but not inside of code or formulas. */
export function blocksOf(text) {
  const blocks = [];
  let lines = [];
  let fence = null;
  const close = () => {
    if (lines.length) blocks.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (fence) {
      lines.push(line);
      if (line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "")) {
        fence = null;
        close();
      }
      continue;
    }
    const opened = line.match(FENCE);
    const math = line.trim();
    if (opened) {
      close();
      fence = opened[1];
      lines.push(line);
    } else if (math === "$$" || math === "\\[") {
      close();
      lines.push(line);
      fence = math === "$$" ? "$$" : "\\]";
    } else if (!line.trim()) close();
    else lines.push(line);
  }
  close();
  return blocks;
}

export function block(source, nesting = 0) {
  const lines = source.split("\n");
  const [first] = lines;
  const fence = first.match(FENCE);
  if (fence) return code(lines, fence);
  if (["$$", "\\["].includes(first.trim())) return formula(lines.slice(1, lines.length > 1 && ["$$", "\\]"].includes(lines.at(-1).trim()) ? -1 : undefined).join("\n"), true);
  const math = source.match(/^\s*(?:\$\$([\s\S]+)\$\$|\\\[([\s\S]+)\\\])\s*$/);
  if (math) return formula(math[1] ?? math[2], true);
  if (RULE.test(first) && lines.length === 1) return el("hr");
  if (nesting < MOST_NESTING) {
    if (/^ {0,3}>/.test(first)) return quote(lines, nesting);
    if (ITEM.test(first)) return list(lines, nesting);
    if (lines.length > 1 && first.includes("|") && TABLE_RULE.test(lines[1])) return table(lines);
  }
  const heading = first.match(/^ {0,3}(#{1,6})\s+(.+?)\s*#*$/);
  if (heading) {
    const title = el(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2]));
    if (lines.length === 1) return title;
    return group([title, block(lines.slice(1).join("\n"), nesting)]);
  }
  const start = lines.findIndex((line, index) => index > 0 && (/^ {0,3}#{1,6}\s/.test(line) || /^ {0,3}(?:[-*+]|1[.)])\s+\S/.test(line)));
  if (start > 0) return group([block(lines.slice(0, start).join("\n"), nesting), block(lines.slice(start).join("\n"), nesting)]);
  return el("p", {}, ...inline(source.replaceAll(/\n(?! )/g, "  \n")));
}

function group(nodes) {
  const box = el("div", { className: "md-group" });
  box.append(...nodes);
  return box;
}

function code(lines, fence) {
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const language = fence[2].toLowerCase();
  const copy = el("button", { type: "button", className: "btn btn-quiet btn-sm btn-icon", "aria-label": gettext("Copy code") }, icon("copy"));
  copy.addEventListener("click", async () => {
    if (await copyText(text)) toast("good", gettext("Copied"));
  });
  const head = el("div", { className: "md-code-head" }, el("span", {}, language || gettext("code")), copy);
  return el("div", { className: "md-code" }, head, el("pre", { tabIndex: 0 }, el("code", {}, ...highlight(text, language))));
}

function quote(lines, nesting) {
  const inner = lines.map((line) => line.replace(/^ {0,3}> ?/, "")).join("\n");
  return el("blockquote", {}, ...blocksOf(inner).map((source) => block(source, nesting + 1)));
}

function list(lines, nesting) {
  const [, margin, sign] = lines[0].match(ITEM);
  const ordered = /\d/.test(sign);
  const root = el(ordered ? "ol" : "ul");
  if (ordered) root.start = Number.parseInt(sign, 10);
  let item = [];
  const close = () => {
    if (!item.length) return;
    const [head, ...rest] = item;
    const done = head.match(/^\[([ xX])\]\s+(.*)$/);
    const entry = el("li");
    if (done) entry.append(el("input", { type: "checkbox", disabled: true, checked: done[1] !== " ", className: "checkbox mr-2" }));
    const at = rest.findIndex((line) => ITEM.test(line));
    const words = [done ? done[2] : head, ...(at < 0 ? rest : rest.slice(0, at)).map((line) => line.trim())];
    entry.append(...inline(words.join("  \n")));
    if (at >= 0) entry.append(block(rest.slice(at).join("\n"), nesting + 1));
    root.append(entry);
    item = [];
  };
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= margin.length + 1) {
      close();
      item = [match[3]];
    } else item.push(line);
  }
  close();
  return root;
}

const cells = (line) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

function table(lines) {
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  const inner = el("table", {}, el("thead", {}, row(lines[0], "th")), el("tbody", {}, ...lines.slice(2).map((line) => row(line, "td"))));
  return el("div", { className: "md-table", tabIndex: 0 }, inner);
}

/** Shows Markdown in `element`; call `show` again as the text grows. */
export class MarkdownView {
  #sources = [];

  constructor(element) {
    this.element = element;
    element.classList.add("md");
  }

  show(text) {
    const sources = blocksOf(text);
    let same = 0;
    while (same < sources.length && sources[same] === this.#sources[same]) same++;
    while (this.element.childNodes.length > same) this.element.lastChild.remove();
    for (const source of sources.slice(same)) this.element.append(block(source));
    this.#sources = sources;
  }
}
