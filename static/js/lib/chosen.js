// Which models a comparison asks, and where one has parameters of its own: the chips, and their part of the address.
import { nameOf } from "./choices.js";
import { $, $$, cutName, el, icon } from "./dom.js";
import { fill, gettext } from "./i18n.js";
import { Library } from "./library.js";
import { Parameters } from "./params.js";

export class ChosenModels {
  #place = $("[data-chips]");
  #add = $("[data-add]");
  #dialog = $("#own-parameters");
  #own = new Parameters($("form", this.#dialog));
  #edited = null; // the entry whose parameters the dialog holds

  /** `entries`: {model, own}, as the address names them, `own` like "temperature=0.2;seed=1"; `most` may be asked. */
  constructor(entries, most) {
    this.most = most;
    this.entries = entries.map(({ model, own }) => ({ model, params: this.#own.known(own.split(";").map((pair) => pair.split("="))) }));
    new Library(this.#dialog, { parameters: this.#own });
    this.#add.addEventListener("change", () => this.#take(this.#add.value));
    this.#place.addEventListener("click", ({ target }) => {
      const { remove, own } = target.closest("button")?.dataset ?? {};
      if (remove !== undefined) this.#remove(Number(remove));
      else if (own !== undefined) this.#edit(this.entries[own]);
    });
    $("form", this.#dialog).addEventListener("submit", (event) => {
      const params = this.#own.read();
      if (!params) return event.preventDefault();
      this.#edited.params = params;
      this.#show();
    });
    this.#dialog.addEventListener("close", () => this.#place.querySelector(`[data-own="${this.entries.indexOf(this.#edited)}"]`)?.focus());
    this.#show();
  }

  /** What is to be asked: {key, model, name, params, digest}; `key` is the model's slug, or tells it from its like. */
  list() {
    const seen = new Map();
    return this.entries.map(({ model, params }) => {
      const count = (seen.get(model) ?? 0) + 1;
      seen.set(model, count);
      const option = this.#option(model);
      const name = [this.#nameOf(model), labelOf(params)].filter(Boolean).join(" · ");
      return { key: count > 1 ? `${model}~${count}` : model, model, name, params, digest: option.dataset.digest };
    });
  }

  #option(model) {
    return [...this.#add.options].find((option) => option.value === model);
  }

  /** The slug tells models of the same name apart. */
  #nameOf(model) {
    const name = nameOf(this.#option(model));
    const isShared = this.entries.some((other) => other.model !== model && nameOf(this.#option(other.model)) === name);
    return isShared ? `${name} (${model})` : name;
  }

  /** What keeps the comparison from being asked, as a sentence; "" where nothing does. */
  problem() {
    const list = this.list();
    if (!list.length) return gettext("Choose at least one model.");
    const twice = list.find((one, index) => list.findIndex((other) => other.name === one.name && other.model === one.model) < index);
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
    $("[data-own-name]", this.#dialog).textContent = nameOf(this.#option(entry.model));
    this.#dialog.showModal();
  }

  #show() {
    const list = this.list();
    this.#place.replaceChildren(...list.map((one, index) => this.#chip(one, index)));
    this.#add.disabled = list.length >= this.most;
    $("[data-full]").hidden = !this.#add.disabled;
    this.#showTwins(list);
    const address = new URL(location.href);
    address.search = list.length ? `?models=${this.entries.map(addressOf).join(",")}` : "";
    address.hash = "";
    history.replaceState(null, "", address);
    this.say("");
  }

  #chip({ key, model, name }, index) {
    const button = (sign, label, dataset) => el("button", { type: "button", className: "chip-button", "aria-label": label, title: label, dataset }, icon(sign));
    return el(
      "li",
      { className: "chip", dataset: { testid: "chip", slug: model, key } },
      cutName(name),
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

const addressOf = ({ model, params }) => [encodeURIComponent(model), ...Object.entries(params).map(([name, value]) => `${name}=${value}`)].join(";");
