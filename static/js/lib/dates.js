// Moments for people, in the page's language and the reader's time zone.
import { locale } from "./i18n.js";

const FORMATS = {
  today: { hour: "2-digit", minute: "2-digit", hour12: false },
  thisYear: { month: "short", day: "numeric" },
  earlier: { year: "numeric", month: "numeric", day: "numeric" },
  whole: { dateStyle: "full", timeStyle: "short" },
};

const formatted = (at, name) => new Intl.DateTimeFormat(locale, FORMATS[name]).format(at);

/** The time of what is from today, else the day. */
export function shortDate(value, now = new Date()) {
  const at = new Date(value);
  if (at.toDateString() === now.toDateString()) return formatted(at, "today");
  return formatted(at, at.getFullYear() === now.getFullYear() ? "thisYear" : "earlier");
}

/** Show `value` in a `<time>`; pointed at, it is told whole. */
export function showDate(element, value) {
  element.dateTime = value;
  element.textContent = shortDate(value);
  element.title = formatted(new Date(value), "whole");
}
