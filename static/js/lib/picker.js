// Choosing among any number of entries. A native select becomes a field that searches; the select stays what the form
// holds and what tells of a change. `data-picker` makes it one of models (picker_models.js), `data-picker="options"` one
// of the select's own options.
import { nameOf, hasWords, OwnChoices } from "./choices.js";
import { $$, cutName, el } from "./dom.js";
import { gettext } from "./i18n.js";
import { Listbox } from "./listbox.js";
import { ModelChoices } from "./picker_models.js";

const ROOM = 320; // px that the list wants below its field
const GAP = 4;
let made = 0; // of selects without a name

export class Picker {
  #choices;
  #list;
  #timer;
  #turn = 0;
  #isBehind = false; // the list answers other words than those that are typed

  constructor(select) {
    this.select = select;
    this.#choices = select.dataset.picker === "options" ? new OwnChoices(select) : new ModelChoices(select);
    this.field = el("input", { className: `${select.className} picker-field`, type: "text", id: `${select.id || select.name || `select-${++made}`}-picker`, dataset: { testid: `${select.dataset.testid}-picker` } });
    this.field.setAttribute("aria-label", select.getAttribute("aria-label") ?? select.labels[0]?.firstChild.textContent.trim() ?? "");
    if (select.hasAttribute("aria-describedby")) this.field.setAttribute("aria-describedby", select.getAttribute("aria-describedby"));
    if (select.labels[0]) select.labels[0].htmlFor = this.field.id;
    this.shown = el("span", { className: "picker-shown", "aria-hidden": "true" });
    this.note = el("p", { className: "picker-note", role: "status" });
    const place = el("div", { className: "listbox", "aria-label": this.#choices.label });
    this.panel = el("div", { className: "picker-panel", dataset: { testid: "picker-panel" } }, place, this.note);
    this.panel.popover = "manual"; // above everything, also above a dialog
    const box = (this.box = el("div", { className: "picker" }, this.field, this.shown, this.panel));
    select.before(box);
    box.prepend(select);
    select.classList.add("sr-only");
    select.tabIndex = -1;
    select.setAttribute("aria-hidden", "true");
    this.#list = new Listbox(this.field, place, (item) => this.#choose(item.option));
    this.#listen(box);
    this.#follow();
  }

  get isOpen() {
    return this.panel.matches(":popover-open");
  }

  /** What the select holds now; `change` events of others and the pages' own changes come here too. */
  #follow() {
    const option = this.select.selectedOptions[0];
    const isEmpty = !option?.value;
    this.field.disabled = this.select.disabled;
    this.box.hidden = this.select.hidden;
    this.field.placeholder = isEmpty ? (option?.textContent ?? this.#choices.none) : "";
    this.shown.replaceChildren(...(isEmpty ? [] : [cutName(nameOf(option))]));
    if (document.activeElement !== this.field || !this.isOpen) this.field.value = isEmpty ? "" : nameOf(option);
  }

  #listen(box) {
    const { field, select } = this;
    select.addEventListener("change", () => this.#follow());
    select.addEventListener("focus", () => field.focus());
    new MutationObserver(() => this.#follow()).observe(select, { attributeFilter: ["disabled", "hidden"], childList: true, subtree: true });
    field.addEventListener("click", () => this.#open());
    field.addEventListener("focus", () => field.select());
    field.addEventListener("input", (event) => {
      event.stopPropagation(); // the words are no value of the form
      if (!this.isOpen) this.#open(false);
      clearTimeout(this.#timer);
      this.#isBehind = true;
      this.#turn++; // what was asked for other words is no answer any more
      this.#timer = setTimeout(() => this.#search(), this.#choices.after);
    });
    field.addEventListener("change", (event) => event.stopPropagation());
    field.addEventListener("keydown", (event) => this.#takeKey(event));
    this.panel.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    box.addEventListener("focusout", (event) => box.contains(event.relatedTarget) || this.#close());
    addEventListener("resize", () => this.isOpen && this.#place());
    document.addEventListener("scroll", (event) => this.isOpen && !this.panel.contains(event.target) && this.#place(), { capture: true, passive: true });
  }

  #takeKey(event) {
    const isArrow = ["ArrowDown", "ArrowUp"].includes(event.key);
    if (!this.isOpen && isArrow) {
      event.preventDefault();
      this.#open();
    } else if (this.isOpen && isArrow && event.altKey) {
      event.preventDefault();
      this.#close();
    } else if (this.isOpen && event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation(); // the page's own Escape stops an answer
      this.#close();
      this.field.select();
    } else if (this.isOpen && event.key === "Tab") {
      this.#close();
    } else if (this.isOpen && this.#isBehind && event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      event.stopPropagation();
      this.#chooseFound();
    } else if (this.isOpen && this.#list.takeKey(event)) {
      event.stopPropagation();
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault(); // sends no form
      if (!this.isOpen) this.#open();
    }
  }

  #open(all = true) {
    if (this.isOpen || this.field.disabled) return;
    this.panel.showPopover();
    this.#list.isOpen = true;
    if (all) this.#search("");
    this.#place();
  }

  #close() {
    clearTimeout(this.#timer);
    this.#turn++;
    if (!this.isOpen) return;
    this.panel.hidePopover();
    this.#list.isOpen = false;
    this.#follow();
  }

  /** What is marked now was marked for other words: it is chosen by those that are typed. */
  async #chooseFound() {
    clearTimeout(this.#timer);
    await this.#search();
    if (this.isOpen && !this.#isBehind && this.#list.active) this.#choose(this.#list.active.option);
  }

  #choose(option) {
    const isThere = [...this.select.options].some((one) => one.value === option.value);
    if (!isThere) this.select.append(option);
    this.select.value = option.value;
    this.#close();
    for (const kind of ["input", "change"]) this.select.dispatchEvent(new Event(kind, { bubbles: true }));
    this.#follow();
    this.field.select();
  }

  // What is listed ---------------------------------------------------------------------------------------------------

  async #search(words = this.field.value.trim()) {
    const turn = ++this.#turn;
    const here = this.#choices.here(words);
    if (here) return this.#show(here, words);
    try {
      const found = await this.#choices.find(words);
      if (turn === this.#turn) this.#show(found, words);
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#isBehind = false;
      this.#list.show([]);
      this.note.textContent = error.message;
    }
  }

  #show({ options, count }, words) {
    this.#isBehind = false;
    const groups = this.#choices.groups(options);
    const listed = groups.flatMap(({ items }) => items.map(({ option }) => option));
    const likeliest = listed.find((option) => hasWords(`${nameOf(option)} ${option.value}`, words)) ?? listed[0];
    this.#list.show(groups, ({ option }) => (words ? option === likeliest : option.value === this.select.value));
    this.note.textContent = options.length ? this.#choices.note(options.length, count) : gettext("Nothing matches.");
    this.#place();
  }

  /** Below the field, or above where there is more room; never wider than the page. */
  #place() {
    const { left, top, bottom, width } = this.field.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const below = clientHeight - bottom - GAP;
    const isAbove = below < ROOM && top > below;
    const wide = Math.min(Math.max(width, 288), clientWidth - 16);
    const { style } = this.panel;
    style.width = `${wide}px`;
    style.left = `${Math.max(8, Math.min(left, clientWidth - wide - 8))}px`;
    style.top = isAbove ? "auto" : `${bottom + GAP}px`;
    style.bottom = isAbove ? `${clientHeight - top + GAP}px` : "auto";
    style.maxHeight = `${Math.min(420, (isAbove ? top : below) - 12)}px`;
  }
}

/** Make every select of the page that asks for it a picker. */
export function pickers(root = document) {
  for (const select of $$("select[data-picker]", root)) if (!select.closest(".picker")) new Picker(select);
}
