// The test page: one model, one prompt, a streamed answer and what it took.
import { addToSet } from "./lib/add_to_set.js";
import { post } from "./lib/api.js";
import { Blend, partsOf, recipeOf } from "./lib/blend.js";
import { savesBlend } from "./lib/blend_save.js";
import { nameOf } from "./lib/choices.js";
import { copyLink } from "./lib/clipboard.js";
import { $, $$ } from "./lib/dom.js";
import { fill, gettext, ngettext, number, seconds } from "./lib/i18n.js";
import { Library } from "./lib/library.js";
import { fieldOf, linked, linkTo, Parameters } from "./lib/params.js";
import { pickers } from "./lib/picker.js";
import { endingSentence, Waiting } from "./lib/progress.js";
import { offersRecent, rememberPrompt } from "./lib/recent.js";
import { GenerateSocket } from "./lib/socket.js";
import { lengthOf, TextStream } from "./lib/stream.js";
import { failed, toast } from "./lib/toast.js";
import { ALTERNATIVES, TokenColours } from "./lib/tokens.js";

const COUNT_AFTER_MS = 400;
const RECOUNT_AFTER_MS = 4000;
const form = $("[data-test]");
if (form) start();

function start() {
  const socket = new GenerateSocket(form.dataset.socket);
  const parameters = new Parameters(form);
  const output = $("#output");
  const stream = new TextStream(output);
  const { model, prompt, system, probabilities } = form.elements;
  const colours = new TokenColours(output.parentElement);
  const waiting = new Waiting((sentence) => state(sentence, true));
  const library = new Library(form, { texts: { system, prompt }, parameters, inserted: () => prompt.focus() });
  const blend = $("[data-blend]") && new Blend($("[data-blend]"), model, showAddress);
  let run = null;
  let latest = null; // what the shown answer was asked

  // What is shown ------------------------------------------------------------------------------------------------

  function showTarget() {
    const facts = model.selectedOptions[0].dataset;
    $('[data-fact="base"]').textContent = facts.base ?? "–";
    for (const name of ["rank", "context"]) {
      $(`[data-fact-row="${name}"]`).hidden = !facts[name];
      $(`[data-fact="${name}"]`).textContent =
        name === "context" ? fill(gettext("%(n)s tokens"), { n: number(Number(facts[name])) }) : facts[name];
    }
    showAddress();
    parameters.clear("model");
  }

  function showAddress() {
    const address = new URL(location.href);
    const parts = blend?.address;
    address.search = new URLSearchParams(parts ? { model: model.value, blend: parts } : { model: model.value }).toString();
    address.hash = "";
    history.replaceState(null, "", address);
  }

  function showSystem() {
    const preview = $("[data-system-preview]");
    preview.textContent = system.value.split("\n")[0];
    preview.classList.toggle("hidden", !system.value || system.closest("details").open);
  }

  function state(sentence, spinning = false) {
    const line = $("[data-state]");
    line.replaceChildren();
    if (spinning) {
      const spinner = document.createElement("span");
      spinner.className = "spinner";
      line.append(spinner);
    }
    line.append(sentence);
  }

  function progress(value) {
    $("[data-loading]").hidden = value === null;
    const bar = $("[data-progress]");
    if (value === null || value <= 0) bar.removeAttribute("value");
    else bar.value = value;
  }

  function stat(name, value, unit = "") {
    const cell = $(`[data-stat="${name}"]`);
    cell.replaceChildren(value);
    if (unit) {
      const small = document.createElement("small");
      small.textContent = ` ${unit}`;
      cell.append(small);
    }
  }

  function working(on) {
    $("[data-stop]").hidden = !on;
    $("[data-send]").disabled = on;
    $("[data-retry]").hidden = on || !stream.text;
    for (const button of $$("[data-when-text]")) button.hidden = on || !stream.text;
    output.dataset.live = String(on);
    output.setAttribute("aria-busy", String(on));
    form.dataset.running = String(on);
  }

  function failure(frame) {
    $("[data-failure-code]").textContent = frame.code;
    $("[data-failure-text]").textContent = frame.message;
    $("[data-failure]").hidden = false;
  }

  // An answer ----------------------------------------------------------------------------------------------------

  function send() {
    if (run) return;
    parameters.clearAll();
    const params = parameters.read();
    if (!prompt.value.trim()) return parameters.error("prompt", gettext("Enter some text first."));
    if (!params || (blend && !blend.check())) return;
    rememberPrompt(prompt.value);
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    stream.clear();
    progress(null);
    $("[data-failure]").hidden = true;
    $("[data-stats]").hidden = true;
    $("[data-answer-recipe]").hidden = true;
    state(gettext("Sent…"), true);
    const began = performance.now();
    const wanted = probabilities.checked ? { ...params, logprobs: ALTERNATIVES } : params;
    const mine = { began, first: null, pieces: 0, tokens: [] };
    const isBlend = blend?.isOn;
    const adapters = isBlend ? blend.adapters.map(({ model: slug, weight }) => ({ model: slug, weight })) : null;
    latest = { messages, name: isBlend ? blend.recipe : nameOf(model.selectedOptions[0]) };
    run = mine;
    mine.handle = socket.generate(
      { ...(isBlend ? { blends: [{ name: "blend", adapters }] } : { targets: [model.value] }), messages, params: wanted },
      {
        queued: (frame) => waiting.say("queued", frame),
        loading(frame) {
          waiting.say("loading", frame);
          progress(frame.progress);
        },
        token(frame) {
          if (mine.first === null) {
            mine.first = performance.now();
            waiting.end();
            progress(null);
            state(gettext("Generating…"), true);
          }
          mine.pieces += 1;
          mine.tokens.push(...(frame.logprobs ?? []));
          stream.push(frame.text);
        },
        done: (frame) => finish(mine, frame),
        error: (frame) => fail(mine, frame),
      },
    );
    working(true);
  }

  function end() {
    stream.flush();
    waiting.end();
    progress(null);
    run = null;
    working(false);
  }

  function finish(mine, frame) {
    end();
    mine.tokens.push(...(frame.logprobs ?? []));
    if (mine.tokens.length) colours.draw(output, stream.text, mine.tokens);
    const parts = (frame.adapters ?? []).map((part) => ({ weight: part.weight, name: part.model }));
    $("[data-answer-recipe]").hidden = !parts.length;
    $("[data-answer-recipe]").textContent = fill(gettext("Answered by the blend %(recipe)s"), { recipe: recipeOf(parts) });
    const stopped = frame.finish_reason === "cancelled";
    const total = frame.timings?.total ?? (performance.now() - mine.began) / 1000;
    const length = lengthOf(stream.text);
    stat("total", seconds(total), frame.timings?.load > 0.05 ? fill(gettext("including %(load)s loading"), { load: seconds(frame.timings.load) }) : "");
    stat("ttft", mine.first === null ? "–" : seconds(frame.timings?.ttft ?? 0));
    stat("speed", frame.timings ? number(frame.timings.tokens_per_second, 1) : "–");
    stat("length", number(length), ngettext("character", "characters", length));
    stat("tokens", frame.usage ? number(frame.usage.completion_tokens) : "–", frame.usage ? fill(gettext("+ %(n)s in the prompt"), { n: number(frame.usage.prompt_tokens) }) : "");
    stat("reason", endingSentence(frame));
    $("[data-stats]").hidden = false;
    state(stopped ? gettext("Stopped") : gettext("Done"));
    if (stopped) toast("info", gettext("Stopped. The part already generated is kept."));
    else toast("good", gettext("Answer complete"), fill(gettext("%(tokens)s tokens in %(time)s"), { tokens: number(frame.usage.completion_tokens), time: seconds(total) }));
  }

  function fail(mine, frame) {
    end();
    state(gettext("Failed"));
    failure(frame);
    const field = fieldOf(frame.param);
    if (["blends", "adapters"].includes(field)) blend?.say(frame.message);
    else if (field) parameters.error(field, frame.message);
    toast("bad", gettext("No answer"), frame.message);
  }

  // Tokens of what is being written ----------------------------------------------------------------------------------

  let countTimer;
  let counting = 0;

  function countSoon() {
    clearTimeout(countTimer);
    countTimer = setTimeout(count, COUNT_AFTER_MS);
  }

  async function count() {
    const line = $("[data-count]");
    const turn = ++counting;
    if (!prompt.value.trim()) return (line.textContent = "");
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    try {
      const { tokens, context_length: limit } = await post("/api/inference/count", { model: model.value, messages });
      if (turn !== counting) return;
      line.textContent = fill(gettext("%(n)s of %(limit)s tokens"), { n: number(tokens), limit: number(limit) });
      line.classList.toggle("text-bad", tokens + Number(form.elements.max_tokens.value || 0) > limit);
    } catch (error) {
      line.textContent = ""; // Sending says what is wrong.
      if (error.status === 503 && turn === counting) countTimer = setTimeout(count, RECOUNT_AFTER_MS); // it starts
    }
  }

  // Events -------------------------------------------------------------------------------------------------------

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && run) {
      run.handle.stop();
    }
  });
  $("[data-stop]").addEventListener("click", () => {
    waiting.end();
    state(gettext("Stopping…"), true);
    run?.handle.stop();
  });
  $("[data-retry]").addEventListener("click", send);
  $("[data-to-set]").addEventListener("click", () => latest && addToSet({ messages: latest.messages }, [{ name: latest.name, text: stream.text }]).catch(failed));
  model.addEventListener("change", () => {
    // A model that is not there stays chosen until another one is: nobody else answers for it.
    for (const node of $$("[data-unknown]")) if (node.value !== model.value) node.remove();
    blend?.follow();
    showTarget();
    countSoon();
  });
  for (const field of [prompt, system, form.elements.max_tokens]) field.addEventListener("input", countSoon);
  system.addEventListener("input", showSystem);
  system.closest("details").addEventListener("toggle", showSystem);
  $("[data-permalink]").addEventListener("click", () => copyLink(linkTo(form)));
  $("[data-toggle-parameters]").addEventListener("click", (event) => {
    const hidden = $("[data-parameters]").classList.toggle("max-lg:hidden");
    event.currentTarget.setAttribute("aria-expanded", String(!hidden));
  });
  window.addEventListener("hashchange", () => location.hash && location.reload()); // a link pasted here
  window.addEventListener("beforeunload", () => {
    sessionStorage.setItem("test", JSON.stringify({ prompt: prompt.value, system: system.value }));
  });

  pickers();
  offersRecent(prompt, $("[data-recent-prompts]"));
  const kept = JSON.parse(sessionStorage.getItem("test") ?? "{}");
  const given = { ...Object.fromEntries(new URLSearchParams(location.search)), ...linked() };
  delete given.model;
  const wantedBlend = given.blend ?? "";
  delete given.blend;
  parameters.fill("prompt" in given ? given : { ...kept, ...given }); // a link shows what it says, nothing else
  if (/Mac|iPhone|iPad/.test(navigator.userAgent)) $$("[data-mod]").forEach((key) => (key.textContent = "⌘"));
  if (system.value) system.closest("details").open = true;
  library.insertLinked();
  blend?.follow();
  if (wantedBlend) blend?.fill(partsOf(wantedBlend));
  if (blend && $("#save-blend")) $("[data-blend-save]").addEventListener("click", savesBlend($("#save-blend"), blend));
  showTarget();
  showSystem();
  if (prompt.value) countSoon();
  document.documentElement.dataset.ready = "true";
}
