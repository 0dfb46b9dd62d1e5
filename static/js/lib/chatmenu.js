// What is done with the open conversation as a whole: its menu and the dialogs behind it.
import { request } from "./api.js";
import { $ } from "./dom.js";
import { MoveDialog } from "./folders.js";
import { ShareDialog } from "./share.js";
import { failed } from "./toast.js";

export class ChatMenu {
  /**
   * `current()` is the conversation, `address()` its address in the API; `patch(changes)` changes it there and here,
   * `show()` draws its name anew.
   */
  constructor({ current, patch, show, sidebar, address }) {
    const changed = async (changes) => {
      await patch(changes);
      show();
    };
    this.#rename(current, changed);
    new ShareDialog($("#share-dialog"), $("[data-share]"), current);
    new MoveDialog($("#move-dialog"), $("[data-move]"), sidebar.folders, () => current().folder, async (folder) => {
      await patch({ folder });
      await sidebar.folders.refresh();
      await sidebar.refresh();
    });
    $("[data-pin]").addEventListener("click", async () => {
      try {
        await changed({ pinned: !current().pinned });
        await sidebar.refresh();
      } catch (error) {
        failed(error);
      }
    });
    $("[data-remove]").addEventListener("click", () => $("#remove-dialog").showModal());
    $("[data-remove-form]").addEventListener("submit", async () => {
      try {
        await request("DELETE", address());
        location.assign("/chat");
      } catch (error) {
        failed(error);
      }
    });
  }

  #rename(current, changed) {
    $("[data-rename]").addEventListener("click", () => {
      $("#rename-text").value = current().title;
      $("[data-rename-error]").hidden = true;
      $("#rename-dialog").showModal();
    });
    $("[data-rename-form]").addEventListener("submit", async (event) => {
      const title = $("#rename-text").value.trim();
      $("[data-rename-error]").hidden = Boolean(title);
      if (!title) return event.preventDefault();
      try {
        await changed({ title });
      } catch (error) {
        failed(error);
      }
    });
  }
}
