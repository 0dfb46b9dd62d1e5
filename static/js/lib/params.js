// The parameters panel: reading, checking by the server's rules, presets, sliders, errors beside the field.
import { $, $$ } from "./dom.js";
import { fill, gettext } from "./i18n.js";

const NUMBERS = ["max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"];
const PRESETS = {
  precise: { temperature: 0, top_p: 1 },
  balanced: { temperature: 0.7, top_p: 0.95 },
  creative: { temperature: 1.1, top_p: 0.98 },
};

export class Parameters {
  constructor(form) {
    this.form = form;
    for (const range of $$("[data-range]", form)) {
      const field = form.elements[range.dataset.range];
      range.addEventListener("input", () => this.#set(field, range.value));
      field.addEventListener("input", () => (range.value = field.value));
    }
    for (const button of $$("[data-preset]", form)) {
      button.addEventListener("click", () => this.fill(PRESETS[button.dataset.preset]));
    }
    form.addEventListener("input", (event) => {
      this.clear(event.target.name);
      this.#showPreset();
    });
    this.#showPreset();
  }

  /** Put values in; names that the panel does not have are passed over. */
  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (!field || value === null || value === undefined) continue;
      this.#set(field, Array.isArray(value) ? value.map((one) => one.replaceAll("\n", "\\n")).join("\n") : value);
      if (field.value && field.closest("details.more")) field.closest("details").open = true; // nothing holds unseen
    }
  }

  /** The numbers among [name, text] pairs that the panel has a field for, in the order of `read`: the same look alike. */
  known(pairs) {
    const given = Object.fromEntries(pairs);
    const isNumber = (name) => this.form.elements[name] && given[name] && Number.isFinite(Number(given[name]));
    return Object.fromEntries(NUMBERS.filter(isNumber).map((name) => [name, Number(given[name])]));
  }

  /** Names among `values` that the panel has no field for. */
  missing(values) {
    return Object.keys(values).filter((name) => !this.form.elements[name]);
  }

  #set(field, value) {
    field.value = value;
    const range = $(`[data-range="${field.name}"]`, this.form);
    if (range) range.value = value;
    this.clear(field.name);
    this.#showPreset();
  }

  #showPreset() {
    for (const button of $$("[data-preset]", this.form)) {
      const wanted = PRESETS[button.dataset.preset];
      const same = Object.entries(wanted).every(([name, value]) => Number(this.form.elements[name].value) === value);
      button.setAttribute("aria-pressed", String(same));
    }
  }

  /** The parameters as the API takes them, or null where fields are wrong: each says so, the first has the focus. */
  read() {
    const params = {};
    const wrong = [];
    for (const name of NUMBERS) {
      const field = this.form.elements[name];
      if (!field) continue;
      const problem = fieldProblem(field);
      if (problem) {
        this.error(name, problem);
        wrong.push(field);
      } else if (field.value !== "") params[name] = Number(field.value);
    }
    wrong[0]?.focus();
    if (wrong.length) return null;
    const stop = (this.form.elements.stop?.value ?? "").split("\n").filter((line) => line !== "");
    if (stop.length) params.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
    return params;
  }

  /** Show `message` beside the parameter. False where there is no such field. */
  error(name, message) {
    const line = $(`[data-error="${name}"]`, this.form);
    const field = this.form.elements[FIELDS[name] ?? name];
    if (!line || !field) return false;
    line.textContent = message;
    line.hidden = false;
    field.setAttribute("aria-invalid", "true");
    const panel = field.closest("[data-parameters]");
    if (panel) panel.classList.remove("max-lg:hidden");
    const more = field.closest("details");
    if (more) more.open = true;
    field.focus();
    return true;
  }

  clear(name) {
    const key = Object.keys(FIELDS).find((known) => FIELDS[known] === name) ?? name;
    const line = key && $(`[data-error="${key}"]`, this.form);
    if (line) line.hidden = true;
    this.form.elements[name]?.removeAttribute?.("aria-invalid");
  }

  clearAll() {
    for (const line of $$("[data-error]", this.form)) line.hidden = true;
    for (const field of $$("[aria-invalid]", this.form)) field.removeAttribute("aria-invalid");
  }
}

const FIELDS = { targets: "model" };

function fieldProblem(field) {
  const { validity } = field;
  if (validity.badInput) return gettext("This is not a number.");
  if (validity.rangeUnderflow || validity.rangeOverflow) {
    return fill(gettext("Between %(low)s and %(high)s."), { low: field.min, high: field.max });
  }
  if (field.step === "1" && field.value !== "" && !Number.isInteger(Number(field.value))) return gettext("Whole numbers only.");
  return "";
}

/** Which field an error's `param` belongs to: params.temperature -> temperature, messages.0.content -> prompt. */
export function fieldOf(param) {
  if (!param) return null;
  const [first, second] = param.split(".");
  if (first === "params") return second;
  if (first === "messages" || first === "prompt") return "prompt";
  return first;
}

const LINKED = ["prompt", "system", ...NUMBERS, "stop"];

/** The page's address with what the form holds. Behind the #: a long prompt is no longer than a server takes, and
 * stands in nobody's log. */
export function linkTo(form) {
  const held = LINKED.filter((name) => form.elements[name].value).map((name) => [name, form.elements[name].value]);
  return `${location.origin}${location.pathname}${location.search}#${new URLSearchParams(held)}`;
}

/** What a link says that led here. */
export const linked = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
