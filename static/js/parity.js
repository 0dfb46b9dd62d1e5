// A parity report, which is followed while it is under way.
import { post, request } from "./lib/api.js";
import { $, data } from "./lib/dom.js";
import { gettext } from "./lib/i18n.js";
import { poll } from "./lib/poll.js";
import { failed, toastLater } from "./lib/toast.js";

const EVERY_MS = 2000;
const UNDER_WAY = new Set(["queued", "running"]);
const API = `/api/evaluations/parity/${$("[data-parity]").dataset.parity}`;
const part = $("[data-part]");
let shown = data("whole");

async function follow(report) {
  const looks = ({ state, done, precisions }) => JSON.stringify([state, done, precisions]);
  const moved = looks(report) !== looks(shown);
  shown = report;
  $("[data-cancel]").hidden = !UNDER_WAY.has(report.state);
  if (!moved) return;
  const response = await fetch(location.href, { headers: { "X-Part": "1" }, credentials: "same-origin" });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  part.replaceChildren(...fresh.body.childNodes);
}

$("[data-cancel]").addEventListener("click", () => post(`${API}/cancel`).then(follow).catch(failed));
$("[data-delete-parity]").addEventListener("submit", async () => {
  try {
    await request("DELETE", API);
    toastLater("good", gettext("Deleted"));
    location.assign("/evaluations/parity");
  } catch (error) {
    failed(error);
  }
});
if (UNDER_WAY.has(shown.state)) poll(API, follow, $("[data-problem]"), EVERY_MS);
document.documentElement.dataset.ready = "true";
