// A new parity report: the trainer's samples, pasted or as a file, become a prompt set.
import { busy } from "./lib/adapter.js";
import { post, request } from "./lib/api.js";
import { $, $$ } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";

const SETS = "/api/evaluations/sets";
const form = $("[data-new-parity]");

/** Id of a new set that holds the text. */
async function setOf(text, name) {
  const now = new Date().toISOString().slice(0, 19).replace("T", " ");
  const title = fill(gettext("%(name)s, evaluation samples"), { name: name.slice(0, 60) });
  const made = await post(SETS, { name: `${title} ${now}` });
  try {
    await post(`${SETS}/${made.id}/import`, { text });
  } catch (error) {
    await request("DELETE", `${SETS}/${made.id}`); // a file comes whole or not at all, its set likewise
    throw error;
  }
  return made.id;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { text, file, prompts } = form.elements;
  const button = $("[data-testid=parity-start]", form);
  const problem = $("[data-problem]", form);
  problem.hidden = true;
  busy(button, true);
  try {
    const given = text.value.trim() || (file.files[0] ? await file.files[0].text() : "");
    if (!given && !prompts?.value) throw new Error(gettext("Paste samples, or choose a file or a prompt set first."));
    const precisions = $$("[name=precisions]:checked", form).map((box) => box.value);
    const id = given ? await setOf(given, form.dataset.name) : Number(prompts.value);
    const made = await post("/api/evaluations/parity", { adapter: form.dataset.slug, prompts: id, precisions });
    location.assign(`/evaluations/parity/${made.id}`);
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    busy(button, false);
  }
});
document.documentElement.dataset.ready = "true";
