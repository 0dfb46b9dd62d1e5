import { toast } from "./lib/toast.js";

document.addEventListener("click", (event) => {
  const kind = event.target.closest("[data-toast]")?.dataset.toast;
  if (kind) toast(kind, kind === "good" ? "pirate is active" : "pirate was not activated", "0.3 s");
});
