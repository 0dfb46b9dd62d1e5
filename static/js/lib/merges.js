// Merging an adapter into its base model: begin, watch, cancel, fetch, delete.
import { busy } from "./adapter.js";
import { get, post, request } from "./api.js";
import { $, el, icon } from "./dom.js";
import { fill, gettext, percent } from "./i18n.js";
import { bytes } from "./units.js";

const WATCH_MS = 1500;
const CALL = "/api/lora/merges";
const STATES = {
  running: gettext("Merging…"),
  done: gettext("Merged model"),
  failed: gettext("Merging failed"),
  cancelled: gettext("Cancelled"),
};

export function merges(form) {
  const list = $("[data-merges]", form);
  const go = $("[data-merge-go]", form);
  const problem = $("[data-merge-error]", form);
  let timer = 0;

  function say(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const { results } = await get(`${form.dataset.url}?page_size=10`);
      draw(list, results, remove);
      const running = results.some((merge) => merge.state === "running");
      go.disabled = running;
      if (running) timer = setTimeout(refresh, WATCH_MS);
    } catch (error) {
      say(error.message);
      timer = setTimeout(refresh, 4 * WATCH_MS);
    }
  }

  async function remove(merge, button) {
    busy(button, true);
    say("");
    try {
      await request("DELETE", `${CALL}/${merge.id}`);
    } catch (error) {
      say(error.message);
      busy(button, false);
    }
    await refresh();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    busy(go, true);
    say("");
    try {
      await post(form.dataset.url, { dtype: form.elements.dtype.value });
      await refresh();
    } catch (error) {
      say(error.message);
    } finally {
      go.removeAttribute("aria-busy");
      if (!problem.hidden) go.disabled = false;
    }
  });
  refresh();
}

/** Rows that are the same stay, so that focus stays where it is. */
function draw(list, results, remove) {
  const before = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const rows = results.map((merge) => {
    const key = `${merge.id}-${merge.state}`;
    const row = before.get(key) ?? rowOf(merge, key, remove);
    if (merge.state === "running") {
      $("progress", row).value = merge.progress;
      $("[data-share]", row).textContent = percent(merge.progress);
    }
    return row;
  });
  if (rows.length !== list.children.length || rows.some((row, index) => row !== list.children[index])) list.replaceChildren(...rows);
}

function rowOf(merge, key, remove) {
  const running = merge.state === "running";
  const name = fill(gettext("%(adapter)s merged into %(base)s"), { adapter: merge.adapter_name, base: merge.base });
  const words = running ? gettext("Cancel") : gettext("Delete");
  const end = el("button", { type: "button", className: "btn btn-quiet btn-sm btn-icon ml-auto", "aria-label": `${words}: ${name}`, title: words }, icon(running ? "xmark" : "trash-can"));
  end.addEventListener("click", () => remove(merge, end));
  const head = [el("span", { className: "font-medium", title: name }, STATES[merge.state])];
  if (merge.state === "done") head.push(el("span", { className: "num text-ink-2" }, `${merge.dtype === "fp32" ? "fp32 · " : ""}${bytes(merge.size_bytes)}`));
  const parts = [el("div", { className: "flex items-center gap-2 text-sm" }, ...head, end)];
  if (running) {
    parts.push(el("div", { className: "flex items-center gap-2" }, el("progress", { className: "progress", max: 1, value: merge.progress, "aria-label": gettext("Merge progress") }), el("span", { className: "num text-xs text-ink-2", dataset: { share: "" } })));
  }
  if (merge.state === "done") {
    parts.push(el("a", { className: "btn btn-sm", href: `${CALL}/${merge.id}/download`, download: "", dataset: { testid: "merge-download" } }, icon("download"), gettext("Download the model")));
  }
  if (merge.failure) parts.push(el("p", { className: "text-sm break-words" }, merge.failure.message));
  return el("li", { className: "flex flex-col gap-2", dataset: { key, state: merge.state, testid: "merge" } }, ...parts);
}
