// What operators do with one adapter, on the list and on its own page: activate, deactivate, delete.
import { get, post, request } from "./api.js";
import { $ } from "./dom.js";
import { askReason, isObjection } from "./gate.js";
import { fill, gettext, number } from "./i18n.js";
import { failed } from "./toast.js";

export function busy(button, on) {
  if (on) button.setAttribute("aria-busy", "true");
  else button.removeAttribute("aria-busy");
  button.disabled = on;
}

/** Activate, repair and activate, or deactivate. Resolves to the words of a toast, [title, detail], or null where it failed (already reported). */
export async function change(button, name) {
  const activating = button.dataset.action !== "deactivate";
  let started = performance.now();
  const watch = activating ? showProgress(button) : null;
  const body = button.dataset.plan ? { plan: button.dataset.plan } : {};
  try {
    try {
      await post(button.dataset.url, body);
    } catch (error) {
      const override = isObjection(error) ? await askReason(name, error.message) : null;
      if (override === null) throw error;
      started = performance.now();
      await post(button.dataset.url, { ...body, override });
    }
  } catch (error) {
    failed(error, fill(activating ? gettext("Could not activate %(name)s") : gettext("Could not deactivate %(name)s"), { name }));
    return null;
  } finally {
    watch?.stop();
  }
  if (!activating) return [fill(gettext("%(name)s has been deactivated"), { name }), ""];
  const seconds = number((performance.now() - started) / 1000, 1);
  return [fill(gettext("%(name)s has been activated"), { name }), fill(gettext("Checked, copied and ready in %(seconds)s s."), { seconds })];
}

const WATCH_MS = 500;

/** How far the copy of a large adapter is, in its button; a small one is done before the first look. */
function showProgress(button) {
  const shown = document.createElement("span");
  shown.className = "num";
  const timer = setInterval(async () => {
    try {
      const { activation } = await get(button.dataset.url.replace(/\/(activate|repair)$/, ""));
      if (!activation?.progress) return;
      shown.textContent = `${Math.round(100 * activation.progress)} %`;
      if (!shown.isConnected) button.append(shown);
    } catch {
      // The activation itself tells what went wrong.
    }
  }, WATCH_MS);
  return {
    stop() {
      clearInterval(timer);
      shown.remove();
    },
  };
}

/** The deletion dialog; `deleted(name)` runs after a deletion. Returns a function that opens it for a button. */
export function deletion(dialog, deleted) {
  const go = $("[data-delete-go]", dialog);
  const problem = $("[data-delete-error]", dialog);
  const typed = $("#delete-typed", dialog);
  let subject = null;

  function update() {
    const files = $("[name=what]:checked", dialog).value === "files";
    $("[data-delete-confirm]", dialog).hidden = !files;
    go.disabled = files && typed.value !== subject.name;
    return files;
  }

  dialog.addEventListener("input", update);
  $("form", dialog).addEventListener("submit", async (event) => {
    event.preventDefault();
    const files = update();
    if (go.disabled) return;
    busy(go, true);
    try {
      await request("DELETE", `${subject.url}${files ? `?files=1&confirm=${encodeURIComponent(subject.name)}` : ""}`);
      dialog.close();
      deleted(subject.name);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      busy(go, false);
    }
  });

  return (button) => {
    subject = { url: button.dataset.url, name: button.closest("[data-id]").dataset.name };
    $("form", dialog).reset();
    $("[data-delete-name]", dialog).textContent = subject.name;
    problem.hidden = true;
    update();
    dialog.showModal();
  };
}
