// What every page needs: theme, menus, copy buttons, dialogs.
import { copyText } from "./lib/clipboard.js";
import { $, $$ } from "./lib/dom.js";
import { gettext } from "./lib/i18n.js";
import { showWaiting, toast } from "./lib/toast.js";

const YEAR = 365 * 24 * 3600;
const THEMES = ["", "light", "dark"];

function setTheme(theme) {
  const root = document.documentElement;
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  const age = theme ? YEAR : 0;
  document.cookie = `theme=${theme}; path=/; max-age=${age}; samesite=lax`;
}

function chooseTheme(button) {
  setTheme(button.dataset.themeSet);
  for (const other of $$("[data-theme-set]")) other.setAttribute("aria-pressed", String(other === button));
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  const names = { "": gettext("System theme"), light: gettext("Light theme"), dark: gettext("Dark theme") };
  const chosen = document.documentElement.dataset.theme ?? "";
  $$("[data-theme-toggle]").forEach((button) => (button.title = names[chosen]));
}

async function copy(button) {
  const source = button.dataset.copy || document.getElementById(button.dataset.copyFrom)?.textContent || "";
  if (await copyText(source.trim())) toast("good", gettext("Copied"));
  else toast("bad", gettext("The browser does not let this page copy. Select the text and copy it yourself."));
}

document.addEventListener("click", (event) => {
  for (const menu of $$("details[data-menu][open]")) if (!menu.contains(event.target)) menu.open = false;
  const target = event.target.closest("[data-theme-toggle], [data-theme-set], [data-copy], [data-copy-from], [data-opens], [data-closes]");
  if (!target) return;
  if ("themeToggle" in target.dataset) nextTheme();
  else if ("themeSet" in target.dataset) chooseTheme(target);
  else if ("opens" in target.dataset) document.getElementById(target.dataset.opens)?.showModal();
  else if ("closes" in target.dataset) target.closest("dialog")?.close();
  else copy(target);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of $$("details[data-menu][open]")) {
    menu.open = false;
    $("summary", menu)?.focus();
  }
});

showWaiting();
