// The blend on the test page: adapters beside the chosen model, each with a weight, that answer as one.
import { nameOf } from "./choices.js";
import { $, $$, cutName, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";

const LIMIT = 2; // of a weight, either way
const STEP = 0.05;

/** Of {weight, name}: as it is written in a recipe. */
export const recipeOf = (parts) => parts.map(({ weight, name }) => `${Number(weight.toFixed(3))} × ${name}`).join(" + ");

export class Blend {
  #weight = 1; // of the chosen model
  #others = []; // {slug, option, weight}
  #list;
  #add;
  #line;

  /** `box` holds the control, `model` is the page's own select; `changed()` is called after every change. */
  constructor(box, model, changed) {
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

  /** Take in what an address says: "slug:weight,slug:weight"; what is not there is told. */
  fill(text) {
    if (this.box.hidden) return;
    const missing = [];
    for (const [slug, given] of text.split(",").map((pair) => pair.split(":"))) {
      const weight = Number(given ?? 1);
      if (!slug || !Number.isFinite(weight) || Math.abs(weight) > LIMIT) continue;
      const option = this.#option(slug);
      if (slug === this.model.value) this.#weight = weight;
      else if (option && !this.#problemOf(option)) this.#others.push({ slug, option, weight });
      else missing.push(slug);
    }
    this.box.open = this.isOn;
    this.#show();
    if (missing.length) this.say(fill(gettext("Left out of the blend because they are not active here: %(names)s"), { names: missing.join(", ") }));
  }

  /** The chosen model is another: adapters of other base models leave. */
  follow() {
    const chosen = this.model.selectedOptions[0];
    this.box.hidden = chosen?.dataset.kind !== "adapter";
    this.#weight = 1;
    this.#others = this.box.hidden ? [] : this.#others.filter(({ slug, option }) => slug !== chosen.value && option.dataset.baseSlug === chosen.dataset.baseSlug);
    this.#show();
  }

  get isOn() {
    return !this.box.hidden && (this.#others.length > 0 || this.#weight !== 1);
  }

  /** [{model, weight, id, name}], the chosen model first; what it is asked by, and saved by. */
  get adapters() {
    const first = { slug: this.model.value, option: this.model.selectedOptions[0], weight: this.#weight };
    return [first, ...this.#others].map(({ slug, option, weight }) => ({ model: slug, weight, id: Number(option.dataset.id), name: nameOf(option) }));
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
    if (bad && this.isOn) {
      this.box.open = true;
      bad.setAttribute("aria-invalid", "true");
      bad.focus();
      this.say(fill(gettext("A weight lies between %(low)s and %(high)s."), { low: `−${LIMIT}`, high: LIMIT }));
      return false;
    }
    if (this.isOn && this.adapters.every(({ weight }) => weight === 0)) {
      this.say(gettext("At least one weight must not be 0."));
      return false;
    }
    this.say("");
    return true;
  }

  say(message) {
    this.#line.textContent = message;
    this.#line.hidden = !message;
    if (message) this.box.open = true;
  }

  #option(slug) {
    return [...this.#add.options, ...this.model.options].find((option) => option.value === slug && option.dataset.kind);
  }

  #problemOf(option) {
    const chosen = this.model.selectedOptions[0];
    if (option.dataset.kind !== "adapter") return gettext("Only adapters can be blended.");
    if (option.dataset.baseSlug !== chosen.dataset.baseSlug) return fill(gettext("%(name)s has another base model."), { name: nameOf(option) });
    return "";
  }

  #take(slug) {
    const option = this.#option(slug);
    this.#add.value = "";
    if (!option) return;
    const place = [this.model.value, ...this.#others.map((one) => one.slug)].indexOf(slug);
    const problem = this.#problemOf(option);
    this.say(problem);
    if (problem) return;
    if (place < 0) this.#others.push({ slug, option, weight: this.#others.length || this.#weight !== 1 ? 0.5 : 1 });
    this.#show();
    $$("input[type=number]", this.#list).at(place)?.focus();
  }

  #remove(place) {
    this.#others.splice(place - 1, 1);
    this.#show();
    ($$("[data-remove]", this.#list)[Math.min(place - 1, this.#others.length - 1)] ?? $("input", this.#add.closest("div"))).focus();
  }

  #set(place, field) {
    const weight = Math.max(-LIMIT, Math.min(LIMIT, Number(field.value) || 0));
    if (place === 0) this.#weight = weight;
    else this.#others[place - 1].weight = weight;
    for (const one of $$("[aria-invalid]", this.#list)) one.removeAttribute("aria-invalid");
    this.say("");
    this.#tell();
  }

  #show() {
    if (!this.box.hidden) this.#list.replaceChildren(...this.adapters.map((one, place) => this.#row(one, place)));
    this.#add.disabled = this.#others.length + 1 >= this.most;
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
    const remove = place ? el("button", { type: "button", className: "chip-button", "aria-label": words, title: words, dataset: { remove: place, testid: "blend-remove" } }, icon("xmark")) : null;
    const title = el("span", { className: "flex min-w-0 items-center gap-1.5 text-sm" }, cutName(name), remove);
    return el("li", { className: "param", dataset: { part: place, testid: "blend-part" } }, title, field, range);
  }
}
