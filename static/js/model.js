// The page of one adapter: actions, notes and tags in place.
import { busy, change, deletion } from "./lib/adapter.js";
import { get, request } from "./lib/api.js";
import { $ } from "./lib/dom.js";
import { judges } from "./lib/gate.js";
import { fill, gettext } from "./lib/i18n.js";
import { pickers } from "./lib/picker.js";
import { comparesRuns } from "./lib/run_compare.js";
import "./lib/tabs.js";
import { failed, toastLater } from "./lib/toast.js";

const name = $("[data-id]").dataset.name;

const merging = $("[data-merge]");
if (merging) import("./lib/merges.js").then(({ merges }) => merges(merging));

if ($("[data-markdown]")) import("./lib/markdown.js").then(({ drawMarkdown }) => drawMarkdown());

if ($("[data-training]")) import("./lib/training.js");

// The run's list is scrolled to this adapter.
const own = $("[data-run] [aria-current]");
if (own) own.closest("ul").scrollTop = own.offsetTop - own.closest("ul").offsetTop;

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

// What a repair changes, page by page -----------------------------------------------------------------------------

const more = $("[data-more-changes]");
more?.addEventListener("click", async () => {
  busy(more, true);
  try {
    const page = Number(more.dataset.page) + 1;
    const { results, next } = await get(`${more.dataset.url}?page=${page}&page_size=${more.dataset.size}`);
    for (const change of results) {
      const row = $("[data-change-row]").content.firstElementChild.cloneNode(true);
      $("[data-change-kind]", row).textContent = JSON.parse(more.dataset.kinds)[change.kind] ?? change.kind;
      $("[data-change-old]", row).textContent = change.old || "–";
      $("[data-change-new]", row).textContent = change.new || "–";
      $("[data-changes]").append(row);
    }
    more.dataset.page = page;
    more.hidden = !next;
  } catch (error) {
    failed(error);
  } finally {
    busy(more, false);
  }
});

comparesRuns();
judges();

// Notes and tags ---------------------------------------------------------------------------------------------------

const form = $("[data-edit]");
pickers();

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
