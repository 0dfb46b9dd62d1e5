// Brings an element of the page and the HTML that a specification expects into one form: [tag, attributes, children].
const BLOCKS = new Set(["p", "ul", "ol", "li", "blockquote", "pre", "table", "thead", "tbody", "tr", "th", "td", "hr", "h3", "h4", "h5", "h6"]);

/** What the page shows. Its wrappers and its links that lead nowhere are taken for what they stand for. */
export function shown(element) {
  const children = [...element.childNodes].flatMap((child) => {
    if (child.nodeType === Node.TEXT_NODE) return [child.data];
    const { localName: tag, className, dataset } = child;
    if (className === "md-code") return [pre(child.querySelector("code").textContent)];
    if (className === "md-table") return shown(child);
    if (dataset.address !== undefined) {
      return [["a", named({ href: dataset.address, title: child.title === dataset.address ? null : child.title }), shown(child)]];
    }
    return [[tag, attributes(child, dataset.align), shown(child)]];
  });
  return joined(children);
}

/** What a specification's HTML says, as far as the page means to follow: headings begin at h3, each new line is one. */
export function expected(html) {
  return parts(new DOMParser().parseFromString(html, "text/html").body);
}

function parts(element) {
  const nodes = [...element.childNodes].filter((node) => node.nodeType !== Node.COMMENT_NODE);
  const isBlock = (node) => !node || BLOCKS.has(tagOf(node));
  const children = nodes.flatMap((child, index) => {
    if (child.nodeType === Node.TEXT_NODE) {
      const [before, after] = [nodes[index - 1], nodes[index + 1]];
      let text = child.data;
      if (isBlock(before) || tagOf(before) === "br") text = text.replace(/^\n/, "");
      if (isBlock(after)) text = text.replace(/\n$/, "");
      return text.split("\n").flatMap((line, at) => (at ? [["br", {}, []], line] : [line]));
    }
    if (child.localName === "pre") return [pre(child.textContent.replace(/\n$/, ""))];
    return [[tagOf(child), attributes(child, child.getAttribute("align")), parts(child)]];
  });
  return joined(children);
}

function tagOf(node) {
  const heading = node.localName?.match(/^h([1-6])$/);
  return heading ? `h${Math.min(Number(heading[1]) + 2, 6)}` : node.localName;
}

const pre = (text) => ["pre", {}, [text]];

function attributes(element, align) {
  const { localName: tag } = element;
  const get = (name) => element.getAttribute(name);
  if (tag === "a") return named({ href: get("href"), title: get("title") });
  if (tag === "ol") return { start: element.start };
  if (tag === "input") return { checked: element.checked, disabled: element.disabled };
  return named({ align });
}

const named = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value));

function joined(children) {
  const list = [];
  for (const child of children) {
    if (child === "") continue;
    if (typeof child === "string" && typeof list.at(-1) === "string") list[list.length - 1] += child;
    else list.push(child);
  }
  return list;
}
