// What a picker of models lists: those that the page came with, and for other words what the server finds.
import { get } from "./api.js";
import { hasWords, nameOf } from "./choices.js";
import { $$, cutName, el, icon } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";

const SEARCH_AFTER_MS = 120; // after the last letter

/** What the server says of a model, as an option with the same data as those of the page. */
function optionOf(found) {
  const option = el("option", { value: found.slug, textContent: found.name });
  const { kind, digest, base, run, group } = found;
  if (found.id !== null) option.dataset.id = found.id;
  Object.assign(option.dataset, { kind, digest, base, baseSlug: found.base_slug, context: found.context ?? "", rank: found.rank ?? "", run, group, name: found.name });
  if (found.checkpoint !== null) option.dataset.checkpoint = found.checkpoint;
  if (found.is_best) option.dataset.best = "";
  if (found.tags.length) option.dataset.tags = found.tags.join(" ");
  return option;
}

export class ModelChoices {
  label = gettext("Models");
  none = gettext("No models");

  constructor(select) {
    this.select = select;
    this.isWhole = this.#own().length >= Number(select.dataset.total);
    this.after = this.isWhole ? 0 : SEARCH_AFTER_MS;
  }

  #own() {
    return $$("option[data-kind]", this.select);
  }

  /** {options, count} where they are known here, else null; `count` is how many there are with those not listed. */
  here(words) {
    if (words && !this.isWhole) return null;
    const options = this.#own().filter((option) => matches(option, words));
    return { options, count: words ? options.length : Number(this.select.dataset.total) };
  }

  async find(words) {
    const found = await get(`/api/inference/targets?search=${encodeURIComponent(words)}`);
    const known = new Map(this.#own().map((option) => [option.value, option]));
    return { options: found.results.map((one) => known.get(one.slug) ?? optionOf(one)), count: found.count };
  }

  groups = grouped;

  note(n, all) {
    if (all > n) return fill(gettext("%(n)s of %(all)s models; type to find the others."), { n: number(n), all: number(all) });
    return fill(ngettext("%(n)s model", "%(n)s models", n), { n: number(n) });
  }
}

function matches(option, words) {
  const { base, run, tags } = option.dataset;
  return hasWords([nameOf(option), option.value, base, run, tags].join(" "), words);
}

/** Recently used first, then the runs, then adapters that are alone, then base models. */
function grouped(options) {
  const recent = options.filter((option) => "recent" in option.dataset);
  const rest = options.filter((option) => !("recent" in option.dataset));
  const runs = Map.groupBy(rest.filter((option) => option.dataset.group), (option) => option.dataset.group);
  const named = [...runs.values()].filter((members) => members.length > 1);
  const inRuns = new Set(named.flat());
  const alone = rest.filter((option) => option.dataset.kind === "adapter" && !inRuns.has(option));
  const bases = rest.filter((option) => option.dataset.kind === "base");
  return [
    { title: gettext("Recently used"), items: recent.map(itemOf) },
    ...named.map((members) => ({ title: fill(gettext("Run %(name)s"), { name: members[0].dataset.run }), items: members.map(itemOf) })),
    { title: gettext("Adapters"), items: alone.map(itemOf) },
    { title: gettext("Base models"), items: bases.map(itemOf) },
  ];
}

function itemOf(option) {
  const { kind, base, rank, best } = option.dataset;
  const facts = kind === "base" ? [] : [base, rank && fill(gettext("rank %(n)s"), { n: rank })].filter(Boolean);
  const name = el("span", { className: "flex min-w-0 items-center gap-1.5" }, cutName(nameOf(option)), best === undefined ? null : el("span", { className: "tag tag-accent flex-none" }, icon("star"), gettext("best")));
  const content = [name];
  if (facts.length) content.push(el("span", { className: "listbox-facts" }, facts.join(" · ")));
  return { option, content, data: { slug: option.value } };
}
