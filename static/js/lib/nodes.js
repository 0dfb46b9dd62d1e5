// Descriptions of elements, and their way into the page: what is there already stays, so that a selection, a scroll
// position or an unfolded part outlives each drawing of a text that grows. Text always goes in as text.
import { el } from "./dom.js";

/**
 * An element: `properties` as `el` takes them; children are descriptions or strings. Neighbouring strings become one,
 * since the page too has one text there.
 */
export function node(tag, properties, ...children) {
  return { tag, properties, children: joined(children.flat()) };
}

/** An element that `make()` builds and that is kept as it is while `key` stays the same. */
export const made = (key, make) => ({ key, make });

/** `children` without empty strings, neighbouring strings as one. */
export function joined(children) {
  const list = [];
  for (const child of children) {
    if (child === "") continue;
    if (typeof child === "string" && typeof list.at(-1) === "string") list[list.length - 1] += child;
    else list.push(child);
  }
  return list;
}

/** Turn the children of `parent` from `before` into `after`. */
export function patch(parent, before, after) {
  // A browser that translates the page puts elements of its own in: all is made anew then.
  if (parent.childNodes.length !== before.length) return parent.replaceChildren(...after.map(create));
  after.forEach((wanted, index) => {
    if (index >= before.length) parent.append(create(wanted));
    else if (before[index] !== wanted) change(parent.childNodes[index], before[index], wanted);
  });
  for (let count = before.length; count > after.length; count--) parent.lastChild.remove();
}

function change(shown, before, wanted) {
  if (typeof before === "string" && typeof wanted === "string" && shown.nodeType === Node.TEXT_NODE) {
    if (wanted.startsWith(before)) shown.appendData(wanted.slice(before.length));
    else shown.data = wanted;
  } else if (before.tag && before.tag === wanted.tag && alike(before.properties, wanted.properties)) {
    patch(shown, before.children, wanted.children);
  } else if (!wanted.make || before.key !== wanted.key) shown.replaceWith(create(wanted));
}

function alike(one, other) {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

function create(wanted) {
  if (typeof wanted === "string") return document.createTextNode(wanted);
  return wanted.make ? wanted.make() : el(wanted.tag, wanted.properties, ...wanted.children.map(create));
}
