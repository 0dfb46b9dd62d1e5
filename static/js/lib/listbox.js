// Choices below a text field, by the ARIA pattern of a combobox: the focus stays in the field, the keys move among the
// choices. `show` takes groups: [{title, items: [{content: [nodes], ...}]}]; what an item is besides is its owner's.
import { $$, el } from "./dom.js";

const PAGE = 10;
let lists = 0;

export class Listbox {
  #options = []; // [{element, item}], over all groups
  #active = -1;

  /** `choose(item, event)` is called for a click and for Enter. */
  constructor(field, place, choose) {
    const id = `listbox-${++lists}`;
    Object.assign(this, { field, place, choose, id });
    place.id = id;
    place.setAttribute("role", "listbox");
    for (const [name, value] of Object.entries({ role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id, autocomplete: "off", autocapitalize: "off", spellcheck: "false" })) field.setAttribute(name, value);
    place.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    place.addEventListener("pointermove", (event) => this.#activate(this.#indexOf(event), false));
    place.addEventListener("click", (event) => {
      const found = this.#options[this.#indexOf(event)];
      if (found) this.choose(found.item, event);
    });
  }

  /** Put in these groups; `active(item)` tells which choice is marked at first, else none is. */
  show(groups, active = () => false) {
    this.#options = [];
    const shown = groups.filter(({ items }) => items.length);
    this.place.replaceChildren(...shown.map((group, at) => this.#group(group, `${this.id}-group-${at}`)));
    this.#activate(this.#options.findIndex(({ item }) => active(item)));
  }

  /** For assistive technology: whether the list is to be seen. */
  set isOpen(open) {
    this.field.setAttribute("aria-expanded", String(open));
    if (!open) this.#activate(-1);
  }

  get active() {
    return this.#options[this.#active]?.item ?? null;
  }

  get count() {
    return this.#options.length;
  }

  /** Moves among the choices or chooses; true where the key was one of those that do. */
  takeKey(event) {
    const last = this.#options.length - 1;
    const at = this.#active;
    const to = {
      ArrowDown: at >= last ? 0 : at + 1,
      ArrowUp: at <= 0 ? last : at - 1,
      PageDown: Math.min(last, Math.max(at, 0) + PAGE),
      PageUp: Math.max(0, at - PAGE),
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.#activate(to);
      return true;
    }
    if (event.key !== "Enter" || event.isComposing || !this.active) return false;
    event.preventDefault();
    this.choose(this.active, event);
    return true;
  }

  #group({ title, items }, id) {
    const head = title ? [el("div", { className: "listbox-head", id, role: "presentation" }, title)] : [];
    const options = items.map((item) => this.#option(item));
    const group = el("div", { role: "group" }, ...head, ...options);
    if (title) group.setAttribute("aria-labelledby", id);
    return group;
  }

  #option(item) {
    const at = this.#options.length;
    const element = el("div", { className: "listbox-option", id: `${this.id}-${at}`, role: "option", "aria-selected": "false", dataset: { at } }, ...item.content);
    for (const [name, value] of Object.entries(item.data ?? {})) element.dataset[name] = value;
    this.#options.push({ element, item });
    return element;
  }

  #indexOf(event) {
    return Number(event.target.closest("[role=option]")?.dataset.at ?? -1);
  }

  #activate(index, scroll = true) {
    if (index === this.#active && index >= 0 && this.#options[index]?.element.getAttribute("aria-selected") === "true") return;
    for (const option of $$('[aria-selected="true"]', this.place)) option.setAttribute("aria-selected", "false");
    this.#active = this.#options[index] ? index : -1;
    const option = this.#options[this.#active]?.element;
    if (!option) return this.field.removeAttribute("aria-activedescendant");
    option.setAttribute("aria-selected", "true");
    this.field.setAttribute("aria-activedescendant", option.id);
    if (scroll) option.scrollIntoView({ block: "nearest" });
  }
}
