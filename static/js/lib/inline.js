// Inline Markdown as DOM nodes. Elements are built one by one, so nothing in a text can become markup of its own.
import { el } from "./dom.js";
import { formula } from "./math.js";

const LINK = /^(?:https?:\/\/|mailto:)/i;
const MOST_DEPTH = 12;
const TOKEN = new RegExp(
  [
    /\\([\\`*_{}[\]()#+\-.!~|$<>])/, // 1 escaped sign
    /(`+)([\s\S]*?[^`])\2(?!`)/, // 2, 3 code
    /\$\$([^$]+?)\$\$/, // 4 formula on its own
    /\$(?!\s)([^$\n]+?)(?<!\s)\$(?!\d)/, // 5 formula
    /\\\(([\s\S]+?)\\\)/, // 6 formula
    /!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()]*)?)>?(?:\s+"[^"]*")?\s*\)/, // 7, 8 link or picture
    /\*\*(?!\s)([\s\S]+?)(?<!\s)\*\*/, // 9 bold
    /__(?!\s)([\s\S]+?)(?<!\s)__(?!\w)/, // 10 bold
    /\*(?!\s|\*)([^*]+?)(?<!\s)\*(?!\*)/, // 11 italic
    /(?<!\w)_(?!\s|_)([^_]+?)(?<!\s)_(?!\w)/, // 12 italic
    /~~(?!\s)([\s\S]+?)(?<!\s)~~/, // 13 struck out
    /(https?:\/\/[^\s<>"'`)\]]+[^\s<>"'`)\].,;:!?，。；：！？])/, // 14 bare address
    /( {2,}|\\)\n/, // 15 line break
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);

function link(address, children) {
  if (!LINK.test(address)) return children;
  const anchor = el("a", { className: "link", href: address, rel: "noopener noreferrer nofollow", target: "_blank" });
  anchor.append(...children);
  return [anchor];
}

export function inline(text, depth = 0) {
  if (depth > MOST_DEPTH) return [text];
  const nodes = [];
  let last = 0;
  const wrap = (tag, inner) => el(tag, {}, ...inline(inner, depth + 1));
  for (const match of text.matchAll(TOKEN)) {
    const [whole, sign, , code, display, math, paren, label, address, bold, bold2, italic, italic2, struck, bare, broken] = match;
    if (match.index > last) nodes.push(text.slice(last, match.index));
    last = match.index + whole.length;
    if (sign !== undefined) nodes.push(sign);
    else if (code !== undefined) nodes.push(el("code", {}, code.replace(/^ (.*) $/s, "$1")));
    else if (display !== undefined) nodes.push(formula(display, true));
    else if (math !== undefined || paren !== undefined) nodes.push(formula(math ?? paren, false));
    else if (label !== undefined) nodes.push(...link(address, label ? inline(label, depth + 1) : [address]));
    else if (bold !== undefined || bold2 !== undefined) nodes.push(wrap("strong", bold ?? bold2));
    else if (italic !== undefined || italic2 !== undefined) nodes.push(wrap("em", italic ?? italic2));
    else if (struck !== undefined) nodes.push(wrap("del", struck));
    else if (bare !== undefined) nodes.push(...link(bare, [bare]));
    else if (broken !== undefined) nodes.push(el("br"));
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}
