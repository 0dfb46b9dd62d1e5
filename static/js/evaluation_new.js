// A new run: a prompt set, and the models that are asked.
import { busy } from "./lib/adapter.js";
import { post } from "./lib/api.js";
import { nameOf } from "./lib/choices.js";
import { $, cutName, data, el, icon } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { pickers } from "./lib/picker.js";

const form = $("[data-new-run]");
if (form) start();
document.documentElement.dataset.ready = "true";

function start() {
  const chosen = new Map();
  const most = data("most");
  const problem = $("[data-problem]", form);
  const names = new Map(data("known").map((one) => [one.slug, one]));
  const select = form.elements.model;

  function say(message) {
    problem.textContent = message;
    problem.hidden = !message;
  }

  function show() {
    const chips = [...chosen].map(([slug, { name, active }]) => {
      const label = fill(gettext("Remove %(name)s"), { name });
      const remove = el("button", { type: "button", className: "chip-button", "aria-label": label, title: label }, icon("xmark"));
      remove.addEventListener("click", () => {
        chosen.delete(slug);
        show();
      });
      const state = active ? null : el("span", { className: "tag tag-warn" }, gettext("inactive"));
      return el("li", { className: "chip", dataset: { testid: "run-target", slug } }, cutName(name), state, remove);
    });
    $("[data-chosen]", form).replaceChildren(...chips);
    $("[data-count]", form).textContent = number(chosen.size);
    $("[data-none]", form).hidden = chosen.size > 0;
    const questions = Number(form.elements.prompts.selectedOptions[0].dataset.items) * chosen.size;
    $("[data-size]", form).textContent = questions ? fill(ngettext("%(n)s question", "%(n)s questions", questions), { n: number(questions) }) : "";
  }

  function add(slug, one) {
    if (chosen.size >= most) return say(fill(gettext("At most %(n)s models."), { n: number(most) }));
    say("");
    chosen.set(slug, one);
    show();
  }

  for (const slug of data("chosen")) {
    const option = select && [...select.options].find((one) => one.value === slug);
    const known = names.get(slug) ?? (option && { name: nameOf(option), active: true });
    if (known) add(slug, known);
  }
  if ([...chosen.values()].some((one) => !one.active) && form.elements.activates) form.elements.activates.checked = true;
  $("[data-add-model]", form)?.addEventListener("click", () => {
    const option = select.selectedOptions[0];
    if (option) add(option.value, { name: nameOf(option), active: true });
  });
  form.elements.prompts.addEventListener("change", show);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!chosen.size) return say(gettext("Add a model first."));
    const { prompts, max_tokens: tokens, temperature, activates, shared } = form.elements;
    const body = { prompts: Number(prompts.value), targets: [...chosen.keys()], params: { max_tokens: Number(tokens.value), temperature: Number(temperature.value) }, activates: Boolean(activates?.checked), shared: shared.checked };
    const button = $("[data-testid=run-start]", form);
    busy(button, true);
    try {
      const run = await post("/api/evaluations/runs", body);
      location.assign(`/evaluations/runs/${run.id}`);
    } catch (error) {
      say(error.message);
      busy(button, false);
    }
  });
  show();
  pickers(form);
}
