// Accounts, seen from the page.

import { ask } from "./api.js";

const JSON_HEADERS = { "Content-Type": "application/json" };

/** Return the mode, and the rules for passwords. */
export async function policy() {
  return (await ask("/login")).json();
}

/** Make an account. */
export async function register(name, email, password) {
  const body = JSON.stringify({ name, email, password });
  await ask("/user/", { method: "POST", headers: JSON_HEADERS, body }, { alone: true });
}

/** Return the session of who has this e-mail and password: {token, id, name, email}. */
export async function logIn(username, password) {
  const body = new URLSearchParams({ username, password });
  const token = (await (await ask("/login", { method: "POST", body }, { alone: true })).json()).access_token;
  const headers = { Authorization: `Bearer ${token}` };
  const { id, name, email } = await (await ask("/user/me", { headers }, { alone: true })).json();
  return { token, id, name, email };
}

/** Return one's API keys, newest first. */
export async function keys() {
  return (await (await ask("/user/me/keys")).json()).keys;
}

/** Make an API key; it is in `key`, this once. */
export async function makeKey(name) {
  return (await ask("/user/me/keys", { method: "POST", headers: JSON_HEADERS, body: JSON.stringify({ name }) })).json();
}

/** Make an API key worthless. */
export async function revoke(id) {
  await ask(`/user/me/keys/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Remove one's account. */
export async function remove() {
  await ask("/user/me", { method: "DELETE" });
}
