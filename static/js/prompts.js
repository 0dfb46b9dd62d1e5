// The prompt library's pages: the list, where entries of others are copied, and the form of an entry.
import { busy } from "./lib/adapter.js";
import { get, post, request } from "./lib/api.js";
import { $, data } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import { fieldOf, Parameters } from "./lib/params.js";
import { failed, toastLater } from "./lib/toast.js";

const API = "/api/prompts";
const LIST = "/prompts";
const form = $("[data-entry]");
const entry = data("entry");
if (form) edit(form);

function edit(form) {
  const parameters = new Parameters(form);
  const { name, system, prompt, shared } = form.elements;
  if (entry) {
    if (name) name.value = entry.name;
    if (shared) shared.checked = entry.shared;
    [system.value, prompt.value] = [entry.system, entry.prompt];
    parameters.fill(entry.params);
  }
  const save = $("[data-entry-save]");
  if (!save) return;
  const state = () => JSON.stringify([...new FormData(form)]);
  let saved = state();
  addEventListener("beforeunload", (event) => state() !== saved && event.preventDefault());
  const problem = $("[data-entry-error]");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    parameters.clearAll();
    const params = parameters.read();
    if (!name.value.trim()) return parameters.error("name", gettext("Enter some text first."));
    if (!params) return;
    const values = { name: name.value, system: system.value, prompt: prompt.value, params, shared: shared.checked };
    busy(save, true);
    try {
      const kept = await (entry ? request("PATCH", `${API}/${entry.id}`, values) : post(API, values));
      saved = state();
      toastLater("good", fill(gettext("“%(name)s” saved"), { name: kept.name }));
      location.assign(LIST);
    } catch (error) {
      if (parameters.error(fieldOf(error.param), error.message)) return;
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      busy(save, false);
    }
  });

  $("[data-delete-entry]")?.addEventListener("submit", async () => {
    try {
      await request("DELETE", `${API}/${entry.id}`);
      saved = state();
      toastLater("good", fill(gettext("“%(name)s” deleted"), { name: entry.name }));
      location.assign(LIST);
    } catch (error) {
      failed(error, gettext("Not deleted"));
    }
  });
}

/** One's own copy of what somebody shares, opened to be changed. */
async function copy(button) {
  busy(button, true);
  try {
    const { name, system, prompt, params } = await get(`${API}/${button.dataset.copyEntry}`);
    const made = await post(API, { name, system, prompt, params });
    toastLater("good", gettext("A copy was saved. Only you can see it."));
    location.assign(`${LIST}/${made.id}`);
  } catch (error) {
    failed(error, gettext("Not copied"));
    busy(button, false);
  }
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-copy-entry]");
  if (button) copy(button);
});
document.documentElement.dataset.ready = "true";
