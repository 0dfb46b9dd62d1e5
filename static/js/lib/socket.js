// One websocket to /ws/generate for a page. Opened when first needed, opened anew after a loss.
import { gettext } from "./i18n.js";

const UNAUTHENTICATED = 4401;
const ACK_EVERY = 8;

export class GenerateSocket {
  #socket = null;
  #running = new Map();
  #next = 1;

  constructor(path) {
    this.url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
  }

  /**
   * Ask `targets`, and `blends` by their names, the same. `handlers` may hold queued, loading, token, done, error: each gets the frame.
   * Each target ends with exactly one done or error. Returns {id, stop()}.
   */
  generate(request, handlers) {
    const id = `${Date.now().toString(36)}-${this.#next++}`;
    const run = { handlers, open: new Set([...(request.targets ?? []), ...(request.blends ?? []).map((blend) => blend.name)]), stopped: false };
    this.#running.set(id, run);
    this.#connected().then(
      (socket) => {
        if (run.stopped) this.#finish(id, "done", { finish_reason: "cancelled", usage: null, timings: null });
        else socket.send(JSON.stringify({ type: "generate", id, ...request }));
      },
      () => this.#finish(id, "error", refused()),
    );
    return { id, stop: () => this.#stop(id) };
  }

  #connected() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return this.#socket.opened;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", () => resolve(socket));
      socket.addEventListener("close", reject);
    });
    socket.opened.catch(() => {});
    socket.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.#closed(socket, event.code));
    return socket.opened;
  }

  #receive(frame) {
    const run = this.#running.get(frame.id);
    if (!run) {
      if (frame.type === "error" && frame.id === null) for (const id of [...this.#running.keys()]) this.#finish(id, "error", frame);
      return;
    }
    if (frame.code === "revoked") Object.assign(frame, signedOut()); // what a browser has is its session
    if (frame.target === null) return this.#finish(frame.id, "error", frame);
    run.handlers[frame.type]?.(frame);
    if (frame.type === "token" && frame.index % ACK_EVERY === ACK_EVERY - 1) {
      this.#send({ type: "ack", id: frame.id, target: frame.target, index: frame.index });
    }
    if (frame.type === "done" || frame.type === "error") {
      run.open.delete(frame.target);
      if (run.open.size === 0) this.#running.delete(frame.id);
    }
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #stop(id) {
    const run = this.#running.get(id);
    if (!run) return;
    run.stopped = true;
    this.#send({ type: "stop", id });
  }

  /** End whatever of `id` is still open with one frame per target. */
  #finish(id, type, frame) {
    const run = this.#running.get(id);
    if (!run) return;
    this.#running.delete(id);
    for (const target of run.open) run.handlers[type]?.({ ...frame, type, id, target });
  }

  #closed(socket, code) {
    if (this.#socket === socket) this.#socket = null;
    const frame = code === UNAUTHENTICATED ? signedOut() : lost();
    for (const id of [...this.#running.keys()]) this.#finish(id, "error", frame);
  }
}

const signedOut = () => ({
  code: "signed_out",
  message: gettext("You were signed out. Sign in again in another tab, then retry here; your text is kept."),
  param: null,
});

const lost = () => ({
  code: "connection_lost",
  message: gettext("The connection was lost. The part already received is kept; send again to retry."),
  param: null,
});

const refused = () => ({
  code: "not_connected",
  message: gettext("The server refused the connection. If you were signed out, sign in again in another tab, then retry."),
  param: null,
});
