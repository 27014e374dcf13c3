// What is on the screen: a row for each picture, the detail of one, the progress of many. Text is set as text only.

import { Judge } from "./judge.js";
import { duration, explanation, moment, percent, standing } from "./words.js";

const byId = (id) => document.getElementById(id);
const clone = (id) => byId(id).content.cloneNode(true);

/** Return the best class of a picture that has one. */
export function best(picture) {
  return picture.state === "succeeded" ? picture.result.predictions[0] : null;
}

/** One line of the list. */
export class Row {
  constructor(picture, open) {
    this.element = clone("row-template").firstElementChild;
    const find = (name) => this.element.querySelector(name);
    Object.assign(this, { picture, button: find(".row-open"), title: find(".row-title"), note: find(".row-note") });
    this.score = find(".row-score");
    this.image = find("img");
    this.button.addEventListener("click", () => open(picture));
    this.image.addEventListener("error", () => this.image.classList.add("broken"));
    if (picture.file) this.image.src = picture.url;
    this.update();
  }

  /** Show what is known now. */
  update() {
    const { picture } = this;
    const found = best(picture);
    this.element.dataset.state = picture.state;
    this.title.textContent = found ? found.label : picture.name;
    this.note.textContent = found ? `${moment(picture.result.created_at)} · ${picture.name}` : standing(picture);
    this.score.textContent = found ? percent(found.score) : "";
    // The picture of an earlier visit is asked for once its prediction is known to exist.
    if (picture.url && picture.result && !this.image.hasAttribute("src")) this.image.src = picture.url;
  }

  /** Mark it as the one whose detail is shown, or not. */
  mark(isCurrent) {
    this.button.setAttribute("aria-current", String(isCurrent));
  }
}

/** The picture that was chosen, large, with its five best classes. */
export class Detail {
  #section = byId("detail");
  #picture = null;
  #bars = false;

  constructor(actions) {
    this.actions = actions;
  }

  /** Show a picture, or nothing for null. */
  show(picture) {
    this.#section.hidden = picture === null;
    if (picture !== this.#picture) this.#build(picture);
    if (picture) this.#update(picture);
  }

  #build(picture) {
    this.#picture = picture;
    this.#bars = false;
    this.#section.replaceChildren();
    if (!picture) return;
    this.#section.append(clone("detail-template"));
    const image = this.#find(".preview img");
    image.addEventListener("error", () => {
      image.hidden = true;
      this.#find(".no-preview").hidden = false;
    });
    for (const name of Object.keys(this.actions)) {
      this.#find(`.${name}`).addEventListener("click", () => this.actions[name](picture));
    }
  }

  #update(picture) {
    const found = best(picture);
    const image = this.#find(".preview img");
    if (picture.url && (picture.file || picture.result) && !image.hasAttribute("src")) image.src = picture.url;
    image.alt = found ? `${picture.name}, classified as ${found.label}` : picture.name;
    this.#section.dataset.state = picture.state;
    this.#find(".file-name").textContent = picture.name;
    // The first bar is the headline of a picture that has classes.
    this.#find(".headline").textContent = found ? found.label : standing(picture);
    this.#find(".headline").classList.toggle("visually-hidden", found !== null);
    this.#find(".words").textContent = explanation(picture);
    this.#updateBars(found);
    this.#updateFacts(picture);
    this.#updateActions(picture);
  }

  #updateBars(found) {
    if (this.#bars === Boolean(found)) return;
    this.#bars = Boolean(found);
    this.#find(".bars").replaceChildren(...(found ? found.top.slice(0, 5).map(bar) : []));
    const judge = found ? [new Judge(this.#picture.result, this.#picture.name, announce).element] : [];
    this.#find(".judging").replaceChildren(...judge);
  }

  #updateFacts({ result, state }) {
    const facts = result ? this.#facts(result, state) : [];
    this.#find(".facts").replaceChildren(...facts.map(([term, value]) => fact(term, value)));
  }

  #facts(result, state) {
    const end = state === "succeeded" ? result.finished_at : null;
    return [
      ["In the queue", duration(result.created_at, result.started_at)],
      ["In the model", duration(result.started_at, end)],
      ["Model", [result.model, result.model_version].filter(Boolean).join(" ")],
      ["Tries", result.attempts > 1 ? String(result.attempts) : null],
    ].filter(([, value]) => value);
  }

  #updateActions(picture) {
    const focused = this.#section.contains(document.activeElement);
    this.#find(".again").hidden = !picture.canRetry;
    this.#find(".cancel").hidden = picture.isFinished || picture.state === "loading";
    this.#find(".remove").hidden = !picture.isFinished;
    // A button that goes away takes the focus with it.
    if (focused && document.activeElement.hidden) this.#section.focus();
  }

  #find(selector) {
    return this.#section.querySelector(selector);
  }
}

function bar({ label, score }) {
  const element = clone("bar-template").firstElementChild;
  element.querySelector(".bar-label").textContent = label;
  element.querySelector(".bar-score").textContent = percent(score);
  element.querySelector(".bar-fill").style.width = `${score * 100}%`;
  return element;
}

function fact(term, value) {
  const group = document.createElement("div");
  for (const [name, text] of [["dt", term], ["dd", value]]) {
    group.appendChild(document.createElement(name)).textContent = text;
  }
  return group;
}

/** How far a group of pictures is; one picture alone is its own progress. */
export class Batch {
  #pictures = new Set();

  /** Begin anew where the last group is finished, else let this one grow. */
  add(pictures) {
    if (this.#left === 0) this.#pictures.clear();
    for (const picture of pictures) this.#pictures.add(picture);
    this.update();
  }

  /** Count again; return the words for the end of a group of several, else null. */
  update() {
    const total = this.#pictures.size;
    const left = this.#left;
    byId("batch").hidden = total < 2;
    byId("batch-bar").max = Math.max(total, 1);
    byId("batch-bar").value = total - left;
    const failed = [...this.#pictures].filter((picture) => picture.isFinished && picture.state !== "succeeded").length;
    const words = `${total - left} of ${total} pictures done${failed ? `, ${failed} without a class` : ""}`;
    byId("batch-text").textContent = words;
    return left === 0 && total > 1 ? words : null;
  }

  /** Whether several pictures are on their way. */
  get isGroup() {
    return this.#pictures.size > 1;
  }

  get #left() {
    return [...this.#pictures].filter((picture) => !picture.isFinished).length;
  }
}

/** Say something to a screen reader, without interrupting it. */
export function announce(words) {
  byId("announcement").textContent = words;
}
