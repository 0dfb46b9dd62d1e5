// The JSON API, with the session's CSRF token. Every failure is an ApiError with the server's sentence.
import { gettext } from "./i18n.js";

export class ApiError extends Error {
  constructor({ code, message, param = null, ...extra }, status) {
    super(message);
    this.code = code;
    this.param = param;
    this.status = status;
    this.extra = extra;
  }
}

/** The cookie knows the newest token: signing in again in another tab changes it. */
export function csrfToken() {
  const { content, dataset } = document.querySelector('meta[name="csrf-token"]');
  const cookie = document.cookie.split("; ").find((pair) => pair.startsWith(`${dataset.cookie}=`));
  return cookie?.slice(dataset.cookie.length + 1) || content;
}

const PLAIN = {
  0: () => gettext("The server cannot be reached. Is it still running?"),
  401: () => gettext("You were signed out. Sign in again in another tab, then retry here."),
  403: () => gettext("Your account does not have permission to do this."),
};

/** `body`: an object as JSON, a Blob as its bytes. */
export async function request(method, url, body, { signal } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrfToken();
  const raw = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = raw ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers,
      credentials: "same-origin",
      body: body === undefined || raw ? body : JSON.stringify(body),
      signal,
    });
  } catch {
    if (signal?.aborted) throw new ApiError({ code: "aborted", message: "" }, 0);
    throw new ApiError({ code: "unreachable", message: PLAIN[0]() }, 0);
  }
  if (response.status === 204) return null;
  let parsed = null;
  try {
    parsed = await response.json();
  } catch {
    // Not JSON: a proxy's page, for example. The status still says what happened.
  }
  if (response.ok && parsed !== null) return parsed;
  const error = parsed?.error ?? {
    code: `http_${response.status}`,
    message: PLAIN[response.status]?.() ?? gettext("The server answered with an error."),
  };
  if (response.status === 401) error.message = PLAIN[401](); // the API's own words are about credentials
  throw new ApiError(error, response.status);
}

export const get = (url) => request("GET", url);
export const post = (url, body = {}) => request("POST", url, body);
