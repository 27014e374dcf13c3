// Register, log in, log out, my account with its API keys: one dialog, opened by the button in the page's head.

import * as accounts from "./accounts.js";
import { pause } from "./api.js";
import * as memory from "./memory.js";
import * as session from "./session.js";
import { moment } from "./words.js";

const MARKUP = `
<dialog class="account" aria-labelledby="account-title">
  <div class="account-head"><h2 id="account-title"></h2><button type="button" class="quiet close">Close</button></div>
  <p class="account-hint" hidden></p>
  <form class="entry-form" novalidate>
    <label class="name-field">Name<input name="name" autocomplete="name" maxlength="100"></label>
    <label>E-mail<input name="email" type="email" autocomplete="username" required></label>
    <label>Password<input name="password" type="password" required></label>
    <p class="account-problem" role="alert"></p>
    <div class="actions"><button class="go"></button><button type="button" class="quiet other"></button></div>
  </form>
  <div class="mine">
    <p class="mine-email"></p>
    <h3>API keys</h3>
    <p class="account-hint">A program sends one as <code>Authorization: Bearer …</code> instead of logging in.</p>
    <ul class="keys" role="list"></ul>
    <div class="new-key" hidden><p>Copy it now: it is not shown again.</p><output></output><button type="button" class="quiet copy">Copy</button></div>
    <form class="key-form"><label>What the key is for<input name="name" maxlength="100" required placeholder="Nightly import"></label><button class="go">Make a key</button></form>
    <p class="account-problem" role="alert"></p>
    <div class="actions"><button type="button" class="go log-out">Log out</button><button type="button" class="quiet delete">Delete my account</button></div>
  </div>
</dialog>`;

const button = document.getElementById("account-button");
document.body.append(document.createRange().createContextualFragment(MARKUP));
const dialog = document.querySelector("dialog.account");
const find = (name) => dialog.querySelector(name);
const entry = find(".entry-form");
const mine = find(".mine");
let registering = false;
let policy = null;
let settle = () => {}; // tells whoever waits for a login how it ended

function show(hint = "") {
  const person = session.current();
  find("#account-title").textContent = person ? person.name : registering ? "Register" : "Log in";
  find(".account-hint").textContent = hint;
  find(".account-hint").hidden = !hint;
  entry.hidden = Boolean(person);
  mine.hidden = !person;
  for (const problem of dialog.querySelectorAll(".account-problem")) problem.textContent = "";
  if (person) showMine(person);
  else showEntry();
  if (!dialog.open) dialog.showModal();
  if (!person) entry.elements[registering ? "name" : "email"].focus();
}

function showEntry() {
  find(".name-field").hidden = !registering;
  const { password } = entry.elements;
  password.autocomplete = registering ? "new-password" : "current-password";
  password.placeholder = registering && policy ? `${policy.password_min_length} characters or more` : "";
  find(".entry-form .go").textContent = registering ? "Register" : "Log in";
  find(".other").textContent = registering ? "I have an account" : "I have no account yet";
  find(".other").hidden = !registering && policy?.registration === "closed";
}

async function showMine(person) {
  find(".mine-email").textContent = person.email;
  find(".new-key").hidden = true;
  await attempt(mine, async () => listKeys(await accounts.keys()));
}

function listKeys(keys) {
  find(".keys").replaceChildren(...keys.map((key) => {
    const item = document.createElement("li");
    const words = item.appendChild(document.createElement("span"));
    words.appendChild(document.createElement("strong")).textContent = key.name;
    const used = key.last_used_at ? `last used ${moment(key.last_used_at)}` : "never used";
    words.appendChild(document.createElement("small")).textContent = `${key.hint}… · ${used}`;
    const revoke = item.appendChild(document.createElement("button"));
    Object.assign(revoke, { type: "button", className: "quiet", textContent: "Revoke" });
    revoke.setAttribute("aria-label", `Revoke ${key.name}`);
    revoke.addEventListener("click", () => attempt(mine, async () => {
      await accounts.revoke(key.id);
      item.remove();
    }));
    return item;
  }));
}

/** Do something; what goes wrong is said below it. */
async function attempt(place, action) {
  const words = place.querySelector(".account-problem");
  words.textContent = "";
  place.inert = true;
  try {
    await action();
  } catch (problem) {
    if (!problem.detail) throw problem;
    words.textContent = problem.detail;
  } finally {
    place.inert = false;
  }
}

async function enter() {
  const { name, email, password } = entry.elements;
  await attempt(entry, async () => {
    if (registering) await accounts.register(name.value, email.value, password.value);
    session.keep(await accounts.logIn(email.value, password.value));
    entry.reset();
    registering = false;
    settle(true);
    dialog.close();
  });
  if (dialog.open) password.focus();
}

async function makeKey(form) {
  await attempt(mine, async () => {
    const made = await accounts.makeKey(form.elements.name.value);
    form.reset();
    listKeys(await accounts.keys());
    find(".new-key").hidden = false;
    find(".new-key output").textContent = made.key;
    find(".copy").hidden = !navigator.clipboard; // which exists on https and localhost alone
  });
}

/** Forget who it was, and what they have asked for. */
function leave() {
  session.keep(null);
  memory.forget(memory.predictions().map(({ id }) => id));
  location.reload();
}

function listen() {
  button.addEventListener("click", () => show());
  find(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => settle(false));
  find(".other").addEventListener("click", () => {
    registering = !registering;
    show();
  });
  entry.addEventListener("submit", (event) => {
    event.preventDefault();
    enter();
  });
  find(".key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    makeKey(event.target);
  });
  find(".copy").addEventListener("click", () => navigator.clipboard.writeText(find(".new-key output").textContent));
  find(".log-out").addEventListener("click", leave);
  find(".delete").addEventListener("click", () => {
    if (!confirm("Delete your account? Your name, e-mail and API keys are removed for good; what you said of pictures stays, without your name.")) return;
    attempt(mine, async () => {
      await accounts.remove();
      leave();
    });
  });
}

/** Ask the person to log in because a request needs it. */
function askToLogIn() {
  const expired = session.current() !== null;
  if (expired) session.keep(null);
  show(expired ? "Your session has ended. Log in again to go on." : "You need an account to go on.");
  return new Promise((resolve) => { settle = resolve; });
}

/** Learn the rules; the feedback service may be away, and then there is nobody to log in with. */
async function learn() {
  for (let attempts = 1; policy === null; attempts += 1) {
    try {
      policy = await accounts.policy();
    } catch (problem) {
      button.disabled = true;
      button.title = "Accounts and feedback are not available now";
      await pause(problem, attempts);
    }
  }
  button.disabled = false;
  button.removeAttribute("title");
  document.body.dataset.mode = policy.mode;
}

listen();
session.askBy(askToLogIn);
session.onChange((person) => {
  button.hidden = false;
  button.textContent = person ? person.name : "Log in";
});
learn();
