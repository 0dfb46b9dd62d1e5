// Choosing conversations of the list and deleting them together, after a question.
import { busy } from "./adapter.js";
import { post } from "./api.js";
import { $, $$, el } from "./dom.js";
import { fill, gettext, ngettext } from "./i18n.js";
import { failed, toast } from "./toast.js";

const MOST = 200; // of one call

export class BulkChats {
  #chosen = new Set();

  /** `deleted(ids)` is called with what has been deleted. */
  constructor(root, list, deleted) {
    this.list = list;
    this.deleted = deleted;
    this.toggle = $("[data-select-chats]", root);
    this.bar = $("[data-chat-bulk]", root);
    this.remove = $("[data-bulk-delete]", root);
    this.toggle.addEventListener("click", () => this.#choosing(!this.isOn));
    $("[data-bulk-done]", root).addEventListener("click", () => this.#choosing(false));
    $("[data-bulk-all]", root).addEventListener("click", () => this.#all());
    this.remove.addEventListener("click", () => this.#askFirst());
    $("[data-remove-many-form]").addEventListener("submit", () => this.#run());
    list.addEventListener("change", ({ target }) => {
      if (target.checked) this.#chosen.add(target.value);
      else this.#chosen.delete(target.value);
      this.#show();
    });
    new MutationObserver(() => this.isOn && this.#apply()).observe(list, { childList: true });
  }

  get isOn() {
    return this.toggle.getAttribute("aria-pressed") === "true";
  }

  #choosing(on) {
    this.toggle.setAttribute("aria-pressed", String(on));
    this.bar.hidden = !on;
    this.#chosen.clear();
    if (on) this.#apply();
    else for (const box of $$("[data-choose]", this.list)) box.remove();
    if (on) $("[data-choose]", this.list)?.focus();
    else this.toggle.focus();
  }

  /** Boxes for what is listed by now; what has left the list is let go. */
  #apply() {
    const links = $$("a", this.list);
    const here = new Set(links.map((link) => link.dataset.id));
    for (const id of this.#chosen) if (!here.has(id)) this.#chosen.delete(id);
    for (const link of links) {
      if ($("[data-choose]", link.parentElement)) continue;
      const name = $("[data-name]", link).textContent;
      const box = el("input", { type: "checkbox", className: "checkbox", value: link.dataset.id, "aria-label": fill(gettext("Select %(name)s"), { name }), dataset: { choose: "", testid: "choose-chat" } });
      box.checked = this.#chosen.has(box.value);
      link.before(box);
    }
    this.#show();
  }

  #all() {
    for (const box of $$("[data-choose]", this.list)) {
      box.checked = true;
      this.#chosen.add(box.value);
    }
    this.#show();
  }

  #show() {
    const n = this.#chosen.size;
    this.remove.disabled = n === 0;
    $("[data-bulk-count]", this.bar).textContent = fill(ngettext("%(n)s selected", "%(n)s selected", n), { n });
  }

  #askFirst() {
    const n = this.#chosen.size;
    $("[data-remove-many-title]").textContent = fill(ngettext("Delete %(n)s conversation?", "Delete %(n)s conversations?", n), { n });
    $("#remove-many-dialog").showModal();
  }

  async #run() {
    const ids = [...this.#chosen].map(Number);
    const gone = [];
    busy(this.remove, true);
    try {
      for (let start = 0; start < ids.length; start += MOST) {
        const part = ids.slice(start, start + MOST);
        await post("/api/chat/conversations/delete", { ids: part });
        gone.push(...part);
      }
      toast("good", fill(ngettext("%(n)s conversation deleted", "%(n)s conversations deleted", gone.length), { n: gone.length }));
    } catch (error) {
      failed(error);
    } finally {
      busy(this.remove, false);
    }
    this.#choosing(false);
    if (gone.length) this.deleted(gone);
  }
}
