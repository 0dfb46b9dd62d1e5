// The dialog in which a comparison's blend is put together, or changed.
import { Blend } from "./blend.js";
import { savesBlend } from "./blend_save.js";
import { $ } from "./dom.js";

export class BlendDialog {
  #blend;
  #take;

  constructor(dialog, saving) {
    this.dialog = dialog;
    this.#blend = new Blend($("[data-blend]", dialog));
    $("form", dialog).addEventListener("submit", (event) => {
      if (!this.#blend.check()) return event.preventDefault();
      this.#take(this.#blend.adapters);
    });
    if (saving) $("[data-blend-save]", dialog).addEventListener("click", savesBlend(saving, this.#blend));
  }

  /** Hold `parts` ([{model, weight}], none of a new blend); `take(parts)` is called once they are settled, `left()` however it ends. */
  open(parts, take, left) {
    this.#take = take;
    this.#blend.fill(parts);
    this.dialog.addEventListener("close", left, { once: true });
    this.dialog.showModal();
    $(parts.length ? "[data-blend-parts] input" : ".picker-field", this.dialog).focus();
  }
}
