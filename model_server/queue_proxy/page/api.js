// The server, seen from the page: every refusal becomes a Problem with words for a person.

import * as session from "./session.js";
import { titleOf } from "./words.js";

const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);
const LONGEST_PAUSE_SECONDS = 30;

/** What went wrong: a title and a sentence to show, and whether the same request may succeed later. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, passing = false, retryAfter = null } = {}) {
    super(title);
    Object.assign(this, { title, detail, status, passing, retryAfter });
  }
}

/** Return the names of the models that the server has. */
export async function models() {
  return (await (await ask("/v1/models")).json()).models;
}

/** Queue one picture and return its prediction, finished where it took less than `wait` seconds. */
export async function submit(model, file, key, wait) {
  const headers = {
    "Content-Type": file.type || "image/unknown",
    "Idempotency-Key": key,
    Prefer: wait ? `respond-async, wait=${wait}` : "respond-async",
  };
  const path = `/v1/models/${encodeURIComponent(model)}:predict`;
  return (await ask(path, { method: "POST", headers, body: file })).json();
}

/** Return a prediction as soon as it is finished, and after `wait` seconds as it then is. */
export async function prediction(id, wait = 0) {
  return (await ask(`/v1/predictions/${encodeURIComponent(id)}`, { headers: { Prefer: `wait=${wait}` } })).json();
}

/** Take a prediction out of the queue. */
export async function cancel(id) {
  await ask(`/v1/predictions/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Resolve to an address of a prediction's picture that an <img> can show: it cannot say who asks for it. */
export async function imageUrl(id) {
  const path = `/v1/predictions/${encodeURIComponent(id)}/image`;
  return session.current() ? URL.createObjectURL(await (await ask(path)).blob()) : path;
}

/** Resolve after the time the server asked for, else 1, 2, 4 … seconds; at once when the network comes back. */
export function pause(problem, attempt) {
  const seconds = problem.retryAfter ?? 2 ** (attempt - 1) * (0.75 + Math.random() / 2);
  return new Promise((resolve) => {
    const timer = setTimeout(done, Math.min(seconds, LONGEST_PAUSE_SECONDS) * 1000);
    addEventListener("online", done);
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      resolve();
    }
  });
}

/** Send a request as whoever is logged in, after a login where one is needed; `alone`: as it is, once. */
export async function ask(path, options = {}, { alone = false } = {}) {
  let reply;
  const headers = alone ? options.headers : { ...session.headers(), ...options.headers };
  try {
    reply = await fetch(path, { ...options, headers });
  } catch {
    throw unreachable();
  }
  if (reply.ok) return reply;
  if (reply.status === 401 && !alone && (await session.renew())) return ask(path, options);
  throw await refusal(reply);
}

function unreachable() {
  return navigator.onLine
    ? new Problem("The server cannot be reached", "It may be starting again; the page keeps trying.", { passing: true })
    : new Problem("You are offline", "It goes on by itself when the connection is back.", { passing: true });
}

async function refusal(reply) {
  const words = await reply.json().then((body) => body.error, () => null);
  const seconds = Number.parseInt(reply.headers.get("Retry-After") ?? "", 10);
  return new Problem(titleOf(reply.status), typeof words === "string" ? words : `It answered with status ${reply.status}.`, {
    status: reply.status,
    passing: PASSING.has(reply.status),
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  });
}
