// Saving a blend as an adapter of its own: the dialog of the test page.
import { busy } from "./adapter.js";
import { post } from "./api.js";
import { $ } from "./dom.js";
import { fill, gettext, number } from "./i18n.js";

/** `blend`: what the page holds. The dialog tells what came of it. */
export function savesBlend(dialog, blend) {
  const form = $("form", dialog);
  const { name, method, rank } = form.elements;
  const go = $("[data-blend-go]", dialog);
  const problem = $("[data-blend-problem]", dialog);
  const done = $("[data-blend-done]", dialog);

  function showMethod() {
    $("[data-blend-rank]", dialog).hidden = method.value !== "svd";
    rank.required = method.value === "svd";
  }

  function say(line, text) {
    line.hidden = !text;
    $("p", line).textContent = text;
  }

  form.addEventListener("change", showMethod);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!form.reportValidity()) return;
    say(problem, "");
    $("[data-blend-made]", dialog).hidden = true;
    busy(go, true);
    const adapters = blend.adapters.map(({ id, weight }) => ({ id, weight }));
    const body = { name: name.value, adapters, method: method.value };
    try {
      const made = await post("/api/lora/blends", method.value === "svd" ? { ...body, rank: Number(rank.value) } : body);
      say(done, sentence(made));
      const link = $("[data-blend-made]", dialog);
      link.hidden = !made.adapter;
      if (made.adapter) link.href = `/models/${made.adapter.id}`;
      if (made.adapter) link.focus();
    } catch (error) {
      say(problem, error.message);
    } finally {
      busy(go, false);
    }
  });

  return () => {
    $("[data-blend-of]", dialog).textContent = blend.recipe;
    say(problem, "");
    say(done, "");
    $("[data-blend-made]", dialog).hidden = true;
    showMethod();
    dialog.showModal();
    name.focus();
  };
}

function sentence({ rank, error, scanned }) {
  const percent = (share) => `${number(100 * share, 2)} %`;
  const words = error
    ? fill(gettext("Saved with rank %(rank)s. Relative error: %(overall)s overall, %(worst)s in the worst layer (%(layer)s)."), { rank, overall: percent(error.overall), worst: percent(error.worst), layer: error.layer || "–" })
    : fill(gettext("Saved exactly, with rank %(rank)s."), { rank });
  return scanned ? words : `${words} ${gettext("The next scan will find it.")}`;
}
