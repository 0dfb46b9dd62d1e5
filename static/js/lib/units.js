// Values with their units.
import { number, fill, gettext } from "./i18n.js";

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${number(size, unit > 2 ? 2 : 0)} ${units[unit]}`;
}

/** Seconds, from tenths of milliseconds to hours. */
export function duration(value) {
  if (value === 0) return "0";
  if (value < 0.0995) return fill(gettext("%(n)s ms"), { n: number(value * 1000, value < 0.00995 ? 1 : 0) });
  if (value < 100) return fill(gettext("%(n)s s"), { n: number(value, value < 10 ? 2 : 1) });
  return fill(gettext("%(n)s min"), { n: number(value / 60, 1) });
}

/** A count or a rate, with as many digits as it needs. */
export function amount(value) {
  return number(value, value === 0 || Number.isInteger(value) ? 0 : value < 1 ? 2 : value < 100 ? 1 : 0);
}
