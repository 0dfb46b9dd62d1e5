// A parser's tokens as descriptions of elements. Only what is named here is ever made.
import { icon } from "../dom.js";
import { highlight } from "../highlight.js";
import { gettext } from "../i18n.js";
import { formula } from "../math.js";
import { joined, made, node } from "../nodes.js";

const LINK = /^(?:https?:\/\/|mailto:)/i;
const TAGS = {
  blockquote_open: "blockquote",
  bullet_list_open: "ul",
  em_open: "em",
  s_open: "del",
  strong_open: "strong",
  tbody_open: "tbody",
  thead_open: "thead",
  tr_open: "tr",
};

/** Elements for `tokens`. `redraw` is called when they could be made better: the library for colours has come. */
export function elements(tokens, redraw) {
  const stack = [{ children: [] }];
  for (const token of tokens) {
    if (token.nesting > 0) stack.push({ token, children: [] });
    else if (token.nesting < 0) {
      const { token: open, children } = stack.pop();
      stack.at(-1).children.push(...around(open, children));
    } else stack.at(-1).children.push(...leaf(token, stack, redraw));
  }
  return joined(stack[0].children);
}

function around(token, children) {
  switch (token.type) {
    case "paragraph_open":
      return token.hidden ? children : [node("p", {}, children)];
    case "heading_open": // the page itself has h1 and h2
      return [node(`h${Math.min(Number(token.tag[1]) + 2, 6)}`, {}, children)];
    case "link_open":
      return [link(token, children)];
    case "list_item_open": {
      const [first] = children[0]?.tag === "p" ? children[0].children : children;
      return [node("li", first?.tag === "input" ? { className: "md-task" } : {}, children)];
    }
    case "ordered_list_open":
      return [node("ol", { start: Number(token.attrGet("start") ?? 1) }, children)];
    case "table_open":
      return [node("div", { className: "md-table", tabIndex: 0 }, node("table", {}, children))];
    case "td_open":
    case "th_open": {
      const align = token.attrGet("style")?.replace("text-align:", "");
      return [node(token.type.slice(0, 2), align ? { "data-align": align } : {}, children)];
    }
    default:
      return token.type in TAGS ? [node(TAGS[token.type], {}, children)] : children;
  }
}

function leaf(token, stack, redraw) {
  switch (token.type) {
    case "inline":
      return elements(token.children, redraw);
    case "text":
      return [token.content];
    case "code_inline":
      return [node("code", {}, token.content)];
    case "softbreak": // models mean the lines that they write
    case "hardbreak":
      return [node("br", {})];
    case "hr":
      return [node("hr", {})];
    case "fence":
    case "code_block":
      return [code(token.content.replace(/\n$/, ""), token.info.match(/[\w+#.-]+/)?.[0].toLowerCase() ?? "", redraw)];
    case "image": // nothing is fetched from elsewhere: the address as a link
      return stack.some(({ token: outer }) => outer?.type === "link_open") ? [plain(token)] : [link(token, [plain(token)])];
    case "task":
      return [node("input", { type: "checkbox", disabled: true, checked: token.meta.checked, className: "checkbox", "aria-label": gettext("Task") })];
    case "math":
    case "math_block":
      return [math(token.content, token.meta)];
    default:
      return [];
  }
}

const plain = (token) => (token.children ? token.children.map(plain).join("") : token.content);

/** A link where its scheme is allowed; else the words alone, which tell the address to those who point at them. */
function link(token, children) {
  const address = token.attrGet("href") ?? token.attrGet("src");
  const title = token.attrGet("title");
  const words = joined(children).length ? children : [address];
  if (!LINK.test(address)) return node("span", { title: title ?? address, "data-address": address }, words);
  const properties = { className: "link", href: address, rel: "noopener noreferrer nofollow", target: "_blank" };
  return node("a", title ? { ...properties, title } : properties, words);
}

function code(text, language, redraw) {
  const copy = node("button", { type: "button", className: "btn btn-quiet btn-sm btn-icon", "aria-label": gettext("Copy code"), "data-copy-code": "" }, made("copy", () => icon("copy")));
  const head = node("div", { className: "md-code-head" }, node("span", {}, language || gettext("code")), copy);
  const body = node("pre", { tabIndex: 0 }, node("code", {}, highlight(text, language, redraw)));
  return node("div", { className: "md-code" }, head, body);
}

/** A formula whose end has not come yet is shown as its source: it would be drawn anew with every word. */
function math(source, { display, isOpen = false }) {
  if (isOpen) return node("span", { className: "math-display" }, source);
  return made(`${display} ${source}`, () => formula(source, display));
}
