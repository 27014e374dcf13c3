// Charts as SVG, drawn by hand: shares with their intervals, over time and beside each other.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260, LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 28;
const DAY_MARK = 80; // The pixels that a day's name takes, with the space around it.
const DAY = 86_400_000;
const DATE = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", timeZone: "UTC" });

/** Return an SVG element with attributes. */
function make(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Draw a share of 0..1 with its interval as a whisker on a scale from 0 to 1. */
export function interval({ share, low, high }) {
  const at = (value) => 2 + value * 116;
  return make("svg", { class: "whisker", viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" },
    make("line", { class: "axis", x1: at(0), x2: at(1), y1: 8, y2: 8 }),
    make("line", { class: "reach", x1: at(low), x2: at(high), y1: 8, y2: 8 }),
    make("circle", { class: "point", cx: at(share), cy: 8, r: 4 }));
}

/**
 * Draw lines over days, `width` pixels wide: `series` is [{name, days: [{day, accuracy: {share, low, high}}]}], drawn in
 * classes s0, s1 …
 */
export function overTime(series, width, description) {
  const times = series.flatMap(({ days }) => days.map(({ day }) => Date.parse(day)));
  const first = Math.min(...times), last = Math.max(...times, first + DAY);
  const x = (day) => LEFT + ((Date.parse(day) - first) / (last - first)) * (width - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const parts = [...shareLines(width, y), ...dayMarks(first, last, width, x)];
  series.forEach(({ days }, number) => parts.push(band(days, number, x, y)));
  series.forEach(({ name, days }, number) => parts.push(line(name, days, number, x, y)));
  return make("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": description }, ...parts);
}

function shareLines(width, y) {
  return [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    make("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }),
    make("text", { class: "tick", x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, `${share * 100}%`),
  ]);
}

function dayMarks(first, last, width, x) {
  const days = Math.round((last - first) / DAY);
  const step = Math.max(1, Math.ceil((days * DAY_MARK) / width));
  const marks = [];
  for (let day = 0; day <= days; day += step) {
    const time = new Date(first + day * DAY);
    const anchor = day === 0 ? "start" : day + step > days ? "end" : "middle";
    marks.push(make("text", { class: "tick", x: x(time.toISOString()), y: HEIGHT - 8, "text-anchor": anchor }, DATE.format(time)));
  }
  return marks;
}

function band(days, number, x, y) {
  const edge = (end) => days.map(({ day, accuracy }) => `${x(day)},${y(accuracy[end])}`);
  if (days.length === 1) {
    const [{ day, accuracy }] = days;
    return make("line", { class: `reach s${number}`, x1: x(day), x2: x(day), y1: y(accuracy.low), y2: y(accuracy.high) });
  }
  return make("polygon", { class: `band s${number}`, points: [...edge("low"), ...edge("high").reverse()].join(" ") });
}

function line(name, days, number, x, y) {
  const points = days.map(({ day, accuracy }) => [x(day), y(accuracy.share)]);
  const marks = points.map(([across, down], place) => {
    const { day, accuracy } = days[place];
    const words = `${name}, ${day}: ${Math.round(accuracy.share * 100)}% of ${accuracy.total}`;
    return make("circle", { class: `point s${number}`, cx: across, cy: down, r: 3.5 }, make("title", {}, words));
  });
  return make("g", {}, make("polyline", { class: `line s${number}`, points: points.map((point) => point.join(",")).join(" ") }), ...marks);
}

/** Draw a swatch as the lines of a series are drawn. */
export function swatch(number) {
  return make("svg", { viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" },
    make("line", { class: `line s${number}`, x1: 0, x2: 28, y1: 6, y2: 6 }), make("circle", { class: `point s${number}`, cx: 14, cy: 6, r: 3.5 }));
}
