// A dialog that searches while one types: a field above a list of choices and a line that tells how it went.
import { el, icon } from "./dom.js";
import { Listbox } from "./listbox.js";

export class SearchDialog {
  #timer;

  /** `search()` is called `after` ms after the last letter; `foot`: nodes below the list, if any. */
  constructor({ title, placeholder, testid, list, after = 0, foot = [] }) {
    this.field = el("input", { className: "palette-field", type: "text", placeholder, "aria-label": placeholder, dataset: { testid: `${testid}-field` } });
    const place = el("div", { className: "listbox", "aria-label": list });
    this.note = el("p", { className: "picker-note", role: "status" });
    const below = foot.length ? [el("div", { className: "dialog-foot" }, ...foot)] : [];
    this.dialog = el("dialog", { className: "dialog palette", "aria-label": title, dataset: { testid } }, el("div", { className: "input-group palette-head" }, icon("magnifying-glass"), this.field), place, this.note, ...below);
    document.body.append(this.dialog);
    this.list = new Listbox(this.field, place, (chosen, event) => this.choose(chosen, event));
    this.field.addEventListener("input", () => {
      this.typed();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.search(), after);
    });
    this.dialog.addEventListener("keydown", (event) => {
      event.stopPropagation(); // the page's own keys rest
      if (event.target === this.field) this.takeKey(event);
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => (this.list.isOpen = false));
  }

  get words() {
    return this.field.value.trim();
  }

  open() {
    if (this.dialog.open) return;
    this.field.value = "";
    this.dialog.showModal();
    this.list.isOpen = true;
    this.field.focus();
    this.typed();
    this.search();
  }

  /** What is typed is searched now, and not again when the letters have rested. */
  searchNow() {
    clearTimeout(this.#timer);
    return this.search();
  }

  takeKey(event) {
    return this.list.takeKey(event);
  }

  /** At each letter, before `search`. */
  typed() {}

  search() {}
}
