// One action on many adapters of the list.
import { busy } from "./adapter.js";
import { post } from "./api.js";
import { $, $$ } from "./dom.js";
import { fill, gettext, ngettext } from "./i18n.js";
import { failed, toast } from "./toast.js";

const MOST = 200; // of one call
const MOST_REASONS = 3; // in the toast

export class Bulk {
  #chosen = new Set();

  constructor(bar, list, refresh) {
    this.bar = bar;
    this.list = list;
    this.refresh = refresh;
    list.addEventListener("change", (event) => {
      if (!event.target.matches("[data-select]")) return;
      if (event.target.checked) this.#chosen.add(event.target.value);
      else this.#chosen.delete(event.target.value);
      this.#show();
    });
    $("[data-forget-form]").addEventListener("submit", () => this.#run($("[data-bulk-action=forget]", bar)));
    bar.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if ("bulkClear" in button.dataset) this.#clear();
      else if ("bulkAll" in button.dataset) this.#all();
      else if ("bulkCurves" in button.dataset) this.#curves();
      else if (button.dataset.bulkAction === "forget") this.#askFirst();
      else if (button.dataset.bulkAction) this.#run(button);
    });
  }

  /** The page of the first one, with the runs of the others laid over its curves. */
  #curves() {
    const [first, ...others] = this.#chosen;
    location.assign(`/models/${first}${others.length ? `?with=${others.join(",")}` : ""}`);
  }

  /** Tick again what was ticked before the list was drawn anew; what has left the list is let go. */
  apply() {
    const boxes = $$("[data-select]", this.list);
    const here = new Set(boxes.map((box) => box.value));
    for (const id of this.#chosen) if (!here.has(id)) this.#chosen.delete(id);
    for (const box of boxes) box.checked = this.#chosen.has(box.value);
    this.#show();
  }

  #show() {
    const count = this.#chosen.size;
    this.bar.hidden = count === 0;
    $("[data-bulk-count]", this.bar).textContent = fill(ngettext("%(n)s selected", "%(n)s selected", count), { n: count });
  }

  /** Every adapter that is to be seen; the checkpoints of a folded run are not. */
  #all() {
    for (const box of $$("[data-select]", this.list)) if (box.checkVisibility()) this.#chosen.add(box.value);
    this.apply();
  }

  #askFirst() {
    const count = this.#chosen.size;
    $("[data-forget-count]").textContent = fill(ngettext("Remove %(n)s adapter?", "Remove %(n)s adapters?", count), { n: count });
    $("#forget-dialog").showModal();
  }

  #clear() {
    this.#chosen.clear();
    this.apply();
  }

  /** One toast for all of them, bad where any was refused. */
  #tell(results, nameOf) {
    const bad = results.filter((result) => !result.ok);
    const good = results.length - bad.length;
    const titles = [];
    if (good) titles.push(fill(ngettext("Done for %(n)s adapter", "Done for %(n)s adapters", good), { n: good }));
    if (bad.length) titles.push(fill(ngettext("Failed for %(n)s adapter", "Failed for %(n)s adapters", bad.length), { n: bad.length }));
    const reasons = bad.slice(0, MOST_REASONS).map(({ id, message }) => `${nameOf(id)}: ${message}`);
    if (bad.length > MOST_REASONS) reasons.push(gettext("See the list for reasons."));
    toast(bad.length ? "bad" : "good", titles.join(" · "), reasons.join("\n"));
  }

  async #run(button) {
    const ids = [...this.#chosen].slice(0, MOST).map(Number);
    const nameOf = (id) => $(`[data-id="${id}"]`, this.list)?.dataset.name ?? id;
    busy(button, true);
    try {
      const { results } = await post("/api/lora/models/bulk", { action: button.dataset.bulkAction, ids });
      this.#tell(results, nameOf);
      this.#clear();
    } catch (error) {
      failed(error);
    } finally {
      busy(button, false);
    }
    await this.refresh();
  }
}
