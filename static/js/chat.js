// The chat page: a conversation's branch, asking, following answers, versions, settings.
import { failed, toast } from "./lib/toast.js";
import { get, post, request } from "./lib/api.js";
import { ChatSocket } from "./lib/chatsocket.js";
import { copyText } from "./lib/clipboard.js";
import { $, data, el } from "./lib/dom.js";
import { fill, gettext } from "./lib/i18n.js";
import { MessageView } from "./lib/message.js";
import { fieldOf, Parameters } from "./lib/params.js";
import { Sidebar } from "./lib/sidebar.js";
import { Tree } from "./lib/tree.js";

const API = "/api/chat/conversations";
const NEAR_END = 80;
const LOOK_AGAIN_MS = [500, 1000, 2000, 4000, 8000];
const DRAFT = "chat-draft";

const root = $("[data-chat]");
const log = $("[data-log]");
const place = $("[data-messages]");
const composer = $("[data-composer]");
const settings = $("[data-settings]");
const notice = $("[data-notice]");
const { content: field, target } = composer.elements;

let conversation = data("conversation");
let leaf = conversation?.leaf ?? null;
let following = null; // the answer that is being written in the branch shown
const tree = new Tree(conversation?.messages);
const views = new Map();
const parameters = new Parameters(settings);
const sidebar = new Sidebar(root, () => conversation?.id);
const socket = new ChatSocket(root.dataset.socket, `${API}?page_size=1`, {
  sync: (frame) => change(frame.message, (view) => view.text(frame.text)),
  text: (frame) =>
    change(frame.message, (view) => {
      if (!view.message.content) view.progress("");
      view.text(view.message.content + frame.text);
    }),
  progress: (frame) => change(frame.message, (view) => view.showProgress(frame)),
  trimmed: (frame) => change(frame.message, (view) => view.trimmed(frame.count)),
  done: ({ message }) => finished(message),
  lost: (signedOut) => say(signedOut ? gettext("You were signed out. Sign in again in another tab, then come back here; your text is kept.") : gettext("The connection was lost. Trying again…")),
  back: () => say(""),
});

// Showing ----------------------------------------------------------------------------------------------------------

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
const toEnd = () => (log.scrollTop = log.scrollHeight);

function change(id, work) {
  const view = views.get(id);
  if (!view) return;
  const follow = atEnd();
  view.onDraw = () => follow && toEnd();
  work(view);
}

function viewOf(message) {
  if (!views.has(message.id)) views.set(message.id, new MessageView(message));
  return views.get(message.id);
}

function show(scroll = true) {
  const branch = tree.branch(leaf);
  const nodes = [];
  let speaker = null;
  branch.forEach((message, index) => {
    if (message.role === "assistant") {
      if (speaker !== null && speaker !== message.target) {
        nodes.push(el("p", { className: "switch-mark", dataset: { testid: "switch-mark" } }, fill(gettext("Now %(name)s"), { name: message.target_name || message.target })));
      }
      speaker = message.target;
    }
    const view = viewOf(message);
    const versions = tree.versions(message);
    view.showFoot({ index: versions.indexOf(message), count: versions.length }, index === branch.length - 1);
    nodes.push(view.element);
  });
  place.replaceChildren(...nodes);
  $("[data-empty]").hidden = branch.length > 0;
  const running = branch.find((message) => message.state === "running");
  following = running?.id ?? null;
  if (field) {
    $("[data-stop]").hidden = following === null;
    $("[data-send]").hidden = following !== null;
  }
  showConversation();
  if (scroll) toEnd();
}

function showConversation() {
  const title = $("[data-title]");
  title.textContent = conversation?.title ?? "";
  title.hidden = !title.textContent;
  $("[data-conversation-menu]").hidden = !conversation;
  if (!conversation) return;
  document.title = `${conversation.title || gettext("Chat")} · LoRA Portal`;
  for (const kind of ["md", "json"]) $(`[data-export="${kind}"]`).href = `${API}/${conversation.id}/export.${kind}`;
  sidebar.put(conversation);
}

function finished(message) {
  const known = tree.get(message.id);
  if (!known) return;
  Object.assign(known, message);
  const follow = atEnd();
  viewOf(known).update(known);
  show(follow);
  if (message.state === "failed") {
    const name = fieldOf(message.info.error.param);
    if (name && name !== "prompt" && parameters.error(name, message.info.error.message)) $("#chat-settings").showModal();
  }
}

// Asking -----------------------------------------------------------------------------------------------------------

async function ensureConversation() {
  if (conversation) return;
  conversation = await post(API, { system: settings.elements.system.value, target: target.value });
  history.replaceState(null, "", `/chat/${conversation.id}`);
}

async function run(frame) {
  const params = parameters.read();
  if (!params) {
    $("#chat-settings").showModal();
    return false;
  }
  try {
    await ensureConversation();
    const started = await socket.ask({ conversation: conversation.id, target: target.value, params, ...frame });
    Object.assign(conversation, started.conversation);
    if (started.question) tree.put(started.question);
    const known = tree.get(started.answer.id);
    if (known) Object.assign(known, started.answer);
    else tree.put(started.answer);
    if (known) viewOf(known).update(known);
    leaf = started.answer.id;
    show();
    return true;
  } catch (error) {
    if (error.code === "connection_lost" && (await arrived())) return true;
    const lost = { not_connected: gettext("The server refused the connection. If you were signed out, sign in again in another tab, then retry."), connection_lost: gettext("The connection was lost. Try again.") };
    failed({ message: error.message ?? lost[error.code] ?? "", code: error.code }, gettext("Not sent"));
    return false;
  }
}

/** After a connection that was lost while asking: whether the server has the question. It then goes on here. */
async function arrived() {
  for (const delay of LOOK_AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, delay));
    try {
      const { messages, ...fresh } = await get(`${API}/${conversation.id}`);
      const end = messages.find((message) => message.id === fresh.leaf);
      const isNew = end && (!tree.get(end.id) || (end.state === "running" && tree.get(end.id).state !== "running"));
      if (!isNew) return false;
      for (const message of messages) {
        const known = tree.get(message.id);
        if (known) viewOf(Object.assign(known, message)).update(known);
        else tree.put(message);
      }
      Object.assign(conversation, fresh);
      leaf = end.id;
      show();
      if (following !== null) socket.follow(following);
      return true;
    } catch (error) {
      if (error.status) return false; // else the server cannot be reached yet
    }
  }
  return false;
}

async function send() {
  const text = field.value;
  if (!text.trim() || following !== null) return;
  field.value = "";
  if (!(await run({ type: "ask", parent: leaf, content: text }))) field.value ||= text;
  else sessionStorage.removeItem(DRAFT);
}

// What a message's buttons do --------------------------------------------------------------------------------------

const actions = {
  copy: async (message) => (await copyText(message.content)) && toast("good", gettext("Copied")),
  again: (message) => run({ type: "again", message: message.parent }),
  continue: (message) => run({ type: "continue", message: message.id }),
  edit: (message) => viewOf(message).edit((text) => run({ type: "ask", parent: message.parent, content: text })),
  before: (message) => turn(message, -1),
  after: (message) => turn(message, 1),
};

function turn(message, step) {
  const versions = tree.versions(message);
  const other = versions[versions.indexOf(message) + step];
  if (!other) return;
  leaf = tree.end(other);
  show(false);
  if (following !== null) socket.follow(following);
  request("PATCH", `${API}/${conversation.id}`, { leaf }).catch((error) => failed(error));
}

place.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const message = tree.get(Number(button.closest("[data-id]").dataset.id));
  if (following !== null && !["copy", "before", "after"].includes(button.dataset.act)) return toast("info", gettext("Wait for the answer, or stop it."));
  actions[button.dataset.act](message);
});

// Composer, settings, menu -----------------------------------------------------------------------------------------

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
field?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
field?.addEventListener("input", () => sessionStorage.setItem(DRAFT, field.value));
$("[data-stop]")?.addEventListener("click", () => following !== null && socket.stop(following));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && following !== null && !$("dialog[open]")) socket.stop(following);
});

$("[data-empty]").addEventListener("click", (event) => {
  const sample = event.target.closest("[data-sample]");
  if (!sample || !field) return;
  field.value = sample.textContent;
  send();
});

settings.addEventListener("submit", async () => {
  const system = settings.elements.system.value;
  if (!conversation || system === conversation.system) return;
  try {
    Object.assign(conversation, await request("PATCH", `${API}/${conversation.id}`, { system }));
  } catch (error) {
    failed(error);
  }
});

$("[data-rename]").addEventListener("click", () => {
  $("#rename-text").value = conversation.title;
  $("#rename-dialog").showModal();
});
$("[data-rename-form]").addEventListener("submit", async () => {
  try {
    Object.assign(conversation, await request("PATCH", `${API}/${conversation.id}`, { title: $("#rename-text").value.trim() }));
    showConversation();
  } catch (error) {
    failed(error);
  }
});
$("[data-remove]").addEventListener("click", () => $("#remove-dialog").showModal());
$("[data-remove-form]").addEventListener("submit", async () => {
  try {
    await request("DELETE", `${API}/${conversation.id}`);
    location.assign("/chat");
  } catch (error) {
    failed(error);
  }
});

// A model that is gone stays chosen until another one is: nobody else answers for it.
target?.addEventListener("change", () => document.querySelectorAll("[data-unknown]").forEach((node) => node.value === target.value || node.remove()));

// Begin --------------------------------------------------------------------------------------------------------------

if (conversation) {
  settings.elements.system.value = conversation.system;
  parameters.fill(conversation.params);
}
if (field && !field.value) field.value = sessionStorage.getItem(DRAFT) ?? "";
show();
if (following !== null) socket.follow(following);
document.documentElement.dataset.ready = "true";
