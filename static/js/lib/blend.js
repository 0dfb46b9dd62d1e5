// The control of a blend: adapters of one base model, each with a weight, that answer as one. On the test page the first
// one is the page's model; in the dialog of a comparison all of them are chosen here.
import { nameOf } from "./choices.js";
import { $, $$, cutName, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";

const LIMIT = 2; // of a weight, either way
const STEP = 0.05;

/** Of {weight, name}: as it is written in a recipe. */
export const recipeOf = (parts) => parts.map(({ weight, name }) => `${Number(weight.toFixed(3))} × ${name}`).join(" + ");

/** What an address says, "slug:weight,slug:weight", as [{model, weight}]; parts without a weight that counts are left out. */
export function partsOf(text) {
  const parts = text.split(",").map((pair) => pair.split(":")).map(([model, given]) => ({ model, weight: Number(given ?? 1) }));
  return parts.filter(({ model, weight }) => model && Number.isFinite(weight) && Math.abs(weight) <= LIMIT);
}

export class Blend {
  #parts = []; // {slug, option, weight}; where the page has a model of its own, that is the first
  #list;
  #add;
  #line;

  /** `box` holds the control, `model` is the page's own select, if there is one; `changed()` is called after every change. */
  constructor(box, model = null, changed = () => {}) {
    this.box = box;
    this.model = model;
    this.changed = changed;
    this.most = Number(box.dataset.most);
    this.#list = $("[data-blend-parts]", box);
    this.#add = $("[data-blend-add]", box);
    this.#line = $("[data-blend-error]", box);
    this.#add.addEventListener("change", () => this.#add.value && this.#take(this.#add.value));
    this.#list.addEventListener("click", ({ target }) => {
      const { remove } = target.closest("button")?.dataset ?? {};
      if (remove !== undefined) this.#remove(Number(remove));
    });
    this.#list.addEventListener("input", (event) => {
      const row = event.target.closest("[data-part]");
      for (const field of $$("input", row)) if (field !== event.target && event.target.value !== "") field.value = event.target.value;
      this.#set(Number(row.dataset.part), event.target);
    });
  }

  /** Hold [{model, weight}]; what is not there is told. */
  fill(parts) {
    if (this.box.hidden) return;
    const missing = [];
    this.#parts.length = this.model ? 1 : 0;
    for (const { model: slug, weight } of parts) {
      const option = this.#option(slug);
      const there = this.#parts.find((one) => one.slug === slug);
      if (there) there.weight = weight;
      else if (option && !this.#problemOf(option)) this.#parts.push({ slug, option, weight });
      else missing.push(slug);
    }
    if (this.isOn) this.#unfold();
    this.say("");
    this.#show();
    if (missing.length) this.say(fill(gettext("Left out of the blend because they are not active here: %(names)s"), { names: missing.join(", ") }));
  }

  /** The chosen model is another: adapters of other base models leave. */
  follow() {
    const chosen = this.model.selectedOptions[0];
    this.box.hidden = chosen?.dataset.kind !== "adapter";
    const others = this.#parts.slice(1).filter(({ slug, option }) => slug !== chosen?.value && option.dataset.baseSlug === chosen?.dataset.baseSlug);
    this.#parts = this.box.hidden ? [] : [{ slug: chosen.value, option: chosen, weight: 1 }, ...others];
    this.#show();
  }

  /** Whether it is more than one adapter as it is. */
  get isOn() {
    return !this.box.hidden && (this.#parts.length > 1 || this.#parts.some(({ weight }) => weight !== 1));
  }

  /** [{model, weight, id, name}] in their order; what it is asked by, and saved by. */
  get adapters() {
    return this.#parts.map(({ slug, option, weight }) => ({ model: slug, weight, id: Number(option.dataset.id), name: nameOf(option) }));
  }

  get recipe() {
    return recipeOf(this.adapters);
  }

  /** For the page's address; "" where no blend is asked. */
  get address() {
    return this.isOn ? this.adapters.map(({ model, weight }) => `${model}:${weight}`).join(",") : "";
  }

  /** Whether it can be asked; else the field or the line says why. */
  check() {
    const bad = $$("input[type=number]", this.#list).find((field) => field.value === "" || !field.validity.valid);
    if (bad && (this.isOn || !this.model)) {
      this.#unfold();
      bad.setAttribute("aria-invalid", "true");
      bad.focus();
      this.say(fill(gettext("A weight lies between %(low)s and %(high)s."), { low: `−${LIMIT}`, high: LIMIT }));
      return false;
    }
    if (this.isOn && this.adapters.every(({ weight }) => weight === 0)) {
      this.say(gettext("At least one weight must not be 0."));
      return false;
    }
    const counting = this.#parts.filter(({ weight }) => weight !== 0);
    if (!this.model && (!counting.length || (counting.length === 1 && counting[0].weight === 1))) {
      this.say(gettext("A blend needs two adapters, or one with a weight other than 1."));
      return false;
    }
    this.say("");
    return true;
  }

  say(message) {
    this.#line.textContent = message;
    this.#line.hidden = !message;
    if (message) this.#unfold();
  }

  #unfold() {
    if ("open" in this.box) this.box.open = true; // a part of a page that folds
  }

  #option(slug) {
    return [...this.#add.options, ...(this.model?.options ?? [])].find((option) => option.value === slug && option.dataset.kind);
  }

  #problemOf(option) {
    const first = this.#parts[0]?.option;
    if (option.dataset.kind !== "adapter") return gettext("Only adapters can be blended.");
    if (first && option.dataset.baseSlug !== first.dataset.baseSlug) return fill(gettext("%(name)s has another base model."), { name: nameOf(option) });
    return "";
  }

  #take(slug) {
    const option = this.#option(slug);
    this.#add.value = "";
    if (!option) return;
    const place = this.#parts.findIndex((one) => one.slug === slug);
    const problem = this.#problemOf(option);
    this.say(problem);
    if (problem) return;
    if (place < 0) this.#parts.push({ slug, option, weight: this.isOn ? 0.5 : 1 });
    this.#show();
    $$("input[type=number]", this.#list).at(place)?.focus();
  }

  #remove(place) {
    this.#parts.splice(place, 1);
    this.#show();
    const next = Math.min(place, this.#parts.length - 1);
    ($(`[data-remove="${next}"]`, this.#list) ?? $("input", this.#add.parentElement)).focus();
  }

  #set(place, field) {
    const weight = Math.max(-LIMIT, Math.min(LIMIT, Number(field.value) || 0));
    this.#parts[place].weight = weight;
    for (const one of $$("[aria-invalid]", this.#list)) one.removeAttribute("aria-invalid");
    this.say("");
    this.#tell();
  }

  #show() {
    this.#list.replaceChildren(...this.adapters.map((one, place) => this.#row(one, place)));
    this.#add.disabled = this.#parts.length >= this.most;
    this.#tell();
  }

  #tell() {
    $("[data-blend-recipe]", this.box).textContent = this.isOn ? this.recipe : "";
    for (const button of $$("[data-blend-save]", this.box)) button.disabled = !this.isOn;
    this.changed();
  }

  #row({ name, weight }, place) {
    const label = fill(gettext("Weight of %(name)s"), { name });
    const bounds = { min: -LIMIT, max: LIMIT, step: STEP, value: weight };
    const field = el("input", { className: "input", type: "number", ...bounds, step: "any", inputMode: "decimal", "aria-label": label, dataset: { testid: "blend-weight" } });
    const range = el("input", { className: "range", type: "range", ...bounds, "aria-label": label, dataset: { testid: "blend-range" } });
    field.value = range.value = weight; // after the bounds: a range clips what it is given
    const words = fill(gettext("Remove %(name)s"), { name });
    const remove = place || !this.model ? el("button", { type: "button", className: "chip-button", "aria-label": words, title: words, dataset: { remove: place, testid: "blend-remove" } }, icon("xmark")) : null;
    const title = el("span", { className: "flex min-w-0 items-center gap-1.5 text-sm" }, cutName(name), remove);
    return el("li", { className: "param", dataset: { part: place, testid: "blend-part" } }, title, field, range);
  }
}
