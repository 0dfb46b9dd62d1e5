// The fleet as it is now: asks every five seconds while somebody looks.
import { $, cutName, el } from "./dom.js";
import { fill, gettext, ngettext, number, percent } from "./i18n.js";
import { poll } from "./poll.js";

const EVERY_MS = 5000;
const root = $("[data-fleet]"); // absent where the engine runs on this machine

const put = (name, value) => ($(`[data-value="${name}"]`, root).textContent = value);
const row = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", { className: "min-w-0 break-words" }, ...value));
const figure = (value) => (value === null ? "–" : number(value));

function card(address) {
  const good = address.reachable;
  const badge = el("span", { className: `badge ${good ? "badge-active" : "badge-failed"}` }, good ? gettext("Reachable") : gettext("Unavailable"));
  const rows = [];
  if (!good) rows.push(row(gettext("Reason"), address.message));
  else {
    const base = address.root && address.root !== address.base ? `${address.base} · ${address.root}` : address.base;
    rows.push(
      row(gettext("Base model"), base),
      row(gettext("Context"), address.context ? fill(gettext("%(n)s tokens"), { n: number(address.context) }) : "–"),
      row(gettext("Version"), address.version || "–"),
      row(gettext("Adapters"), number(address.adapter_count)),
      row(gettext("Running"), figure(address.running)),
      row(gettext("Waiting"), figure(address.waiting)),
      row(gettext("KV cache"), address.kv_cache === null ? "–" : percent(address.kv_cache)),
      row(gettext("Adapter slots"), figure(address.slots)),
    );
  }
  const head = el("div", { className: "card-head" }, el("h3", { className: "min-w-0 break-words font-mono text-sm" }, address.address), badge);
  const facts = el("dl", { className: "fact-list" }, ...rows);
  const warning = address.slots_full ? [el("p", { className: "note note-warn m-4", dataset: { testid: "slots-full" } }, gettext("Every adapter slot is taken. On a CPU, vLLM 0.32 then gives wrong answers for the base model. Restart it with a higher --max-loras."))] : [];
  return el("section", { className: "card", dataset: { testid: "fleet-address", reachable: String(good) } }, head, ...warning, facts);
}

function showBank(adapters) {
  $("[data-bank-count]", root).textContent = adapters.length;
  const chips = adapters.map((one) => {
    const used = one.in_use ? el("span", { className: "flex-none" }, `· ${fill(ngettext("%(n)s answer", "%(n)s answers", one.in_use), { n: one.in_use })}`) : null;
    return el("li", { className: `badge ${one.in_use ? "badge-active" : ""}`, title: one.digest }, cutName(one.name), used);
  });
  $("[data-bank]", root).replaceChildren(...(chips.length ? chips : [el("li", { className: "text-sm text-ink-2" }, gettext("None. Adapters are loaded on first request."))]));
}

function show({ worker, engine }) {
  const addresses = engine?.fleet ?? [];
  const there = addresses.filter((address) => address.reachable).length;
  put("state", there === addresses.length ? gettext("Ready") : there ? gettext("Partly available") : gettext("Unavailable"));
  put("reachable", fill(gettext("%(n)s of %(all)s reachable"), { n: there, all: addresses.length }));
  put("running", number(engine?.running ?? 0));
  put("waiting", number(engine?.waiting ?? 0));
  put("in_flight", fill(gettext("%(n)s in progress"), { n: worker.in_flight ?? 0 }));
  put("tokens", number(engine?.tokens ?? 0));
  $("[data-addresses]", root).replaceChildren(...addresses.map(card));
  showBank(engine?.adapters ?? []);
  root.dataset.shown = "true";
}

export const watchFleet = root ? () => poll(root.dataset.url, show, $("[data-problem]", root), EVERY_MS) : null;
