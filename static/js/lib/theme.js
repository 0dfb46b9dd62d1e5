// Light, dark, or what the reader's system prefers ("").
import { $$ } from "./dom.js";
import { gettext } from "./i18n.js";

const YEAR = 365 * 24 * 3600;

export const THEMES = ["", "light", "dark"];

export const themeNames = () => ({ "": gettext("System theme"), light: gettext("Light theme"), dark: gettext("Dark theme") });

export const theme = () => document.documentElement.dataset.theme ?? "";

export function setTheme(wanted) {
  const root = document.documentElement;
  if (wanted) root.dataset.theme = wanted;
  else delete root.dataset.theme;
  document.cookie = `theme=${wanted}; path=/; max-age=${wanted ? YEAR : 0}; samesite=lax`;
  for (const button of $$("[data-theme-toggle]")) button.title = themeNames()[wanted];
  for (const button of $$("[data-theme-set]")) button.setAttribute("aria-pressed", String(button.dataset.themeSet === wanted));
}
