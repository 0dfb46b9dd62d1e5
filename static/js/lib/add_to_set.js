// "Add to a prompt set": a question, perhaps with an answer as its reference, goes into a set that is chosen or named.
import { get, post } from "./api.js";
import { $, el } from "./dom.js";
import { gettext } from "./i18n.js";
import { toast } from "./toast.js";

const API = "/api/evaluations/sets";
const LISTED = 200;
const LAST = "prompt-set"; // what was chosen last in this tab

/** `asked`: {messages} or {prompt}; `answers`: [{name, text}], of which one may become the reference. */
export async function addToSet(asked, answers) {
  if ($("dialog[open]")) return;
  const { results } = await get(`${API}?page_size=${LISTED}`);
  const mine = results.filter((one) => one.mine);
  const select = el("select", { className: "select", id: "to-set-select", name: "set", dataset: { testid: "to-set-select" } }, ...mine.map((one) => el("option", { value: one.id }, one.name)), el("option", { value: "" }, gettext("A new set…")));
  const last = sessionStorage.getItem(LAST);
  if (mine.some((one) => String(one.id) === last)) select.value = last;
  const name = el("input", { className: "input", name: "name", maxLength: 120, id: "to-set-name", dataset: { testid: "to-set-name" } });
  const named = el("div", { className: "field" }, el("label", { className: "label", htmlFor: "to-set-name" }, gettext("Name")), name);
  const reference = el("select", { className: "select", id: "to-set-reference", dataset: { testid: "to-set-reference" } }, el("option", { value: "" }, gettext("none")), ...answers.map((one, place) => el("option", { value: place }, one.name.slice(0, 60))));
  if (answers.length === 1) reference.value = "0";
  const equals = el("input", { className: "checkbox", type: "checkbox" });
  const check = el("label", { className: "flex items-center gap-2 text-sm" }, equals, gettext("Other answers must contain the reference"));
  const problem = el("p", { className: "field-error", role: "alert", hidden: true });
  const cancel = el("button", { type: "button", className: "btn btn-quiet" }, gettext("Cancel"));
  const form = el(
    "form",
    { method: "dialog", noValidate: true },
    el("div", { className: "flex flex-col gap-4 p-5" },
      el("h2", { id: "to-set-title" }, gettext("Add to a prompt set")),
      el("div", { className: "field" }, el("label", { className: "label", htmlFor: "to-set-select" }, gettext("Prompt set")), select),
      named,
      el("div", { className: "field", hidden: !answers.length }, el("label", { className: "label", htmlFor: "to-set-reference" }, gettext("Reference answer")), reference),
      check,
      problem,
    ),
    el("div", { className: "dialog-foot" }, cancel, el("button", { className: "btn btn-primary", dataset: { testid: "to-set-add" } }, gettext("Add"))),
  );
  const dialog = el("dialog", { className: "dialog", "aria-labelledby": "to-set-title", dataset: { testid: "to-set" } }, form);
  const show = () => {
    named.hidden = select.value !== "";
    check.hidden = reference.value === "";
  };
  select.addEventListener("change", show);
  reference.addEventListener("change", show);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const item = { ...asked };
    if (reference.value !== "") {
      item.reference = answers[Number(reference.value)].text;
      if (equals.checked) item.checks = [{ kind: "contains" }];
    }
    try {
      let id = select.value;
      if (id) await post(`${API}/${id}/items`, { items: [item] });
      else ({ id } = await post(API, { name: name.value, items: [item] }));
      sessionStorage.setItem(LAST, id);
      dialog.close();
      toast("good", gettext("Added to the prompt set"));
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  });
  document.body.append(dialog);
  show();
  dialog.showModal();
}
