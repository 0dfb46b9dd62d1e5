// The gates: a new one, a changed one, one that is deleted.
import { busy } from "./lib/adapter.js";
import { post, request } from "./lib/api.js";
import { $ } from "./lib/dom.js";
import { gettext } from "./lib/i18n.js";
import { failed, toastLater } from "./lib/toast.js";

const API = "/api/evaluations/gates";
const form = $("[data-gate-form]");

if (form) {
  const { kind, name, prompts, least, not_worse: notWorse, max_tokens: tokens, webhook } = form.elements;
  const offer = () => name.setAttribute("list", `gate-${kind.value}-names`);
  kind.addEventListener("change", offer);
  offer();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const save = $("[data-testid=gate-save]", form);
    const problem = $("[data-problem]", form);
    problem.hidden = true;
    busy(save, true);
    try {
      if (!name.value.trim()) throw new Error(gettext("Enter a name first."));
      const body = { kind: kind.value, name: name.value, prompts: Number(prompts.value), least: least.value === "" ? null : Number(least.value) / 100, not_worse: notWorse.checked, max_tokens: Number(tokens.value), webhook: webhook.value.trim() };
      const gate = await (form.dataset.gate ? request("PATCH", `${API}/${form.dataset.gate}`, body) : post(API, body));
      location.assign(`/evaluations/gates/${gate.id}`);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      busy(save, false);
    }
  });
}

$("[data-gate-delete]")?.addEventListener("submit", async ({ target }) => {
  try {
    await request("DELETE", `${API}/${target.dataset.gate}`);
    toastLater("good", gettext("Deleted"));
    location.assign("/evaluations/gates");
  } catch (error) {
    failed(error);
  }
});
document.documentElement.dataset.ready = "true";
