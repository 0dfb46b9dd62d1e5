// The comparison page: one generate frame with several targets, a column each.
import { VoteStore, newRun } from "./lib/vote_store.js";
import { copyText } from "./lib/clipboard.js";
import { Column } from "./lib/column.js";
import { firstDivergence } from "./lib/diff.js";
import { $, $$, data, el, icon } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { fieldOf, Parameters } from "./lib/params.js";
import { csvCell, saveAs } from "./lib/save.js";
import { GenerateSocket } from "./lib/socket.js";
import { toast } from "./lib/toast.js";
import { TokenColours } from "./lib/tokens.js";

const ALTERNATIVES = 5; // to each token, where probabilities are asked for
const CSV_HEAD = ["model", "digest", "prompt", "answer", "completion_tokens", "ttft_s", "total_s", "tokens_per_second", "finish_reason"];
const form = $("[data-compare]");
if (form) start();

function start() {
  const socket = new GenerateSocket(form.dataset.socket);
  const parameters = new Parameters(form);
  const add = $("[data-add]");
  const reference = $("[data-reference]");
  const { prompt, system } = form.elements;
  const names = new Map([...add.options].filter((option) => option.value).map((option) => [option.value, option.textContent]));
  const colours = new TokenColours($("[data-results]"));
  const voteStore = new VoteStore($("[data-ballot-state]"), (vote) => counted.add(vote.run) && showCount());
  const counted = new Set();
  let chosen = data("chosen");
  let columns = [];
  let handle = null;
  let asked = null; // what the columns answer: {run, prompt, system, params, blind}
  let view = "differences";

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

  function removeChip(slug) {
    const at = chosen.indexOf(slug);
    chosen = chosen.filter((other) => other !== slug);
    showChips();
    ($$(".chip-remove")[Math.min(at, chosen.length - 1)] ?? add).focus();
  }

  add.addEventListener("change", () => {
    if (add.value) chosen.push(add.value);
    add.value = "";
    showChips();
  });

  // Answers --------------------------------------------------------------------------------------------------------

  function send() {
    if (handle) return;
    parameters.clearAll();
    if (!chosen.length) return say("targets", gettext("Choose at least one model."));
    if (!prompt.value.trim()) return parameters.error("prompt", gettext("Write something first."));
    const params = parameters.read();
    if (!params) return;
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    const blind = $("[data-blind]").checked && chosen.length > 1;
    const order = blind ? shuffled(chosen) : chosen;
    const before = columnOf(reference.value)?.slug;
    asked = { run: newRun(), prompt: prompt.value, system: system.value, params, blind };
    columns = order.map((slug, index) => new Column(slug, names.get(slug), blind ? String.fromCharCode(65 + index) : null));
    $("[data-columns]").replaceChildren(...columns.map((column) => column.element));
    $("[data-results]").hidden = false;
    showReference(blind ? "" : before);
    working(true);
    const wanted = $("[data-logprobs]").checked ? { ...params, logprobs: ALTERNATIVES } : params;
    handle = socket.generate({ targets: order, messages, params: wanted }, handlers());
  }

  function handlers() {
    const bySlug = new Map(columns.map((column) => [column.slug, column]));
    const open = new Set(columns);
    const begun = new Set();
    const begin = (column) => {
      begun.add(column);
      if (begun.size < columns.length) return;
      for (const other of columns) open.has(other) ? other.release() : other.settle();
    };
    const end = (column) => {
      open.delete(column);
      begin(column);
      if (!column.held) column.settle();
      if (open.size === 0) ended();
      show();
    };
    return {
      queued: (frame) => bySlug.get(frame.target).queued(frame),
      loading: (frame) => bySlug.get(frame.target).loading(frame),
      token(frame) {
        const column = bySlug.get(frame.target);
        if (!begun.has(column)) begin(column);
        column.token(frame);
      },
      done(frame) {
        const column = bySlug.get(frame.target);
        column.finish(frame);
        end(column);
      },
      error(frame) {
        const column = bySlug.get(frame.target);
        column.fail(frame);
        const field = fieldOf(frame.param);
        if (field) parameters.error(field, frame.message);
        end(column);
      },
    };
  }

  function ended() {
    handle = null;
    const judgeable = columns.filter((column) => column.judgeable);
    if (judgeable.length < 2) reveal();
    else for (const column of judgeable) column.vote.disabled = false;
    view = columns.some((column) => column.tokens.length) ? "probabilities" : "differences";
    working(false);
  }

  function working(on) {
    $("[data-stop]").hidden = !on;
    $("[data-send]").disabled = on;
    $("[data-columns]").setAttribute("aria-busy", String(on));
    $("[data-verdicts]").hidden = on || columns.filter((column) => column.judgeable).length < 2;
    $("[data-views]").hidden = on || !columns.some((column) => column.tokens.length);
    if (on) {
      view = "differences";
      for (const button of $$("[data-verdict]")) button.setAttribute("aria-pressed", "false");
    }
    showBlind();
    show();
  }

  function say(name, message) {
    const line = $(`[data-error="${name}"]`);
    line.textContent = message;
    line.hidden = false;
  }

  // Differences and probabilities ----------------------------------------------------------------------------------

  const columnOf = (key) => columns.find((column) => column.key === key);

  function showReference(slug) {
    const options = columns.map((column) => el("option", { value: column.key }, column.label ?? column.name));
    reference.replaceChildren(el("option", { value: "" }, gettext("nothing")), ...options);
    reference.value = columns.some((column) => column.key === slug) ? slug : "";
  }

  function show() {
    const coloured = view === "probabilities";
    for (const button of $$("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    $("[data-token-legend]").hidden = !coloured;
    const whole = columns.filter((column) => column.final !== undefined && column.text);
    const parting = whole.length > 1 ? firstDivergence(...whole.map((column) => column.text)) : null;
    showAgreement(parting, whole.length);
    const to = columnOf(reference.value);
    for (const column of columns) {
      if (coloured && column.tokens.length) column.colour(colours);
      else column.mark(to?.final === undefined ? null : to, parting);
    }
  }

  function showAgreement(parting, count) {
    const line = $("[data-agreement]");
    const n = parting - 1;
    if (parting === null) line.textContent = "";
    else if (parting === 0) line.textContent = fill(gettext("All %(count)s answers are the same, word by word."), { count });
    else if (n === 0) line.textContent = fill(gettext("The %(count)s answers differ from the first word."), { count });
    else line.textContent = fill(ngettext("All %(count)s answers agree in their first word, then they part.", "All %(count)s answers agree up to word %(n)s, then they part.", n), { count, n: number(n) });
  }

  function setView(wanted) {
    view = wanted;
    show();
  }

  // Choices and export ---------------------------------------------------------------------------------------------

  function vote(verdict, key = null) {
    const judged = columns.filter((column) => column.judgeable);
    const candidates = judged.map(({ slug: model, name, done, text, key: own }) => ({ model, name, digest: done.digest, text, chosen: own === key }));
    for (const column of columns) column.chosen(column.key === key);
    for (const button of $$("[data-verdict]")) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    reveal();
    const { run, first, ...facts } = asked;
    const choice = `${verdict} ${key}`;
    asked.first ??= choice; // any other one was made with the names in sight
    const same = asked.first === choice;
    voteStore.cast(run, { ...facts, blind: asked.blind && same, verdict, candidates }, asked.blind && !same);
  }

  function reveal() {
    for (const column of columns) column.reveal();
    for (const option of reference.options) if (option.value) option.textContent = columnOf(option.value).name;
    showBlind();
  }

  function showBlind() {
    const hidden = columns.some((column) => column.blind);
    $("[data-export=csv]").disabled = hidden;
    $("[data-export=csv]").title = hidden ? gettext("It holds the names, which are shown once you have chosen.") : "";
  }

  function showCount() {
    const stored = Number(form.dataset.votes) + counted.size;
    $(".count[data-votes]").textContent = stored || "";
  }

  async function exportPairs(event) {
    event.preventDefault();
    await voteStore.save();
    if (!Number(form.dataset.votes) && !counted.size) return toast("info", gettext("Choose the best answer of a comparison first."));
    location.assign($("[data-pairs]").href);
  }

  function exportTable() {
    const rows = columns.map((column) => {
      const { digest, usage, timings, finish_reason } = column.done ?? {};
      return [column.slug, digest, asked.prompt, column.text, usage?.completion_tokens, timings?.ttft, timings?.total, timings?.tokens_per_second, finish_reason];
    });
    saveAs("comparison.csv", `\ufeff${[CSV_HEAD, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n")}\r\n`, "text/csv");
  }

  // Events ---------------------------------------------------------------------------------------------------------

  async function copyLink() {
    if (await copyText(location.href)) toast("good", gettext("Link copied"));
    else toast("bad", gettext("The browser does not let this page copy."));
  }

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
    const { remove, vote: key, verdict, view: wanted } = button.dataset;
    if (remove !== undefined) removeChip(remove);
    else if (key !== undefined) vote("best", key);
    else if (verdict) vote(verdict);
    else if (wanted) setView(wanted);
    else if ("export" in button.dataset) exportTable();
    else if ("stop" in button.dataset) handle?.stop();
    else if ("permalink" in button.dataset) copyLink();
    else if ("toggleParameters" in button.dataset) {
      const hidden = $("[data-parameters]").classList.toggle("max-lg:hidden");
      button.setAttribute("aria-expanded", String(!hidden));
    }
  });
  reference.addEventListener("change", () => setView("differences"));
  $("[data-pairs]").addEventListener("click", exportPairs);
  if ($$("[data-mod]").length === 0) prompt.title = gettext("Ctrl+Enter sends");
  showChips();
  showCount();
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
