// The comparison page: one generate frame with several targets, a column each.
import { Column } from "./lib/column.js";
import { $, $$, data, el, icon } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import { fieldOf, Parameters } from "./lib/params.js";
import { csvCell, saveAs } from "./lib/save.js";
import { GenerateSocket } from "./lib/socket.js";
import { toast } from "./lib/toast.js";

const VOTES = "votes";
const MOST_VOTES = 500;
const form = $("[data-compare]");
if (form) start();

function start() {
  const socket = new GenerateSocket(form.dataset.socket);
  const parameters = new Parameters(form);
  const add = $("[data-add]");
  const reference = $("[data-reference]");
  const { prompt, system } = form.elements;
  const names = new Map([...add.options].filter((option) => option.value).map((option) => [option.value, option.textContent]));
  let chosen = data("chosen");
  let columns = new Map();
  let handle = null;
  let open = 0;
  let asked = null;

  // Which models ---------------------------------------------------------------------------------------------------

  function showChips() {
    const chips = chosen.map((slug) => {
      const name = names.get(slug);
      const remove = el("button", { type: "button", className: "chip-remove", "aria-label": fill(gettext("Remove %(name)s"), { name }), dataset: { remove: slug } }, icon("xmark"));
      return el("li", { className: "chip", dataset: { testid: "chip", slug } }, el("span", { className: "truncate" }, name), remove);
    });
    $("[data-chips]").replaceChildren(...chips);
    for (const option of add.options) option.disabled = chosen.includes(option.value);
    add.disabled = chosen.length >= Number(form.dataset.most);
    const address = new URL(location.href);
    address.search = chosen.length ? `?models=${chosen.map(encodeURIComponent).join(",")}` : "";
    history.replaceState(null, "", address);
    $('[data-error="targets"]').hidden = true;
  }

  add.addEventListener("change", () => {
    if (add.value) chosen.push(add.value);
    add.value = "";
    showChips();
  });

  // Answers --------------------------------------------------------------------------------------------------------

  function send() {
    if (open) return;
    parameters.clearAll();
    if (!chosen.length) return say("targets", gettext("Choose at least one model."));
    if (!prompt.value.trim()) return parameters.error("prompt", gettext("Write something first."));
    const params = parameters.read();
    if (!params) return;
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    const blind = $("[data-blind]").checked && chosen.length > 1;
    const order = blind ? shuffled(chosen) : chosen;
    columns = new Map(order.map((slug, index) => [slug, new Column(slug, names.get(slug), blind ? String.fromCharCode(65 + index) : null)]));
    $("[data-columns]").replaceChildren(...[...columns.values()].map((column) => column.element));
    $("[data-results]").hidden = false;
    showReference(order, blind);
    asked = { prompt: prompt.value, system: system.value, params };
    open = order.length;
    working(true);
    handle = socket.generate(
      { targets: order, messages, params },
      {
        queued: (frame) => columns.get(frame.target).queued(frame),
        loading: (frame) => columns.get(frame.target).loading(frame),
        token: (frame) => columns.get(frame.target).token(frame),
        done: (frame) => ended(columns.get(frame.target).finish(frame)),
        error(frame) {
          columns.get(frame.target).fail(frame);
          const field = fieldOf(frame.param);
          if (field) parameters.error(field, frame.message);
          ended();
        },
      },
    );
  }

  function ended() {
    open -= 1;
    markAll();
    if (open) return;
    handle = null;
    working(false);
  }

  function working(on) {
    $("[data-stop]").hidden = !on;
    $("[data-send]").disabled = on;
  }

  function say(name, message) {
    const line = $(`[data-error="${name}"]`);
    line.textContent = message;
    line.hidden = false;
  }

  function showReference(order, blind) {
    const before = reference.value;
    const options = order.map((slug) => el("option", { value: slug }, blind ? columns.get(slug).label : names.get(slug)));
    reference.replaceChildren(el("option", { value: "" }, gettext("nothing")), ...options);
    reference.value = order.includes(before) && !blind ? before : "";
  }

  function markAll() {
    const to = columns.get(reference.value);
    for (const column of columns.values()) column.mark(to?.final === undefined ? null : to);
  }

  // Choices and export -----------------------------------------------------------------------------------------------

  const votes = () => JSON.parse(localStorage.getItem(VOTES) ?? "[]");

  function vote(slug) {
    const best = columns.get(slug);
    for (const column of columns.values()) {
      column.reveal();
      column.chosen(column === best);
    }
    for (const option of reference.options) if (option.value) option.textContent = names.get(option.value);
    const side = (column) => ({ model: column.slug, digest: column.done?.digest ?? null, text: column.text });
    const pairs = [...columns.values()].filter((column) => column !== best && column.done).map((column) => ({ ...asked, chosen: side(best), rejected: side(column) }));
    const kept = votes().filter((pair) => pair.run !== asked.run);
    asked.run ??= Date.now();
    const all = [...kept, ...pairs.map((pair) => ({ ...pair, run: asked.run }))].slice(-MOST_VOTES);
    localStorage.setItem(VOTES, JSON.stringify(all));
    showVotes();
    toast("good", fill(gettext("%(name)s is your choice"), { name: best.name }), gettext("Kept in this browser; export it as preference pairs."));
  }

  function showVotes() {
    $("[data-votes]").textContent = votes().length || "";
  }

  function exportAs(kind) {
    if (kind === "jsonl") {
      const lines = votes().map(({ run, ...pair }) => JSON.stringify(pair));
      if (!lines.length) return toast("info", gettext("Choose the best answer of a comparison first."));
      return saveAs("preferences.jsonl", `${lines.join("\n")}\n`, "application/x-ndjson");
    }
    const head = ["model", "digest", "prompt", "answer", "completion_tokens", "ttft_s", "total_s", "tokens_per_second", "finish_reason"];
    const rows = [...columns.values()].map((column) => {
      const { digest, usage, timings, finish_reason } = column.done ?? {};
      return [column.slug, digest, asked.prompt, column.text, usage?.completion_tokens, timings?.ttft, timings?.total, timings?.tokens_per_second, finish_reason];
    });
    saveAs("comparison.csv", `\ufeff${[head, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n")}\r\n`, "text/csv");
  }

  // Events -----------------------------------------------------------------------------------------------------------

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") handle?.stop();
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if ("remove" in button.dataset) {
      chosen = chosen.filter((slug) => slug !== button.dataset.remove);
      showChips();
    } else if ("vote" in button.dataset) vote(button.dataset.vote);
    else if ("export" in button.dataset) exportAs(button.dataset.export);
    else if ("stop" in button.dataset) handle?.stop();
    else if ("permalink" in button.dataset) navigator.clipboard?.writeText(location.href).then(() => toast("good", gettext("Link copied")));
    else if ("toggleParameters" in button.dataset) {
      const hidden = $("[data-parameters]").classList.toggle("max-lg:hidden");
      button.setAttribute("aria-expanded", String(!hidden));
    }
  });
  reference.addEventListener("change", markAll);
  if ($$("[data-mod]").length === 0) prompt.title = gettext("Ctrl+Enter sends");
  showChips();
  showVotes();
  document.documentElement.dataset.ready = "true";
}

function shuffled(list) {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}
