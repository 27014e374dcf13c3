// "Right", or "wrong, it is …": what a person says of one result, and what they said before.

import * as feedback from "./feedback.js";

const clone = (id) => document.getElementById(id).content.cloneNode(true);
const said = new Map(); // prediction id → the feedback that was given
const labels = new Map(); // model and version → a promise of its classes

let unavailable = ""; // why nothing can be said now, as far as is known
const recalled = recall();

/** Fetch what was said on earlier visits; what cannot be had now is not needed. */
async function recall() {
  try {
    for (const entry of (await feedback.newest()).feedback) {
      if (entry.prediction_id && !said.has(entry.prediction_id)) said.set(entry.prediction_id, entry);
    }
  } catch (problem) {
    console.info("earlier feedback cannot be shown:", problem.title);
    if (isAway(problem)) unavailable = awayWords(problem);
  }
}

function isAway({ title, status }) {
  return Boolean(title) && (status === 0 || status >= 500);
}

function awayWords({ detail }) {
  return `Feedback is unavailable: ${detail}`;
}

/** Return what was said of a prediction, in words. */
export function verdict({ correct, correct_class: correctClass }) {
  if (correct === null) return "You left a comment.";
  if (correct) return "You said: right.";
  return correctClass ? `You said: wrong, it is ${correctClass}.` : "You said: wrong.";
}

/** The question below a result. `announce` says to a screen reader what has become of the answer. */
export class Judge {
  constructor(result, fileName, announce) {
    Object.assign(this, { result, fileName, announce });
    this.element = clone("judge-template").firstElementChild;
    const find = (name) => this.element.querySelector(name);
    Object.assign(this, { form: find("form"), input: find("input"), comment: find("textarea"), words: find(".judge-words") });
    Object.assign(this, { question: find(".judge-question"), submit: find(".judge-send"), change: find(".judge-change") });
    find(".judge-right").addEventListener("click", () => this.#open(true));
    find(".judge-wrong").addEventListener("click", () => this.#open(false));
    find(".judge-cancel").addEventListener("click", () => this.#rest(true));
    this.change.addEventListener("click", () => this.#ask());
    this.input.addEventListener("input", () => this.input.setCustomValidity(""));
    this.form.addEventListener("submit", (event) => this.#send(event));
    this.#rest(false);
    recalled.then(() => {
      if (this.form.hidden) this.#rest(false);
    });
  }

  get #entry() {
    return said.get(this.result.id);
  }

  /** Show what was said, or the question. */
  #rest(focus) {
    this.form.hidden = true;
    this.question.hidden = Boolean(this.#entry);
    this.change.hidden = !this.#entry;
    this.words.textContent = this.#entry ? verdict(this.#entry) : unavailable;
    this.element.classList.toggle("failed", !this.#entry && unavailable !== "");
    if (focus) (this.#entry ? this.change : this.question.querySelector("button")).focus();
  }

  #ask() {
    this.words.textContent = "";
    this.change.hidden = true;
    this.question.hidden = false;
    this.question.querySelector("button").focus();
  }

  #open(isRight) {
    this.isRight = isRight;
    this.words.textContent = "";
    this.element.classList.remove("failed");
    this.question.hidden = true;
    this.form.hidden = false;
    this.form.querySelector(".judge-class").hidden = isRight;
    this.form.querySelector(".judge-title").textContent = isRight ? "Right" : "Wrong";
    this.comment.value = this.#entry?.feedback ?? "";
    this.input.value = this.#entry?.correct === false ? (this.#entry.correct_class ?? "") : "";
    if (isRight) return this.submit.focus();
    this.input.focus();
    this.#offer();
  }

  /** Offer the classes of the model; without them the word is checked by the server alone. */
  async #offer() {
    this.labels = null;
    try {
      const said = this.result.predictions[0].label;
      this.labels = (await classes(this.result)).filter((name) => name !== said);
      this.element.querySelector("datalist").replaceChildren(...this.labels.map((name) => new Option("", name)));
    } catch (problem) {
      this.#fail(problem);
    }
  }

  async #send(event) {
    event.preventDefault();
    const named = this.isRight ? "" : this.#named();
    if (named && this.labels && !this.labels.includes(named)) {
      this.input.setCustomValidity("The model has no other class of this name; choose one of the list, or leave this empty.");
      this.input.reportValidity();
      return;
    }
    this.submit.disabled = true;
    const verdict = named ? { correct_class: named } : { correct: this.isRight };
    try {
      const about = { prediction_id: this.result.id, image_file_name: this.fileName.slice(0, 255) };
      const entry = await feedback.give({ ...about, feedback: this.comment.value.trim(), ...verdict });
      said.set(this.result.id, entry);
      unavailable = "";
      this.#rest(true);
      this.announce(`Thank you. ${this.words.textContent}`);
    } catch (problem) {
      this.#fail(problem);
    } finally {
      this.submit.disabled = false;
    }
  }

  /** Return the class as the model writes it, however the person did. */
  #named() {
    const written = this.input.value.trim();
    return this.labels?.find((name) => name.toLowerCase() === written.toLowerCase()) ?? written;
  }

  #fail(problem) {
    if (!problem.title) throw problem;
    const words = isAway(problem) ? awayWords(problem) : problem.detail;
    this.words.textContent = words;
    this.element.classList.add("failed");
    this.announce(words);
  }
}

function classes({ model, model_version: version }) {
  const key = `${model} ${version}`;
  if (!labels.has(key)) {
    labels.set(key, feedback.labels(model, version));
    labels.get(key).catch(() => labels.delete(key));
  }
  return labels.get(key);
}
