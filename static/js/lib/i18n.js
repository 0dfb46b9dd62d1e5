// Django's JavaScript catalogue, loaded before the modules as a script of its own. Without it: English.

const catalogue = globalThis.django ?? {};

export const gettext = (text) => (catalogue.gettext ? catalogue.gettext(text) : text);

export const ngettext = (one, many, count) =>
  catalogue.ngettext ? catalogue.ngettext(one, many, count) : count === 1 ? one : many;

/** Fill `%(name)s` places. */
export const fill = (text, values) =>
  text.replace(/%\((\w+)\)[sd]/g, (_, name) => String(values[name] ?? "–"));

/** Of the page. */
export const locale = document.documentElement.lang || "en";

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(locale, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

/** A share 0..1 in per cent. */
export const percent = (share, digits = 0) =>
  new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: digits }).format(share);

/** A guess of seconds for people, no more exact than a guess is: about 20 s, about 3 min. */
export function about(value) {
  if (value < 4) return gettext("a few seconds");
  if (value < 57.5) return fill(gettext("about %(n)s s"), { n: 5 * Math.round(value / 5) });
  return fill(gettext("about %(n)s min"), { n: Math.round(value / 60) });
}

/** Seconds for people: 0.48 s, 12.3 s, 2 min 5 s. */
export function seconds(value) {
  if (value < 10) return fill(gettext("%(n)s s"), { n: number(value, 2) });
  if (value < 60) return fill(gettext("%(n)s s"), { n: number(value, 1) });
  return fill(gettext("%(m)s min %(s)s s"), { m: Math.floor(value / 60), s: Math.round(value % 60) });
}
