// What the server says, again and again while somebody looks.
import { get } from "./api.js";

/** Ask `url` now and every `ms`, and hand over each answer; `problem` says why there is none. */
export async function poll(url, show, problem, ms) {
  if (document.visibilityState === "visible") {
    try {
      show(await get(url));
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }
  setTimeout(poll, ms, url, show, problem, ms);
}
