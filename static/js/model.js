// The page of one adapter: curves, actions, notes and tags in place.
import { busy, change, deletion } from "./lib/adapter.js";
import { request } from "./lib/api.js";
import { lineChart } from "./lib/chart.js";
import { $, $$, data, el } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import "./lib/tabs.js";
import { toastLater } from "./lib/toast.js";

const name = $("[data-id]").dataset.name;

// Curves -----------------------------------------------------------------------------------------------------------

const curve = data("curve") ?? [];
const pointsOf = (key) => curve.filter((point) => Number.isFinite(point[key])).map((point) => [point.step, point[key]]);

function draw(box, named) {
  const series = named.map(([key, title]) => ({ name: title, points: pointsOf(key) })).filter((one) => one.points.length > 1);
  const figure = box.closest("figure");
  if (!series.length) return figure.remove();
  const last = series.map((one) => `${one.name} ${one.points.at(-1)[1]}`).join(", ");
  lineChart(box, series, fill(gettext("%(title)s by training step; at the end: %(last)s"), { title: $("figcaption", figure).firstChild.data.trim(), last }));
  const legend = $(".legend", figure);
  if (legend && series.length > 1) legend.append(...series.map((one, index) => el("span", { className: `key-${index}` }, one.name)));
}

for (const box of $$("[data-chart]")) {
  if (box.dataset.chart === "loss") draw(box, [["loss", gettext("training")], ["eval_loss", gettext("evaluation")]]);
  else draw(box, [["learning_rate", gettext("learning rate")]]);
}

// Actions ----------------------------------------------------------------------------------------------------------

const dialog = $("#delete-dialog");
const openDelete =
  dialog &&
  deletion(dialog, (gone) => {
    toastLater("good", fill(gettext("%(name)s was deleted"), { name: gone }));
    location.assign("/models");
  });

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("delete" in button.dataset) openDelete(button);
  else if ("action" in button.dataset) {
    busy(button, true);
    const words = await change(button, name);
    if (words) toastLater("good", ...words);
    else await new Promise((resolve) => setTimeout(resolve, 2500)); // long enough to read before the page shows why
    location.reload();
  }
});

// Notes and tags ---------------------------------------------------------------------------------------------------

const form = $("[data-edit]");

function read() {
  const value = (field) => form.elements[field].value;
  return {
    name: value("name").trim(),
    notes: value("notes"),
    tags: value("tags").split(/[,，]/).map((tag) => tag.trim()).filter(Boolean),
    base: value("base") || null,
  };
}

if (form) {
  let saved = read();
  const save = $("[data-edit-save]");
  const differs = () => Object.keys(saved).filter((key) => JSON.stringify(saved[key]) !== JSON.stringify(read()[key]));
  form.addEventListener("input", () => {
    save.disabled = differs().length === 0;
    $("[data-edit-state]").textContent = save.disabled ? "" : gettext("not saved");
  });
  // Leaving, and the reload after an activation, ask first.
  addEventListener("beforeunload", (event) => differs().length && event.preventDefault());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const now = read();
    const changed = differs();
    busy(save, true);
    const problem = $("[data-edit-error]");
    problem.hidden = true;
    try {
      await request("PATCH", form.dataset.url, Object.fromEntries(changed.map((key) => [key, now[key]])));
      saved = now;
      $("[data-edit-state]").textContent = gettext("saved");
      if (changed.includes("base") || changed.includes("name")) location.reload();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      busy(save, false);
      save.disabled = differs().length === 0;
    }
  });
}
document.documentElement.dataset.ready = "true";
