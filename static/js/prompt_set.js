// The editor of a prompt set: its items with their checks, files, and what the set is called.
import { post, request } from "./lib/api.js";
import { $, $$, data } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { ItemForm } from "./lib/item_form.js";
import { failed, toastLater } from "./lib/toast.js";

const id = $("[data-set]").dataset.set;
const API = `/api/evaluations/sets/${id}`;
const contents = data("contents");

function again(message) {
  toastLater("good", message);
  location.reload();
}

/** A dialog's form: `send` what it holds; a refusal is told in it. */
function sends(form, send) {
  const problem = form && $("[data-problem]", form);
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (problem) problem.hidden = true;
    try {
      await send(form.elements);
    } catch (error) {
      if (!problem) return failed(error);
      problem.textContent = error.message;
      problem.hidden = false;
      problem.scrollIntoView({ block: "nearest" });
    }
  });
}

const dialog = $("#item-dialog");
if (dialog) {
  const items = new ItemForm(dialog, data("kinds"), data("most-checks"));
  sends($("[data-item-form]"), async () => {
    const item = items.read();
    if (items.number === null) await post(`${API}/items`, { items: [item] });
    else await request("PUT", `${API}/items/${items.number}`, item);
    again(gettext("Saved"));
  });
  $("[data-add]")?.addEventListener("click", () => items.open(null, { messages: [{ role: "user", content: "" }] }));
  $("[data-items]")?.addEventListener("click", async ({ target }) => {
    const number = target.closest("[data-number]")?.dataset.number;
    if (target.closest("[data-edit]")) items.open(Number(number), contents[number]);
    else if (target.closest("[data-remove]")) {
      await request("DELETE", `${API}/items/${number}`).then(() => again(gettext("Removed. Earlier versions still have the item.")), failed);
    }
  });
}

sends($("[data-import]"), async ({ file, equals, loss }) => {
  if (!file.files[0]) throw new Error(gettext("Choose a file first."));
  const body = { text: await file.files[0].text(), checks: [...(equals.checked ? [{ kind: "equals" }] : []), ...(loss.checked ? [{ kind: "loss" }] : [])] };
  const { added } = await post(`${API}/import`, body);
  again(fill(ngettext("%(n)s item imported", "%(n)s items imported", added), { n: number(added) }));
});
sends($("[data-settings]"), async ({ name, description, shared }) => {
  await request("PATCH", API, { name: name.value, description: description.value, shared: shared.checked });
  again(gettext("Saved"));
});
sends($("[data-delete]"), async () => {
  await request("DELETE", API);
  toastLater("good", gettext("Deleted"));
  location.assign("/evaluations/sets");
});
for (const select of $$("[data-version]")) select.addEventListener("change", () => select.form.requestSubmit());
document.documentElement.dataset.ready = "true";
