// The page put together: files in by button, drop and paste; pictures, list and detail kept in step.

import * as api from "./api.js";
import * as memory from "./memory.js";
import { Picture } from "./picture.js";
import { Batch, Detail, Row, announce, best } from "./view.js";
import { explanation, percent, standing } from "./words.js";

const byId = (id) => document.getElementById(id);

const rows = new Map(); // picture → its row
const batch = new Batch();
const detail = new Detail({ again, cancel: (picture) => picture.cancel(), remove: (picture) => remove([picture]) });
let current = null;

function changed(picture) {
  if (!rows.has(picture)) return;
  rows.get(picture).update();
  if (picture === current) detail.show(picture);
  const over = batch.update();
  // What an earlier visit asked for is no news, and of many pictures only the refused ones and the end are.
  if (!picture.isFinished || !picture.file) return;
  if (over) announce(over);
  else if (!batch.isGroup || !best(picture)) announce(outcome(picture));
}

function outcome(picture) {
  const found = best(picture);
  if (found) return `${picture.name}: ${found.label}, ${percent(found.score)}`;
  return `${picture.name}: ${standing(picture)}. ${explanation(picture)}`;
}

function select(picture) {
  rows.get(current)?.mark(false);
  current = picture;
  rows.get(current)?.mark(true);
  detail.show(picture);
}

function open(picture) {
  select(picture);
  announce(outcome(picture));
  if (byId("detail").getBoundingClientRect().top < 0) byId("detail").scrollIntoView();
}

function list(pictures, place) {
  for (const picture of pictures) rows.set(picture, new Row(picture, open));
  byId("list")[place](...pictures.map((picture) => rows.get(picture).element));
  byId("recent").hidden = rows.size === 0;
  document.body.classList.toggle("has-pictures", rows.size > 0);
}

function remove(pictures) {
  for (const picture of pictures) {
    rows.get(picture)?.element.remove();
    rows.delete(picture);
    if (picture.url?.startsWith("blob:")) URL.revokeObjectURL(picture.url);
  }
  memory.forget(pictures.map((picture) => picture.id));
  list([], "append");
  if (!pictures.includes(current)) return;
  const first = [...rows.values()].find((row) => row.element === byId("list").firstElementChild);
  select(first?.picture ?? null);
  byId("choose").focus();
}

function take(files) {
  const pictures = Array.from(files, (file) => new Picture(file.name || "Pasted picture", changed, { file }));
  if (pictures.length === 0) return;
  list(pictures, "prepend");
  batch.add(pictures);
  select(pictures[0]);
  announce(pictures.length === 1 ? `${pictures[0].name} is being classified` : `${pictures.length} pictures are being classified`);
  for (const picture of pictures) picture.classify(model);
}

function again(picture) {
  memory.forget([picture.id]);
  picture.reset();
  batch.add([picture]);
  picture.classify(model);
}

async function restore() {
  const pictures = memory.predictions().map(({ id, name }) => new Picture(name, changed, { id }));
  list(pictures, "append");
  if (pictures.length) select(pictures[0]);
  await Promise.all(pictures.map((picture) => picture.restore()));
  // What the server no longer keeps is no part of the list.
  remove(pictures.filter((picture) => picture.state === "refused" && [404, 410].includes(picture.problem.status)));
}

/** Resolve to the name of the model to ask, as soon as one is known. */
async function model() {
  await modelKnown;
  return byId("model").value;
}

/** Ask until the server names its models; one that sleeps when the page is opened is known from last time. */
async function findModels(found) {
  if (memory.lastModel()) {
    showModels([memory.lastModel()], "asleep");
    found();
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      showModels(await api.models(), "ready");
      return found();
    } catch (problem) {
      byId("model-label").dataset.state = "asleep";
      await api.pause(problem, attempt);
    }
  }
}

function showModels(names, state) {
  const chosen = byId("model");
  const last = memory.lastModel();
  chosen.replaceChildren(...names.map((name) => new Option(name, name, false, name === last)));
  chosen.disabled = names.length < 2;
  byId("model-label").dataset.state = state;
  if (names.length) memory.keepModel(chosen.value);
}

function listen() {
  byId("choose").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = ""; // so that the same file can be chosen again
  });
  byId("model").addEventListener("change", ({ target }) => memory.keepModel(target.value));
  byId("forget").addEventListener("click", () => remove([...rows.keys()].filter((picture) => picture.isFinished)));
  byId("list").addEventListener("keydown", walk);
  addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  addEventListener("beforeunload", (event) => {
    if ([...rows.keys()].some((picture) => !picture.id && !picture.isFinished)) event.preventDefault();
  });
  listenForDrops();
}

function walk(event) {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const next = step && event.target.closest(".row")?.[step];
  if (!next) return;
  event.preventDefault();
  next.querySelector("button").focus();
}

function listenForDrops() {
  let depth = 0; // dragenter and dragleave come in pairs for every element on the way
  const show = (change) => {
    depth = Math.max(0, depth + change);
    byId("overlay").classList.toggle("shown", depth > 0);
  };
  const whenFiles = (action) => (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    action(event);
  };
  addEventListener("dragenter", whenFiles(() => show(1)));
  addEventListener("dragover", whenFiles(() => {}));
  addEventListener("dragleave", whenFiles(() => show(-1)));
  addEventListener("drop", whenFiles(({ dataTransfer }) => {
    show(-depth);
    take(dataTransfer.files);
  }));
}

listen();
const modelKnown = new Promise(findModels);
restore();
