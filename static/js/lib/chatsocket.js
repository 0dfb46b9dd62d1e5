// The connection to /ws/chat: opened when needed, opened again after a loss, and then whatever ran is followed on.
// A refused handshake has no reason that a page may see: the API is asked whether the session has ended.
import { get } from "./api.js";

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const UNAUTHENTICATED = 4401;

export class ChatSocket {
  #socket = null;
  #following = new Set();
  #asking = new Map();
  #retries = 0;
  #timer = 0;
  #next = 1;

  /** `probe`: an address of the API. `handlers`: sync, text, trimmed, progress, done (each gets the frame), lost(isSignedOut), back(). */
  constructor(path, probe, handlers) {
    this.probe = probe;
    this.url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
    this.handlers = handlers;
    // Whoever signs in again does so in another tab: coming back here goes on.
    addEventListener("focus", () => this.#retries && this.#again());
  }

  /** Send ask, again or continue. Resolves to the `started` frame, rejects with the `error` frame. */
  async ask(frame) {
    const id = `c${this.#next++}`;
    const answer = new Promise((resolve, reject) => this.#asking.set(id, { resolve, reject }));
    try {
      const socket = await this.#connected();
      socket.send(JSON.stringify({ ...frame, id }));
    } catch {
      this.#asking.delete(id);
      throw { code: "not_connected" };
    }
    return answer;
  }

  async follow(message) {
    this.#following.add(message);
    try {
      (await this.#connected()).send(JSON.stringify({ type: "follow", message }));
    } catch {
      // The end of the connection is what tries again.
    }
  }

  stop(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "stop", message }));
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
    this.#good();
    const waiting = this.#asking.get(frame.id);
    if (frame.type === "started" || (frame.type === "error" && waiting)) {
      this.#asking.delete(frame.id);
      if (frame.type === "error") return waiting?.reject(frame);
      this.#following.add(frame.answer.id);
      return waiting?.resolve(frame);
    }
    if (frame.type === "done") this.#following.delete(frame.message.id);
    this.handlers[frame.type]?.(frame);
  }

  #good() {
    if (!this.#retries) return;
    this.#retries = 0;
    this.handlers.back();
  }

  #closed(socket, code) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    for (const waiting of this.#asking.values()) waiting.reject({ code: "connection_lost" });
    this.#asking.clear();
    if (code === UNAUTHENTICATED) {
      this.#retries = Math.max(this.#retries, 1);
      return this.handlers.lost(true);
    }
    if (this.#following.size) this.#retryLater();
  }

  async #retryLater() {
    clearTimeout(this.#timer);
    const delay = RETRY_MS[Math.min(this.#retries++, RETRY_MS.length - 1)];
    this.#timer = setTimeout(() => this.#again(), delay);
    const signedOut = await get(this.probe).then(() => false, (error) => error.status === 401);
    if (this.#retries) this.handlers.lost(signedOut);
    if (signedOut) clearTimeout(this.#timer);
  }

  async #again() {
    clearTimeout(this.#timer);
    if (!this.#following.size) {
      const signedIn = await get(this.probe).then(() => true, () => false);
      if (signedIn) this.#good();
    }
    for (const message of [...this.#following]) this.follow(message);
  }
}
