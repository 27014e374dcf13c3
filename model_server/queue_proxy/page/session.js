// Who is logged in: the token and the name, kept by this browser until they log out or the token ends.

const KEY = "model-server.session";
const listeners = new Set();
let ask = null; // asks the person to log in, and resolves to whether they did
let asking = null;

/** Return {token, id, name} of who is logged in, or null. */
export function current() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return typeof kept?.token === "string" ? kept : null;
  } catch (error) {
    console.info("the session cannot be read:", error.message);
    return inMemory;
  }
}

let inMemory = null; // for a browser that forbids storage: the session lasts as long as the page

/** Keep who has logged in; null: nobody any more. */
export function keep(session) {
  inMemory = session;
  try {
    if (session) localStorage.setItem(KEY, JSON.stringify(session));
    else localStorage.removeItem(KEY);
  } catch (error) {
    console.info("the session cannot be kept:", error.message);
  }
  for (const tell of listeners) tell(session);
}

/** Call `tell(session)` now and at every change, in other tabs as well. */
export function onChange(tell) {
  listeners.add(tell);
  tell(current());
}

addEventListener("storage", ({ key }) => {
  if (key === KEY || key === null) for (const tell of listeners) tell(current());
});

/** Return the headers that say who asks. */
export function headers() {
  const session = current();
  return session ? { Authorization: `Bearer ${session.token}` } : {};
}

/** Let `way()` ask the person to log in; it resolves to whether they did. */
export function askBy(way) {
  ask = way;
}

/** Ask the person to log in, once for all requests that wait for it; resolve to whether they did. */
export function renew() {
  asking ??= Promise.resolve(ask ? ask() : false).finally(() => { asking = null; });
  return asking;
}
