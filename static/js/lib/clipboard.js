// `navigator.clipboard` exists on https and localhost alone; a portal in a local network often has neither.
import { $$, el } from "./dom.js";
import { gettext } from "./i18n.js";
import { toast } from "./toast.js";

export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Permission refused: the older way may still work.
    }
  }
  const field = el("textarea", { value: text, className: "fixed top-0 -left-[999rem]", readOnly: true });
  const before = document.activeElement;
  ($$("dialog[open]").at(-1) ?? document.body).append(field); // outside of an open dialog nothing takes the focus
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus({ preventScroll: true });
  return done;
}

/** Copy the address of something, and say so. */
export async function copyLink(address) {
  if (await copyText(address)) toast("good", gettext("Link copied"));
  else toast("bad", gettext("The browser does not allow this page to copy."));
}
