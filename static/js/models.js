// The list of adapters: scan, activate, deactivate, delete, filter without reload, and changes made elsewhere.
import { busy as showBusy, change, deletion } from "./lib/adapter.js";
import { Bulk } from "./lib/bulk.js";
import { $, $$ } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import { pickers } from "./lib/picker.js";
import { comparesRuns } from "./lib/run_compare.js";
import { scan } from "./lib/scan.js";
import { toast } from "./lib/toast.js";
import { Upload } from "./lib/upload.js";

const IDLE_MS = 5000;
const SCANNING_MS = 700;

const list = $("[data-list]");
const busy = new Set();
const bulk = $("[data-bulk]") && new Bulk($("[data-bulk]"), list, () => {
  list.dataset.etag = "";
  return refresh();
});
let scanning = false;
let latest = 0;

// The list -------------------------------------------------------------------------------------------------------

/**
 * Fetch the list and put in what differs. `address`: another filter, order or page; `move`: push or replace it.
 * Resolves to false where there was no answer.
 */
async function refresh(address = location.href, move = null) {
  const turn = ++latest;
  const headers = { "X-Fragment": "1" };
  if (!move && list.dataset.etag) headers["If-None-Match"] = list.dataset.etag;
  let response;
  try {
    response = await fetch(address, { headers, credentials: "same-origin", redirect: "manual", cache: "no-store" });
  } catch {
    return false; // The next round tries again; an action says it itself.
  }
  if (turn !== latest || response.status === 304) return;
  if (!response.ok) return false;
  const html = await response.text();
  if (turn !== latest) return;
  if (move === "push") history.pushState(null, "", address);
  else if (move) history.replaceState(null, "", address);
  list.dataset.etag = response.headers.get("ETag") ?? "";
  replace(new DOMParser().parseFromString(html, "text/html").body);
}

/** Put the new children in by their keys, so that what has not changed keeps focus and selection. */
function replace(fresh) {
  const before = keyed(list);
  const after = keyed(fresh);
  const same = before.length === after.length && before.every((item, index) => item.dataset.key === after[index].dataset.key);
  if (same) {
    before.forEach((item, index) => {
      if (item.dataset.key === "filters") keepOpen(item, after[index]);
      if (item.dataset.key === "filters" && item.contains(document.activeElement)) return keepSearch(item, after[index]);
      if (item.dataset.key === "table") return replaceRows(item, after[index]);
      if (!item.isEqualNode(after[index])) item.replaceWith(document.importNode(after[index], true));
    });
  } else {
    keepOpen(list, fresh);
    const typing = document.activeElement?.matches("[name=search]") ? document.activeElement : null;
    list.replaceChildren(...[...fresh.children].map((child) => document.importNode(child, true)));
    if (typing) restore(typing);
  }
  pickers(list);
  bulk?.apply();
}

const keyed = (root) => [...root.children].filter((child) => child.dataset.key);

/** What is typed or chosen there stays as it is; what the server says of it is drawn anew. */
function keepSearch(old, fresh) {
  for (const part of ["nav", "summary", "[data-filter-foot]"]) $(part, old)?.replaceWith(document.importNode($(part, fresh), true));
}

/** The fields behind "Filter" stay as open as the reader has them. */
function keepOpen(old, fresh) {
  const [before, after] = [$("[data-filter]", old), $("[data-filter]", fresh)];
  if (before && after) after.open = before.open;
}

function restore(typing) {
  const field = $("[name=search]", list);
  if (!field) return;
  field.value = typing.value;
  field.focus();
  field.setSelectionRange(typing.selectionStart, typing.selectionEnd);
}

function replaceRows(card, fresh) {
  const [old, next] = [$("table", card), $("table", fresh)];
  const known = new Map($$("tbody", old).map((row) => [row.id, row]));
  if (!$("thead", old).isEqualNode($("thead", next))) $("thead", old).replaceWith(document.importNode($("thead", next), true));
  let place = $("thead", old);
  for (const wanted of $$("tbody", next)) {
    let row = known.get(wanted.id);
    known.delete(wanted.id);
    if (!row || (!busy.has(wanted.dataset.id) && !row.isEqualNode(wanted))) {
      const imported = document.importNode(wanted, true);
      const focused = row?.contains(document.activeElement) ? document.activeElement.dataset.testid : null;
      row?.remove();
      row = imported;
      place.after(row);
      if (focused) ($(`[data-testid="${focused}"]`, row) ?? $("a, button", row))?.focus();
    } else if (place.nextElementSibling !== row) {
      place.after(row);
    }
    place = row;
  }
  for (const gone of known.values()) gone.remove();
}

// Checkpoints of a run: they come when their row is unfolded. Which ones are, the address says. -----------------------

function unfoldedIn(address) {
  return new Set((new URL(address, location.href).searchParams.get("unfold") ?? "").split(",").filter(Boolean));
}

function addressWith(unfolded) {
  const address = new URL(location.href);
  if (unfolded.size) address.searchParams.set("unfold", [...unfolded].join(","));
  else address.searchParams.delete("unfold");
  address.hash = "";
  return address.href;
}

async function fold(link) {
  const id = link.dataset.unfold;
  const unfolded = unfoldedIn(location.href);
  const folding = unfolded.delete(id);
  link.setAttribute("aria-expanded", String(!folding));
  if (folding) for (const row of $$(`[data-parent="${id}"]`, list)) row.remove();
  else unfolded.add(id);
  history.replaceState(null, "", addressWith(unfolded));
  list.dataset.etag = "";
  if ((await refresh()) !== false || folding) return;
  unfolded.delete(id);
  history.replaceState(null, "", addressWith(unfolded));
  link.setAttribute("aria-expanded", "false");
  toast("bad", gettext("The checkpoints could not be loaded."), gettext("The server cannot be reached. Is it still running?"));
}

// Actions --------------------------------------------------------------------------------------------------------

async function withBusy(button, id, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  showBusy(button, true);
  busy.add(id);
  try {
    await work();
  } finally {
    busy.delete(id);
    showBusy(button, false);
  }
  list.dataset.etag = "";
  await refresh();
}

function act(button) {
  const row = button.closest("[data-id]");
  const focusBack = document.activeElement === button;
  return withBusy(button, row.dataset.id, async () => {
    const words = await change(button, row.dataset.name);
    if (words) toast("good", ...words);
  }).then(() => {
    if (!focusBack) return;
    const fresh = document.getElementById(row.id);
    (fresh && ($("[data-testid=test-link]", fresh) ?? $("button, a", fresh)))?.focus();
  });
}

async function scanNow(button) {
  scanning = true;
  poll(SCANNING_MS);
  await withBusy(button, "scan", async () => {
    await scan();
    scanning = false;
  });
}

const dialog = $("#delete-dialog");
const openDelete =
  dialog &&
  deletion(dialog, (name) => {
    toast("good", fill(gettext("%(name)s was deleted"), { name }));
    list.dataset.etag = "";
    refresh();
  });

const upload =
  $("#upload-dialog") &&
  new Upload($("#upload-dialog"), () => {
    list.dataset.etag = "";
    refresh();
  });

const importing = $("[data-import]");
if (importing) {
  import("./lib/imports.js").then(({ imports }) =>
    imports(importing, $("[data-import-form]"), () => {
      list.dataset.etag = "";
      refresh();
    }),
  );
}

// Events ---------------------------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-nav]");
  const plain = !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (link && plain) {
    event.preventDefault();
    refresh(link.href, "push");
    return;
  }
  const run = event.target.closest("[data-unfold]");
  if (run && plain) {
    event.preventDefault();
    fold(run);
    return;
  }
  const button = event.target.closest("button");
  if (!button) return;
  if ("scan" in button.dataset) scanNow(button);
  else if ("uploadOpen" in button.dataset) upload.open();
  else if ("action" in button.dataset) act(button);
  else if ("delete" in button.dataset) openDelete(button);
});

let typingTimer;

function search(form) {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  const text = query.toString();
  refresh(`${location.pathname}${text ? `?${text}` : ""}`, "replace");
}

list.addEventListener("input", (event) => {
  const form = event.target.closest("[data-search]");
  if (!form) return;
  clearTimeout(typingTimer);
  typingTimer = setTimeout(() => search(form), 250);
});

list.addEventListener("submit", (event) => {
  const form = event.target.closest("[data-search]");
  if (!form) return;
  event.preventDefault();
  clearTimeout(typingTimer);
  search(form);
});

pickers(list);
comparesRuns(() => {
  list.dataset.etag = "";
  refresh();
});

window.addEventListener("popstate", () => {
  list.dataset.etag = "";
  refresh();
});

// Changes made elsewhere ------------------------------------------------------------------------------------------

let timer;

function poll(delay) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (document.visibilityState === "visible") await refresh();
    poll(scanning || $("[data-scanning]", list) ? SCANNING_MS : IDLE_MS);
  }, delay);
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") refresh();
});
poll(IDLE_MS);
document.documentElement.dataset.ready = "true";
