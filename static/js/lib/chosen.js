// Which models and blends a comparison asks, and where one has parameters of its own: the chips, and their part of the
// address, which `comparison/addresses.py` reads.
import { recipeOf } from "./blend.js";
import { BlendDialog } from "./blend_column.js";
import { nameOf } from "./choices.js";
import { $, $$, cutName, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { Library } from "./library.js";
import { Parameters } from "./params.js";

export class ChosenModels {
  #place = $("[data-chips]");
  #add = $("[data-add]");
  #addBlend = $("[data-add-blend]"); // none where nothing is blended
  #blends = $("#blend-column") && new BlendDialog($("#blend-column"), $("#save-blend"));
  #dialog = $("#own-parameters");
  #own = new Parameters($("form", this.#dialog));
  #edited = null; // the entry whose parameters the dialog holds

  /** `entries`: {model, own} or {blend: [{model, weight}], own}, as the address names them, `own` like "temperature=0.2;seed=1";
   * `most` may be asked. */
  constructor(entries, most) {
    this.most = most;
    this.entries = entries.map(({ own, ...named }) => ({ ...named, params: this.#own.known(own.split(";").map((pair) => pair.split("="))) }));
    new Library(this.#dialog, { parameters: this.#own });
    this.#add.addEventListener("change", () => this.#take(this.#add.value));
    this.#place.addEventListener("click", ({ target }) => {
      const { remove, own, blend } = target.closest("button")?.dataset ?? {};
      if (remove !== undefined) this.#remove(Number(remove));
      else if (own !== undefined) this.#edit(this.entries[own]);
      else if (blend !== undefined) this.#mix(this.entries[blend]);
    });
    this.#addBlend?.addEventListener("click", () => this.#mix({ blend: [], params: {} }));
    $("form", this.#dialog).addEventListener("submit", (event) => {
      const params = this.#own.read();
      if (!params) return event.preventDefault();
      this.#edited.params = params;
      this.#show();
    });
    this.#dialog.addEventListener("close", () => this.#place.querySelector(`[data-own="${this.entries.indexOf(this.#edited)}"]`)?.focus());
    this.#show();
  }

  /** What is to be asked: {key, target, model, blend, name, params, digest, address}. `model` is a slug, or the recipe of a
   * `blend` ([{model, weight}]); `key` is the same, or tells it from its like; `target` is what a frame calls it;
   * `address` is that alone of what is wholly the same. */
  list() {
    const seen = new Map();
    return this.entries.map((entry, index) => {
      const { blend, params } = entry;
      const model = blend ? recipeOf(blend.map((part) => ({ weight: part.weight, name: part.model }))) : entry.model;
      const count = (seen.get(model) ?? 0) + 1;
      seen.set(model, count);
      const name = [this.#nameOf(entry), labelOf(params)].filter(Boolean).join(" · ");
      const digest = blend ? "" : this.#option(model).dataset.digest;
      const key = count > 1 ? `${model}~${count}` : model;
      return { key, target: blend ? `blend ${index}` : model, model, blend, name, params, digest, address: addressOf(entry) };
    });
  }

  /** An adapter of a blend may have been found in its dialog alone. */
  #option(model) {
    return [...this.#add.options, ...$$("#blend-column option")].find((option) => option.value === model);
  }

  #nameOf({ model, blend }) {
    return blend ? recipeOf(blend.map((part) => ({ weight: part.weight, name: this.#nameOfModel(part.model) }))) : this.#nameOfModel(model);
  }

  /** The slug tells models of the same name apart. */
  #nameOfModel(model) {
    const name = nameOf(this.#option(model));
    const all = this.entries.flatMap((entry) => entry.blend?.map((part) => part.model) ?? [entry.model]);
    const isShared = all.some((other) => other !== model && nameOf(this.#option(other)) === name);
    return isShared ? `${name} (${model})` : name;
  }

  /** What keeps the comparison from being asked, as a sentence; "" where nothing does. */
  problem() {
    const list = this.list();
    if (!list.length) return gettext("Choose at least one model.");
    const twice = list.find((one, index) => list.findIndex((other) => other.address === one.address) < index);
    return twice ? fill(gettext("%(name)s is selected twice. Give one of them different parameters, or remove it."), { name: twice.name }) : "";
  }

  say(message) {
    const line = $('[data-error="targets"]');
    line.textContent = message;
    line.hidden = !message;
  }

  #take(model) {
    this.#add.value = "";
    const isThere = this.entries.some((entry) => entry.model === model);
    this.entries.push({ model, params: {} });
    this.#show();
    if (isThere) this.#edit(this.entries.at(-1));
  }

  #remove(index) {
    this.entries.splice(index, 1);
    this.#show();
    ($$("[data-remove]", this.#place)[Math.min(index, this.entries.length - 1)] ?? this.#add).focus();
  }

  #edit(entry) {
    this.#edited = entry;
    $("form", this.#dialog).reset();
    this.#own.clearAll();
    this.#own.fill(entry.params);
    $("[data-own-name]", this.#dialog).textContent = this.#nameOf(entry);
    this.#dialog.showModal();
  }

  /** Ask which adapters, with which weights; a blend that is not in the list yet is put there. */
  #mix(entry) {
    const take = (parts) => {
      entry.blend = parts.map(({ model, weight }) => ({ model, weight }));
      if (!this.entries.includes(entry)) this.entries.push(entry);
      this.#show();
    };
    this.#blends.open(entry.blend, take, () => (this.#place.querySelector(`[data-blend="${this.entries.indexOf(entry)}"]`) ?? this.#addBlend).focus());
  }

  #show() {
    const list = this.list();
    this.#place.replaceChildren(...list.map((one, index) => this.#chip(one, index)));
    this.#add.disabled = list.length >= this.most;
    if (this.#addBlend) this.#addBlend.disabled = this.#add.disabled;
    $("[data-full]").hidden = !this.#add.disabled;
    this.#showTwins(list);
    const address = new URL(location.href);
    address.search = list.length ? `?models=${this.entries.map(addressOf).join(",")}` : "";
    address.hash = "";
    history.replaceState(null, "", address);
    this.say("");
  }

  #chip({ key, model, blend, name }, index) {
    const button = (sign, label, dataset) => el("button", { type: "button", className: "chip-button", "aria-label": label, title: label, dataset }, icon(sign));
    return el(
      "li",
      { className: "chip", dataset: { testid: "chip", slug: model, key } },
      cutName(name),
      blend && this.#blends ? button("pen", fill(gettext("Adapters and weights of %(name)s"), { name }), { blend: index, testid: "chip-blend" }) : null,
      button("sliders", fill(gettext("Parameters of %(name)s"), { name }), { own: index, testid: "own" }),
      button("xmark", fill(gettext("Remove %(name)s"), { name }), { remove: index }),
    );
  }

  /** Models whose files are the same: only chance can make their answers differ. */
  #showTwins(list) {
    const twins = list.filter((one) => one.digest && list.some((other) => other.model !== one.model && other.digest === one.digest && labelOf(other.params) === labelOf(one.params)));
    const line = $("[data-twins]");
    line.hidden = twins.length === 0;
    line.textContent = fill(gettext("Same content: %(names)s. Their answers can differ only because of random sampling."), { names: twins.map((one) => one.name).join(", ") });
  }
}

const labelOf = (params) => Object.entries(params).map(([name, value]) => `${name} ${value}`).join(", ");

const namedBy = ({ model, blend }) => (blend ? blend.map((part) => `${encodeURIComponent(part.model)}:${part.weight}`).join("+") : encodeURIComponent(model));

const addressOf = ({ params, ...named }) => [namedBy(named), ...Object.entries(params).map(([name, value]) => `${name}=${value}`)].join(";");
