// What this browser remembers: the predictions it asked for, newest first, by id and file name, and the last model.

const PREDICTIONS = "model-server.predictions";
const MODEL = "model-server.model";
const MOST = 50;

/** Return the predictions as [{id, name}]. */
export function predictions() {
  const entries = read(PREDICTIONS);
  return Array.isArray(entries) ? entries.filter((entry) => typeof entry?.id === "string" && typeof entry.name === "string") : [];
}

/** Put a prediction at the top. */
export function remember(id, name) {
  write(PREDICTIONS, [{ id, name }, ...predictions().filter((entry) => entry.id !== id)].slice(0, MOST));
}

/** Take some predictions off the list. */
export function forget(ids) {
  write(PREDICTIONS, predictions().filter((entry) => !ids.includes(entry.id)));
}

/** Return the model that was asked last, or null. */
export function lastModel() {
  return read(MODEL);
}

/** Keep the model that is asked. */
export function keepModel(name) {
  write(MODEL, name);
}

// A browser may forbid storage, or have none left: the page works on, and forgets.
function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch (error) {
    console.info(`${key} cannot be read:`, error.message);
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    console.info(`${key} cannot be kept:`, error.message);
  }
}
