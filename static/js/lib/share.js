// Sharing a conversation by a link, and taking the link back.
import { busy } from "./adapter.js";
import { post, request } from "./api.js";
import { copyLink } from "./clipboard.js";
import { $ } from "./dom.js";
import { gettext } from "./i18n.js";
import { failed, toast } from "./toast.js";

export class ShareDialog {
  /** `current()`: the conversation as the page knows it; its `share` is kept up to date. */
  constructor(dialog, opener, current) {
    this.dialog = dialog;
    this.current = current;
    this.link = $("[data-share-link]", dialog);
    this.make = $("[data-share-make]", dialog);
    this.revoke = $("[data-share-revoke]", dialog);
    opener.addEventListener("click", () => {
      this.#show();
      dialog.showModal();
    });
    this.make.addEventListener("click", () => this.#change(this.make, async (url) => (await post(url)).share));
    this.revoke.addEventListener("click", async () => {
      if (await this.#change(this.revoke, (url) => request("DELETE", url))) toast("good", gettext("Link revoked"));
    });
    this.link.addEventListener("focus", () => this.link.select());
    $("[data-share-copy]", dialog).addEventListener("click", () => copyLink(this.link.value));
  }

  async #change(button, work) {
    const conversation = this.current();
    busy(button, true);
    try {
      conversation.share = await work(`/api/chat/conversations/${conversation.id}/share`);
      this.#show();
      (conversation.share ? this.link : this.make).focus();
      return true;
    } catch (error) {
      failed(error);
      return false;
    } finally {
      busy(button, false);
    }
  }

  #show() {
    const { share } = this.current();
    this.link.value = share ? location.origin + share : "";
    $("[data-share-made]", this.dialog).hidden = this.revoke.hidden = !share;
    this.make.hidden = Boolean(share);
  }
}
