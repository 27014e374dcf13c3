// The report: figures of each version, their course, what was taken for what, and the worst mistakes.

import * as charts from "./charts.js";
import * as feedback from "./feedback.js";
import { moment, percent } from "./words.js";

const byId = (id) => document.getElementById(id);
const COUNT = new Intl.NumberFormat("en");
const MOST_CLASSES = 14; // More would be too small to read: those that are confused most are shown.
const SERIES = 6;
const OTHER = "something else";
let latest = 0;
let redraw = () => {};

async function load() {
  const filters = Object.fromEntries(new FormData(byId("filters")));
  const request = (latest += 1);
  try {
    const report = await feedback.report(filters);
    if (request === latest) show(report);
  } catch (problem) {
    if (!problem.title) throw problem;
    if (request !== latest) return;
    byId("report").hidden = true;
    say(problem.status >= 500 ? `The report is unavailable: ${problem.detail}` : `${problem.title}. ${problem.detail}`);
  }
}

function say(words) {
  byId("message").textContent = words;
  byId("message").hidden = words === "";
}

function show(report) {
  const judged = report.versions.filter(({ accuracy }) => accuracy.total > 0);
  redraw = () => showTime(judged);
  offerFilters(report);
  byId("report").hidden = report.versions.length === 0;
  say(report.versions.length ? "" : "There are no predictions in this time.");
  showVersions(report);
  redraw();
  showConfusion(judged);
  showMistakes(report.mistakes);
}

/** Let the unfiltered report say which models and versions there are to choose from. */
function offerFilters({ model, version, from, to, versions }) {
  if (model || version || from || to) return;
  const { model: models, version: names } = byId("filters").elements;
  for (const [select, values] of [[models, versions.map((one) => one.model)], [names, versions.map((one) => one.version)]]) {
    select.replaceChildren(new Option("all", ""), ...[...new Set(values)].filter(Boolean).map((value) => new Option(value)));
  }
}

function name({ model, version }) {
  return [model, version].filter(Boolean).join(" ");
}

function showVersions({ versions, caution, agreement }) {
  document.querySelector(".versions tbody").replaceChildren(...versions.map(versionRow));
  byId("caution").textContent = caution;
  const { pictures, unanimous, krippendorff_alpha: alpha } = agreement;
  byId("agreement").textContent = pictures === 0
    ? "No picture was judged by several people yet, so nothing can be said about how far they agree."
    : `${COUNT.format(pictures)} ${pictures === 1 ? "picture was" : "pictures were"} judged by several people; on ` +
      `${words(unanimous)} of them all agreed.${alpha === null ? "" : ` Krippendorff's alpha is ${alpha.toFixed(2)}: 1 is full agreement, 0 what chance would give.`}`;
}

function versionRow(version) {
  const row = document.createElement("tr");
  const heading = cell(name(version), "th");
  heading.scope = "row";
  const accuracy = cell(words(version.accuracy));
  if (version.accuracy.share !== null) accuracy.prepend(charts.interval(version.accuracy));
  const judged = `${COUNT.format(version.judged.count)}${version.judged.share === null ? "" : ` (${percent(version.judged.share)})`}`;
  row.append(heading, accuracy, cell(judged), cell(COUNT.format(version.predictions)), cell(COUNT.format(version.disputed)));
  return row;
}

function words({ share, low, high }) {
  return share === null ? "none" : `${percent(share)} (${percent(low)} to ${percent(high)})`;
}

function cell(text, kind = "td") {
  const element = document.createElement(kind);
  element.textContent = text;
  return element;
}

function showTime(judged) {
  const series = judged
    .map((version) => ({ name: name(version), days: version.days.filter(({ accuracy }) => accuracy.total > 0) }))
    .slice(-SERIES);
  byId("legend").replaceChildren(...series.map(legendItem));
  if (series.length === 0) {
    byId("time").replaceChildren(cell("Nobody has judged a prediction yet.", "p"));
    byId("time-table").replaceChildren();
    return;
  }
  const description = series.map((one) => `${one.name}: ${one.days.length} days`).join("; ");
  const width = Math.max(300, byId("time").clientWidth);
  byId("time").replaceChildren(charts.overTime(series, width, `Share of right answers over time. ${description}. The table below has the numbers.`));
  const rows = series.flatMap((one) => one.days.map(({ day, accuracy }) => [one.name, day, words(accuracy), COUNT.format(accuracy.total)]));
  byId("time-table").replaceChildren(table(["Version", "Day", "Right", "Judged"], rows));
}

function legendItem({ name: text }, number) {
  const item = document.createElement("li");
  item.append(charts.swatch(number), text);
  return item;
}

function table(headings, rows) {
  const element = document.createElement("table");
  const head = element.createTHead().insertRow();
  for (const heading of headings) head.append(Object.assign(cell(heading, "th"), { scope: "col" }));
  const body = element.createTBody();
  for (const row of rows) body.insertRow().append(...row.map((text) => cell(text)));
  return element;
}

function showConfusion(judged) {
  const select = byId("confusion-version");
  const before = select.value;
  select.replaceChildren(...judged.map((version) => new Option(name(version))));
  const most = judged.reduce((one, other) => (other.judged.count > one.judged.count ? other : one), judged[0]);
  select.value = judged.some((version) => name(version) === before) ? before : most ? name(most) : "";
  select.onchange = () => drawConfusion(judged.find((version) => name(version) === select.value));
  select.onchange();
}

function drawConfusion(version) {
  byId("confusion").replaceChildren();
  byId("confusion-note").textContent = "";
  if (!version) return;
  const pairs = version.confusion.map((pair) => ({ ...pair, correct: pair.correct ?? OTHER }));
  const { shown, left } = mostConfused(pairs);
  byId("confusion-note").textContent =
    `Each row is what a picture shows according to users, each column what the model said${left ? `; the ${shown.length} classes that are confused most of ${shown.length + left}` : ""}.`;
  byId("confusion").append(heatMap(pairs, shown));
}

function mostConfused(pairs) {
  const mistakes = new Map();
  for (const { predicted, correct, count } of pairs) {
    for (const label of [predicted, correct]) mistakes.set(label, (mistakes.get(label) ?? 0) + (predicted === correct ? 0 : count));
  }
  const other = mistakes.delete(OTHER);
  const byMistakes = [...mistakes.keys()].sort((one, two) => mistakes.get(two) - mistakes.get(one));
  const shown = byMistakes.slice(0, MOST_CLASSES).sort();
  return { shown: other ? [...shown, OTHER] : shown, left: Math.max(0, byMistakes.length - MOST_CLASSES) };
}

function heatMap(pairs, shown) {
  const counts = new Map(pairs.map(({ predicted, correct, count }) => [`${correct}\n${predicted}`, count]));
  const columns = shown.filter((label) => label !== OTHER);
  const element = table(["is ↓  said →", ...columns], []);
  element.className = "heat";
  const most = Math.max(...pairs.map(({ count }) => count));
  for (const correct of shown) {
    const row = element.tBodies[0].insertRow();
    row.append(Object.assign(cell(correct, "th"), { scope: "row" }));
    for (const predicted of columns) row.append(heatCell(counts.get(`${correct}\n${predicted}`) ?? 0, most, correct === predicted));
  }
  return element;
}

function heatCell(count, most, isRight) {
  const element = cell(count ? COUNT.format(count) : "");
  element.className = isRight ? "right" : "wrong";
  // The square root brings out the few wrong answers beside the many right ones.
  element.style.setProperty("--heat", `${count ? Math.round(10 + 60 * Math.sqrt(count / most)) : 0}%`);
  return element;
}

function showMistakes(mistakes) {
  byId("mistakes-note").textContent = mistakes.length
    ? "Wrong according to a user, contradicted by none; the surer the model was, the further up."
    : "None that you may see.";
  byId("mistakes").replaceChildren(...mistakes.map(mistake));
}

function mistake(entry) {
  const element = byId("mistake-template").content.cloneNode(true).firstElementChild;
  const find = (selector) => element.querySelector(selector);
  const image = find("img");
  image.alt = `Taken for ${entry.predicted_class}${entry.correct_class ? `, is ${entry.correct_class}` : ""}`;
  feedback.showPicture(image, entry);
  find(".said").textContent = `Said ${entry.predicted_class}, ${percent(entry.score)}`;
  find(".is").textContent = entry.correct_class ? `is ${entry.correct_class}` : "is something else";
  find(".comment").textContent = entry.feedback;
  find(".comment").hidden = entry.feedback === "";
  find(".about").textContent = `${name({ model: entry.model, version: entry.model_version })} · ${moment(entry.predicted_at)}`;
  return element;
}

byId("filters").addEventListener("change", load);
addEventListener("resize", () => redraw());
byId("filters").addEventListener("submit", (event) => event.preventDefault());
load();
