// Short notices in the corner. Good ones leave by themselves; bad ones stay until closed.
import { $, el, icon } from "./dom.js";
import { gettext } from "./i18n.js";

const ICONS = { good: "circle-check", bad: "circle-exclamation", info: "circle-info" };
const STAY = 6000;
const MOST = 4;

export function toast(kind, title, detail = "") {
  const region = $("[data-toasts]");
  const close = el("button", { className: "btn btn-quiet btn-sm btn-icon -my-1 -mr-1.5 ml-auto", type: "button" });
  close.setAttribute("aria-label", gettext("Close"));
  close.append(icon("xmark"));
  const text = el("div", { className: "min-w-0" }, el("p", { className: "line-clamp-4 font-medium" }, title));
  if (detail) text.append(el("p", { className: "mt-0.5 line-clamp-10 text-xs whitespace-pre-line text-ink-2" }, detail));
  const box = el(
    "div",
    { className: `toast toast-${kind}`, role: kind === "bad" ? "alert" : "status", dataset: { testid: "toast", kind } },
    icon(ICONS[kind]),
    text,
    close,
  );
  close.addEventListener("click", () => box.remove());
  region.append(box);
  while (region.children.length > MOST) region.firstElementChild.remove();
  if (kind !== "bad") expire(box);
  return box;
}

function expire(box) {
  let timer = setTimeout(() => box.remove(), STAY);
  const hold = () => clearTimeout(timer);
  const release = () => {
    timer = setTimeout(() => box.remove(), STAY / 2);
  };
  box.addEventListener("pointerenter", hold);
  box.addEventListener("pointerleave", release);
  box.addEventListener("focusin", hold);
  box.addEventListener("focusout", release);
}

export const failed = (error, title) => toast("bad", title ?? error.message, title ? error.message : (error.code ?? ""));

const LATER = "toast";

/** A toast for the next page of this tab. */
export function toastLater(...words) {
  sessionStorage.setItem(LATER, JSON.stringify(words));
}

export function showWaiting() {
  const words = sessionStorage.getItem(LATER);
  sessionStorage.removeItem(LATER);
  if (words) toast(...JSON.parse(words));
}
