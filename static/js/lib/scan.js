// A scan of the training folders, and what it came to in words.
import { post } from "./api.js";
import { fill, gettext, ngettext, number } from "./i18n.js";
import { failed, toast } from "./toast.js";

/** Scan and say what was found, as a toast. */
export async function scan() {
  try {
    toast("good", ...scanSummary(await post("/api/lora/scan")));
  } catch (error) {
    failed(error, error.status === 409 ? gettext("A scan is already running") : gettext("The scan failed"));
  }
}

function scanSummary(summary) {
  const parts = [
    [summary.new, gettext("%(n)s new")],
    [summary.changed, gettext("%(n)s changed")],
    [summary.missing, gettext("%(n)s missing")],
    [summary.incomplete, gettext("%(n)s incomplete")],
  ]
    .filter(([count]) => count)
    .map(([count, text]) => fill(text, { n: number(count) }));
  if (!parts.length) parts.push(gettext("nothing new"));
  const found = fill(ngettext("%(n)s adapter found", "%(n)s adapters found", summary.found), { n: number(summary.found) });
  const took = fill(gettext("in %(seconds)s s"), { seconds: number(summary.duration_ms / 1000, summary.duration_ms < 1000 ? 2 : 1) });
  return [found, [...parts, took].join(" · ")];
}
