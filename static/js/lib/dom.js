// Building and finding elements. Text always goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An icon of the vendored Font Awesome sprite. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon fa fa-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${document.documentElement.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

const NAME_START = 8;
const NAME_END = 16;

/**
 * A name that gives way in its middle where it has no room: often it is the end that tells names apart. Pointed at or
 * with the focus it is told whole. The filter `cut` of the templates makes the same.
 */
export function cutName(name) {
  const letters = [...name];
  const parts = letters.length > NAME_START + NAME_END ? [letters.slice(0, -NAME_END), letters.slice(-NAME_END)] : [letters];
  return el("span", { className: "cut", title: name }, ...parts.map((part) => el("span", {}, part.join(""))));
}

/** An element with properties and children; a string child becomes text. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "dataset") Object.assign(element.dataset, value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Data that the server left in the page as `<script type="application/json" id=…>`. */
export function data(id) {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
}
