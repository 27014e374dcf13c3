// The feedback service, seen from the page.

import { policy } from "./accounts.js";
import { ask } from "./api.js";
import * as session from "./session.js";

const PAGE = 50;

/** Say of a prediction whether it is right; `entry` has prediction_id, correct or correct_class, feedback. */
export async function give(entry) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(entry) };
  return (await ask("/feedback/", options)).json();
}

/** Return a page of one's own feedback, newest first: {feedback, next_cursor}. */
export async function mine(cursor = null) {
  const after = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  return (await ask(`/feedback/?limit=${PAGE}${after}`)).json();
}

/** Return one's newest feedback, as far as it can be had without asking anybody to log in. */
export async function newest() {
  if (session.current() === null && (await policy()).mode === "accounts") return { feedback: [] };
  return (await ask(`/feedback/?limit=${PAGE}`, {}, { alone: session.current() === null })).json();
}

/** Take one's word back. */
export async function takeBack(id) {
  await ask(`/feedback/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Return the classes of a model version. */
export async function labels(model, version) {
  const query = new URLSearchParams(version ? { model, version } : { model });
  return (await (await ask(`/feedback/labels?${query}`)).json()).labels;
}

/** Return the report for {model, version, from, to}, each "" for all. */
export async function report(filters) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
  return (await ask(`/feedback/report?${query}`)).json();
}

/** Show the picture that an entry is about, once it is scrolled to; hide the image where there is none. */
export function showPicture(image, entry) {
  if (!entry.links.image) {
    image.hidden = true;
    return;
  }
  const whenSeen = new IntersectionObserver(async ([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    whenSeen.disconnect();
    try {
      image.src = URL.createObjectURL(await (await ask(entry.links.image)).blob());
    } catch (problem) {
      console.info("a picture cannot be shown:", problem.title);
      image.hidden = true;
    }
  });
  whenSeen.observe(image);
}
