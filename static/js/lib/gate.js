// A gate holds an adapter back: the reason why it is activated all the same, and a new judgement.
import { post } from "./api.js";
import { el } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { failed } from "./toast.js";

const OBJECTIONS = new Set(["gate_waiting", "gate_below_bar", "gate_worse", "gate_unjudged"]);
const MOST_CHARS = 500;

export const isObjection = (error) => OBJECTIONS.has(error.code);

/** Ask why `name` is to be activated though a gate objects. Resolves to the reason, or null where there is none. */
export function askReason(name, objection) {
  const reason = el("textarea", { className: "textarea", id: "override-reason", rows: 2, maxLength: MOST_CHARS, required: true, dataset: { testid: "override-reason" } });
  const go = el("button", { className: "btn btn-danger", disabled: true, dataset: { testid: "override-go" } }, gettext("Activate anyway"));
  const cancel = el("button", { className: "btn btn-quiet", type: "button" }, gettext("Cancel"));
  const label = el("label", { className: "label", htmlFor: "override-reason" }, gettext("Reason, which the history keeps"));
  const title = el("h2", { id: "override-title" }, fill(gettext("A gate objects to %(name)s"), { name }));
  const form = el("form", { method: "dialog" }, el("div", { className: "flex flex-col gap-4 p-5" }, title, el("p", { className: "text-sm text-ink-2" }, objection), el("div", { className: "field" }, label, reason)), el("div", { className: "dialog-foot" }, cancel, go));
  const dialog = el("dialog", { className: "dialog", "aria-labelledby": "override-title", dataset: { testid: "override-dialog" } }, form);
  reason.addEventListener("input", () => {
    go.disabled = !reason.value.trim();
  });
  cancel.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
  return new Promise((resolve) => {
    let stated = null;
    form.addEventListener("submit", (event) => {
      if (!reason.value.trim()) return event.preventDefault();
      stated = reason.value.trim();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(stated);
    });
  });
}

/** Follow the buttons that have an adapter judged by a gate. */
export function judges() {
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-judge]");
    if (!button) return;
    button.disabled = true;
    try {
      await post(`/api/evaluations/gates/${button.dataset.judge}/verdicts`, { adapter: Number(button.dataset.adapter) });
      location.reload();
    } catch (error) {
      failed(error);
      button.disabled = false;
    }
  });
}
