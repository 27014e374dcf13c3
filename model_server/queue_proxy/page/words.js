// How states, times and numbers are said to a person.

const TITLES = {
  400: "That is not a picture we can read",
  401: "Please log in first",
  403: "You may not do this",
  404: "It is not there",
  408: "The picture took too long to arrive",
  409: "It is already finished",
  410: "It is no longer kept",
  413: "The picture is too large",
  415: "This kind of file is not read",
  422: "The server did not accept the picture",
  429: "You are sending faster than you may",
  503: "The server is busy",
};
const PERCENT = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Return what an HTTP status means for the picture. */
export function titleOf(status) {
  return TITLES[status] ?? (status < 500 ? "The server refused this" : "The server failed");
}

/** Return a score 0..1 as "87.3%". */
export function percent(score) {
  return PERCENT.format(score);
}

/** Return the time between two ISO dates as "12 ms", "3.4 s" or "2 min 5 s"; null where one is missing. */
export function duration(from, to) {
  if (!from || !to) return null;
  return seconds(Math.max(0, new Date(to) - new Date(from)) / 1000);
}

function seconds(value) {
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 59.95) return `${Number.isInteger(value) ? value : value.toFixed(1)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Return an ISO date as a time of today, or as a day. */
export function moment(iso) {
  const date = new Date(iso);
  return date.toDateString() === new Date().toDateString() ? TIME.format(date) : DAY.format(date);
}

/** Return the one line that says where a picture stands. */
export function standing({ state, problem, result }) {
  if (problem) return state === "refused" ? problem.title : `${problem.title}; trying again`;
  switch (state) {
    case "waiting": return "Waiting to be sent";
    case "sending": return "Sending …";
    case "loading": return "Loading …";
    case "queued": return place(result);
    case "running": return "Being classified …";
    case "failed": return result.error?.status ? titleOf(result.error.status) : "Could not be classified";
    case "cancelled": return "Cancelled";
    default: return "Classified";
  }
}

function place({ position, eta_seconds: eta }) {
  const time = eta ? `, about ${seconds(Math.max(1, Math.round(eta)))}` : "";
  if (typeof position !== "number") return `In the queue${time}`;
  return position === 0 ? `Next in the queue${time}` : `Number ${position + 1} in the queue${time}`;
}

/** Return the sentence below the headline: why there is no class, or nothing. */
export function explanation({ state, problem, result }) {
  if (problem) return problem.detail;
  return state === "failed" ? (result.error?.message ?? "The server does not say why.") : "";
}
