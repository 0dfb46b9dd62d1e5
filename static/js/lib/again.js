// One more answer to a question, by a model that is chosen for it; the conversation then goes on with that model.
import { $ } from "./dom.js";

export class AgainDialog {
  #message = null;

  /** `current`: the composer's select. `answer(message, slug)` asks and resolves to whether it could. */
  constructor(dialog, current, answer) {
    this.dialog = dialog;
    this.current = current;
    this.select = $("select", dialog);
    $("form", dialog).addEventListener("submit", async () => {
      if (await answer(this.#message, this.select.value)) this.#goOn();
    });
  }

  open(message) {
    this.#message = message;
    this.#choose(this.select, this.current.value);
    this.dialog.showModal();
  }

  #goOn() {
    const option = this.select.selectedOptions[0];
    if (![...this.current.options].some((one) => one.value === option.value)) this.current.append(option.cloneNode(true));
    this.#choose(this.current, option.value);
  }

  #choose(select, slug) {
    if (![...select.options].some((option) => option.value === slug)) return;
    select.value = slug;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  }
}
