// The comparison page: one generate frame with several targets, a column each.
import { addToSet } from "./lib/add_to_set.js";
import { ChosenModels } from "./lib/chosen.js";
import { copyLink } from "./lib/clipboard.js";
import { Column } from "./lib/column.js";
import { firstDivergence } from "./lib/diff.js";
import { $, $$, data, el } from "./lib/dom.js";
import { fill, gettext, ngettext, number } from "./lib/i18n.js";
import { Library } from "./lib/library.js";
import { fieldOf, linked, linkTo, Parameters } from "./lib/params.js";
import { pickers } from "./lib/picker.js";
import { offersRecent, rememberPrompt } from "./lib/recent.js";
import { csvCell, saveAs } from "./lib/save.js";
import { GenerateSocket } from "./lib/socket.js";
import { failed, toast } from "./lib/toast.js";
import { ALTERNATIVES, TokenColours } from "./lib/tokens.js";
import { VoteStore, newRun } from "./lib/vote_store.js";

const SEEN = 160; // px of the answers that are to be seen at least
const CSV_HEAD = ["model", "digest", "adapters", "prompt", "answer", "completion_tokens", "ttft_s", "total_s", "tokens_per_second", "finish_reason"];
const form = $("[data-compare]");
if (form) start();

function start() {
  const socket = new GenerateSocket(form.dataset.socket);
  const parameters = new Parameters(form);
  const reference = $("[data-reference]");
  const { prompt, system } = form.elements;
  parameters.fill({ ...data("asked"), ...linked() });
  if (system.value) system.closest("details").open = true;
  const colours = new TokenColours($("[data-results]"));
  const voteStore = new VoteStore($("[data-vote-status]"), (vote) => counted.add(vote.run) && showCount());
  const counted = new Set();
  const library = new Library(form, { texts: { system, prompt }, parameters, inserted: () => prompt.focus() });
  library.insertLinked();
  offersRecent(prompt, $("[data-recent-prompts]"));
  const chosen = new ChosenModels(data("chosen"), Number(form.dataset.most));
  pickers();
  let columns = [];
  let handle = null;
  let asked = null; // what the columns answer: {run, prompt, system, params, blind}
  let view = "differences";

  // Answers --------------------------------------------------------------------------------------------------------

  function send() {
    if (handle) return;
    parameters.clearAll();
    chosen.say(chosen.problem());
    const params = parameters.read();
    if (!prompt.value.trim()) return parameters.error("prompt", gettext("Enter some text first."));
    if (!params || chosen.problem()) return;
    rememberPrompt(prompt.value);
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    const list = chosen.list();
    const blind = $("[data-blind]").checked && list.length > 1;
    const order = blind ? shuffled(list) : list;
    const before = columnOf(reference.value)?.own;
    asked = { run: newRun(), prompt: prompt.value, system: system.value, params, blind };
    voteStore.begin(asked.run);
    columns = order.map((one, index) => new Column(one, blind ? String.fromCharCode(65 + index) : null));
    $("[data-columns]").replaceChildren(...columns.map((column) => column.element));
    $("[data-results]").hidden = false;
    showReference(blind ? "" : before);
    working(true);
    const wanted = $("[data-logprobs]").checked ? { ...params, logprobs: ALTERNATIVES } : params;
    const on = progress();
    const handles = together(columns).map((group) => {
      return socket.generate({ ...whomOf(group), messages, params: { ...wanted, ...group[0].params } }, on(group));
    });
    handle = { stop: () => handles.forEach((one) => one.stop()) };
    const { top } = $("[data-columns]").getBoundingClientRect();
    if (top > innerHeight - SEEN) $("[data-results]").scrollIntoView();
  }

  /** What is done with the frames of a group of columns; a function, for what all of them have in common. */
  function progress() {
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
    return (group) => {
      const of = (frame) => group.find((column) => column.target === frame.target);
      return {
        queued: (frame) => of(frame).queued(frame),
        loading: (frame) => of(frame).loading(frame),
        token(frame) {
          if (!begun.has(of(frame))) begin(of(frame));
          of(frame).token(frame);
        },
        done(frame) {
          of(frame).finish(frame);
          end(of(frame));
        },
        error(frame) {
          of(frame).fail(frame);
          const field = fieldOf(frame.param);
          if (field) parameters.error(field, frame.message);
          end(of(frame));
        },
      };
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

  // Differences and probabilities ----------------------------------------------------------------------------------

  const columnOf = (key) => columns.find((column) => column.key === key);

  function showReference(key) {
    const options = columns.map((column) => el("option", { value: column.key }, column.label ?? column.name));
    reference.replaceChildren(el("option", { value: "" }, gettext("none")), ...options);
    reference.value = columns.some((column) => column.key === key) ? key : "";
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
    else if (parting === 0) line.textContent = fill(gettext("All %(count)s answers are identical."), { count });
    else if (n === 0) line.textContent = fill(gettext("The %(count)s answers differ from the first word."), { count });
    else line.textContent = fill(ngettext("All %(count)s answers are the same in the first word and then differ.", "All %(count)s answers are the same up to word %(n)s and then differ.", n), { count, n: number(n) });
  }

  function setView(wanted) {
    view = wanted;
    show();
  }

  // Choices and export ---------------------------------------------------------------------------------------------

  function vote(verdict, key = null) {
    const judged = columns.filter((column) => column.judgeable);
    const candidates = judged.map(({ slug: model, blend, name, params, done, text, key: own }) => ({ ...(blend ? { adapters: done.adapters } : { model }), name: name.slice(0, 255), params, digest: done.digest, text, chosen: own === key }));
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
    $("[data-export=csv]").title = hidden ? gettext("The file contains the model names, which are shown after you have chosen.") : "";
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
      const { digest, adapters, usage, timings, finish_reason } = column.done ?? {};
      return [column.own, digest, adapters && JSON.stringify(adapters), asked.prompt, column.text, usage?.completion_tokens, timings?.ttft, timings?.total, timings?.tokens_per_second, finish_reason];
    });
    saveAs("comparison.csv", `\ufeff${[CSV_HEAD, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n")}\r\n`, "text/csv");
  }

  function keepQuestion() {
    const messages = [{ role: "user", content: asked.prompt }];
    if (asked.system.trim()) messages.unshift({ role: "system", content: asked.system });
    const whole = columns.filter((column) => column.final);
    addToSet({ messages }, whole.map((column) => ({ name: column.blind ? column.label : column.name, text: column.text }))).catch(failed);
  }

  // Events ---------------------------------------------------------------------------------------------------------

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
    const { vote: key, verdict, view: wanted } = button.dataset;
    if (key !== undefined) vote("best", key);
    else if (verdict) vote(verdict);
    else if (wanted) setView(wanted);
    else if ("export" in button.dataset) exportTable();
    else if ("toSet" in button.dataset) keepQuestion();
    else if ("stop" in button.dataset) handle?.stop();
    else if ("permalink" in button.dataset) copyLink(linkTo(form));
    else if ("toggleParameters" in button.dataset) {
      const hidden = $("[data-parameters]").classList.toggle("max-lg:hidden");
      button.setAttribute("aria-expanded", String(!hidden));
    }
  });
  reference.addEventListener("change", () => setView("differences"));
  $("[data-pairs]").addEventListener("click", exportPairs);
  if ($$("[data-mod]").length === 0) prompt.title = gettext("Ctrl+Enter to send");
  window.addEventListener("hashchange", () => location.hash && location.reload()); // a link pasted here
  showCount();
  document.documentElement.dataset.ready = "true";
}

/** Columns in groups that one frame can ask: without a model twice, with the same parameters. */
function together(columns) {
  const alike = Map.groupBy(columns, ({ params }) => JSON.stringify(params));
  return [...alike.values()];
}

/** Whom a frame asks for these columns: models by slug, blends by their recipe. */
function whomOf(group) {
  const blends = group.filter((column) => column.blend);
  const targets = group.filter((column) => !column.blend).map((column) => column.target);
  const recipes = blends.map(({ target, blend }) => ({ name: target, adapters: blend }));
  return { ...(targets.length && { targets }), ...(blends.length && { blends: recipes }) };
}

function shuffled(list) {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}
