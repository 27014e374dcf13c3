// One's own feedback, newest first, to look at and take back.

import * as feedback from "./feedback.js";
import { verdict } from "./judge.js";
import { moment, percent } from "./words.js";

const byId = (id) => document.getElementById(id);
let cursor = null;

async function showMore() {
  byId("more").disabled = true;
  try {
    const page = await feedback.mine(cursor);
    byId("entries").append(...page.feedback.map(entryElement));
    cursor = page.next_cursor;
    byId("more").hidden = cursor === null;
    say(byId("entries").children.length ? "" : "You have not said anything yet. Below each picture's result you can.");
  } catch (problem) {
    if (!problem.title) throw problem;
    say(problem.status >= 500 ? `Feedback is unavailable: ${problem.detail}` : `${problem.title}. ${problem.detail}`);
  } finally {
    byId("more").disabled = false;
  }
}

function say(words) {
  byId("message").textContent = words;
  byId("message").hidden = words === "";
}

function entryElement(entry) {
  const element = byId("entry-template").content.cloneNode(true).firstElementChild;
  const find = (name) => element.querySelector(name);
  const image = find("img");
  image.alt = entry.image_file_name || "The picture";
  feedback.showPicture(image, entry);
  find(".said").textContent = verdict(entry);
  find(".comment").textContent = entry.feedback;
  find(".comment").hidden = entry.feedback === "";
  const model = [entry.model, entry.model_version].filter(Boolean).join(" ");
  const answer = `The model said ${entry.predicted_class}, ${percent(entry.score)}`;
  find(".about").textContent = [answer, model, entry.image_file_name, moment(entry.updated_at)].filter(Boolean).join(" · ");
  find(".take-back").addEventListener("click", () => takeBack(entry, element));
  return element;
}

async function takeBack(entry, element) {
  const button = element.querySelector(".take-back");
  button.disabled = true;
  try {
    await feedback.takeBack(entry.id);
    const next = element.nextElementSibling ?? element.previousElementSibling;
    element.remove();
    say(next ? "Taken back." : "Taken back. There is nothing else of yours.");
    next?.querySelector(".take-back").focus();
  } catch (problem) {
    if (!problem.title) throw problem;
    button.disabled = false;
    say(`${problem.title}. ${problem.detail}`);
  }
}

byId("more").addEventListener("click", showMore);
showMore();
