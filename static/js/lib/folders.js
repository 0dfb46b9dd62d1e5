// The folders of conversations: which one is listed, and moving the open conversation into one.
import { get } from "./api.js";
import { $, el } from "./dom.js";
import { failed } from "./toast.js";

const SHOWN = 32; // characters of a name in the select

export class Folders {
  /** `choose()` is called when another folder is to be listed. */
  constructor(select, choose) {
    this.select = select;
    select.addEventListener("change", choose);
  }

  get chosen() {
    return this.select.value;
  }

  /** As the server has them by now; one that has become empty is no longer chosen. */
  async refresh() {
    const { results } = await get("/api/chat/folders");
    const chosen = this.chosen;
    const options = results.map(({ name, count }) => el("option", { value: name, dataset: { name: `${name} (${count})` } }, `${[...name].length > SHOWN ? `${[...name].slice(0, SHOWN).join("")}…` : name} (${count})`));
    this.select.replaceChildren(this.select.options[0], ...options);
    this.select.value = results.some(({ name }) => name === chosen) ? chosen : "";
    this.select.hidden = results.length === 0;
  }
}

export class MoveDialog {
  /** `move(name)` puts the open conversation there; `current()` is its folder. */
  constructor(dialog, opener, folders, current, move) {
    const field = $("#move-folder", dialog);
    opener.addEventListener("click", () => {
      field.value = current();
      $("datalist", dialog).replaceChildren(...[...folders.select.options].slice(1).map(({ value }) => el("option", { value })));
      dialog.showModal();
      field.select();
    });
    $("form", dialog).addEventListener("submit", async () => {
      try {
        await move(field.value.trim());
      } catch (error) {
        failed(error);
      }
    });
  }
}
