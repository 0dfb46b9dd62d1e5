// A page that waits for the first scan to find a model: it is loaded anew when there is one, or when there is none.

const EVERY_MS = 1500;

async function look() {
  if (document.visibilityState === "visible") {
    try {
      const response = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      if (response.ok && !page.querySelector("[data-awaits-models]")) return location.reload();
    } catch {
      // The server may be starting again; the next look tells.
    }
  }
  setTimeout(look, EVERY_MS);
}

setTimeout(look, EVERY_MS);
