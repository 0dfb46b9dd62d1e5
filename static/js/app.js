// What every page needs: theme, menus, copy buttons, dialogs, the palette and its keys.
import { copyText } from "./lib/clipboard.js";
import { $, $$ } from "./lib/dom.js";
import { gettext } from "./lib/i18n.js";
import { setTheme, theme, THEMES } from "./lib/theme.js";
import { showWaiting, toast } from "./lib/toast.js";

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
}

async function copy(button) {
  const source = button.dataset.copy || document.getElementById(button.dataset.copyFrom)?.textContent || "";
  if (await copyText(source.trim())) toast("good", gettext("Copied"));
  else toast("bad", gettext("The browser does not allow this page to copy. Select the text and copy it manually."));
}

// A closed list may have no room for the name that is chosen in it.
const showChoice = (list) => (list.title = list.selectedOptions[0]?.dataset.name ?? "");

document.addEventListener("change", ({ target }) => target.matches("select") && showChoice(target));
for (const list of $$("select:has(option[data-name])")) showChoice(list);

document.addEventListener("click", (event) => {
  for (const menu of $$("details[data-menu][open]")) if (!menu.contains(event.target)) menu.open = false;
  const target = event.target.closest("[data-theme-toggle], [data-theme-set], [data-copy], [data-copy-from], [data-opens], [data-closes], [data-palette], [data-keys]");
  if (!target) return;
  if ("themeToggle" in target.dataset) nextTheme();
  else if ("themeSet" in target.dataset) setTheme(target.dataset.themeSet);
  else if ("palette" in target.dataset) search();
  else if ("keys" in target.dataset) showKeys();
  else if ("opens" in target.dataset) document.getElementById(target.dataset.opens)?.showModal();
  else if ("closes" in target.dataset) target.closest("dialog")?.close();
  else copy(target);
});

// Search and keys: their code comes when it is wanted.
const palette = $("[data-palette]"); // absent where nobody is signed in
let open = null; // once it is there nothing that is typed after the key is lost
const load = () => import("./lib/palette.js").then(({ openPalette }) => (open = () => openPalette("operator" in palette.dataset)));
const search = () => (open ? open() : load().then(() => open()));
const showKeys = () => import("./lib/keys.js").then(({ openKeys }) => openKeys());
const isMac = /Mac|iPhone|iPad/.test(navigator.userAgent);
const isEditable = (node) => node.matches("input:not([type=checkbox], [type=radio], [type=range]), textarea, select") || node.isContentEditable;

if (palette) {
  document.addEventListener("keydown", (event) => {
    const isOpen = $("dialog[open]") !== null;
    if (!open && event.key === (isMac ? "Meta" : "Control")) load().catch(() => {}); // the letter may follow
    if (event.key?.toLowerCase() === "k" && (isMac ? event.metaKey : event.ctrlKey) && !event.shiftKey && !event.altKey) {
      event.preventDefault(); // the browser's own search
      if (!isOpen) search();
    } else if (event.key === "?" && !isOpen && !isEditable(event.target) && localStorage.getItem("no-question-key") === null) {
      event.preventDefault();
      showKeys();
    }
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of $$("details[data-menu][open]")) {
    menu.open = false;
    $("summary", menu)?.focus();
  }
});

// What this account asked last lies in the browser (lib/recent.js): whoever signs out here leaves none of it.
document.addEventListener("submit", ({ target }) => {
  if ($('[data-testid="logout"]', target)) localStorage.removeItem(`recent-prompts-${document.documentElement.dataset.user}`);
});

showWaiting();
if ($("[data-awaits-models]")) import("./lib/awaiting.js");
