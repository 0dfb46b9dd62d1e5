// Adapters imported by name from a hub: begin, watch, cancel, try again. It goes on while the dialog is closed.
import { busy } from "./adapter.js";
import { get, post, request } from "./api.js";
import { $, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { toast } from "./toast.js";
import { bytes } from "./units.js";

const WATCH_MS = 1000;
const SHOWN = 10;
const STATES = { done: gettext("Imported"), failed: gettext("Import failed"), cancelled: gettext("Cancelled") };

/** `form`: to which the section's fields belong. `finished`: called when adapters have arrived. */
export function imports(section, form, finished) {
  const list = $("[data-imports]", section);
  const go = $("[data-import-go]", section);
  const problem = $("[data-import-error]", section);
  const { repo, revision } = form.elements;
  const url = section.dataset.url;
  let running = new Set();
  let timer = 0;

  function say(text, param = null) {
    problem.textContent = text;
    problem.hidden = !text;
    for (const field of [repo, revision]) {
      if (field.name === param) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
    if (param) form.elements[param]?.focus();
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const { results } = await get(`${url}?page_size=${SHOWN}`);
      draw(list, results, { remove, again });
      for (const one of results) if (running.has(one.id) && one.state !== "running") ended(one);
      running = new Set(results.filter((one) => one.state === "running").map((one) => one.id));
      if (running.size) timer = setTimeout(refresh, WATCH_MS);
    } catch {
      timer = setTimeout(refresh, 5 * WATCH_MS);
    }
  }

  function ended(one) {
    const words = one.state === "done" ? fill(gettext("%(name)s was imported"), { name: one.repo }) : STATES[one.state];
    $("[data-import-status]", section).textContent = words;
    if (one.state !== "done") return;
    if (!section.closest("dialog").open) toast("good", words);
    finished();
  }

  async function begin(body) {
    say("");
    busy(go, true);
    try {
      await post(url, body);
      await refresh();
      return true;
    } catch (error) {
      say(error.message, error.param);
      return false;
    } finally {
      busy(go, false);
    }
  }

  async function remove(one, button) {
    busy(button, true);
    say("");
    try {
      await request("DELETE", `${url}/${one.id}`);
    } catch (error) {
      say(error.message);
      busy(button, false);
    }
    await refresh();
    repo.focus();
  }

  async function again(one) {
    if (await begin({ repo: one.repo, revision: one.revision })) request("DELETE", `${url}/${one.id}`).then(refresh, () => {});
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = { repo: repo.value.trim() };
    if (revision.value.trim()) asked.revision = revision.value.trim();
    if (await begin(asked)) form.reset();
  });
  refresh();
}

/** Rows that are the same stay, so that focus stays where it is. */
function draw(list, results, actions) {
  const before = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const rows = results.map((one) => {
    const key = `${one.id}-${one.state}-${one.adapters.length}`;
    const row = before.get(key) ?? rowOf(one, key, actions);
    if (one.state === "running") {
      const known = one.size_bytes > 0;
      $("progress", row).value = known ? one.received_bytes / one.size_bytes : 0;
      $("[data-share]", row).textContent = known ? fill(gettext("%(sent)s of %(size)s"), { sent: bytes(one.received_bytes), size: bytes(one.size_bytes) }) : gettext("Asking the hub…");
    }
    return row;
  });
  if (rows.length !== list.children.length || rows.some((row, index) => row !== list.children[index])) list.replaceChildren(...rows);
}

function rowOf(one, key, { remove, again }) {
  const running = one.state === "running";
  const words = running ? gettext("Cancel") : gettext("Remove from the list");
  const end = el("button", { type: "button", className: "btn btn-quiet btn-sm btn-icon ml-auto", "aria-label": `${words}: ${one.repo}`, title: words }, icon("xmark"));
  end.addEventListener("click", () => remove(one, end));
  const at = one.commit ? one.commit.slice(0, 12) : one.revision;
  const head = el("div", { className: "flex items-center gap-2 text-sm" }, el("span", { className: "min-w-0 truncate font-medium", title: one.repo }, one.repo), el("code", { className: "code shrink-0", title: one.commit || one.revision }, at), end);
  const parts = [head];
  if (running) {
    parts.push(el("div", { className: "flex items-center gap-2" }, el("progress", { className: "progress min-w-0 grow", max: 1, value: 0, "aria-label": fill(gettext("Import of %(name)s"), { name: one.repo }) }), el("span", { className: "num text-xs whitespace-nowrap text-ink-2", dataset: { share: "" } })));
  } else {
    const links = one.adapters.map((adapter) => el("a", { className: "link break-words", href: `/models/${adapter.id}` }, adapter.name));
    parts.push(el("p", { className: "flex flex-wrap gap-x-2 text-sm text-ink-2" }, STATES[one.state], ...links));
  }
  if (one.failure) parts.push(el("p", { className: "text-sm break-words" }, el("code", { className: "code mr-1.5" }, one.failure.code), one.failure.message));
  if (one.state === "failed" || one.state === "cancelled") {
    const retry = el("button", { type: "button", className: "btn btn-sm self-start" }, icon("arrows-rotate"), gettext("Try again"));
    retry.addEventListener("click", () => again(one));
    parts.push(retry);
  }
  return el("li", { className: "flex flex-col gap-2", dataset: { key, state: one.state, testid: "import-row" } }, ...parts);
}
