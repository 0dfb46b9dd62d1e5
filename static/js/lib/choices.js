// What a picker lists of a select: its own options, by their words.
import { cutName } from "./dom.js";
import { fill, gettext, ngettext, number } from "./i18n.js";

/** Of an entry of a select; what the option shows may be cut. */
export const nameOf = (option) => option.dataset.name ?? option.textContent;

export const hasWords = (text, words) => words.toLowerCase().split(/\s+/).every((word) => text.toLowerCase().includes(word));

/** The select's own options, in its order. */
export class OwnChoices {
  label = gettext("Choices");
  none = gettext("No choices");
  after = 0;

  constructor(select) {
    this.select = select;
  }

  here(words) {
    const options = [...this.select.options].filter((option) => hasWords(`${nameOf(option)} ${option.value}`, words));
    return { options, count: options.length };
  }

  groups(options) {
    return [{ title: "", items: options.map((option) => ({ option, content: [cutName(nameOf(option))], data: { value: option.value } })) }];
  }

  note(n) {
    return fill(ngettext("%(n)s choice", "%(n)s choices", n), { n: number(n) });
  }
}
