// `navigator.clipboard` exists on https and localhost alone; a portal in a local network often has neither.
import { el } from "./dom.js";

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
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
