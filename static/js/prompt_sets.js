// The list of prompt sets: a new one, perhaps from a file.
import { post, request } from "./lib/api.js";
import { $ } from "./lib/dom.js";
import { gettext } from "./lib/i18n.js";

const form = $("[data-new-set]");
const problem = $("[data-problem]", form);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const { name, description, file } = form.elements;
  try {
    if (!name.value.trim()) throw new Error(gettext("Enter a name first."));
    const text = file.files[0] ? await file.files[0].text() : null;
    const made = await post("/api/evaluations/sets", { name: name.value, description: description.value });
    try {
      if (text !== null) await post(`/api/evaluations/sets/${made.id}/import`, { text });
    } catch (error) {
      await request("DELETE", `/api/evaluations/sets/${made.id}`); // a file comes whole or not at all, its set likewise
      throw error;
    }
    location.assign(`/evaluations/sets/${made.id}`);
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
});
document.documentElement.dataset.ready = "true";
