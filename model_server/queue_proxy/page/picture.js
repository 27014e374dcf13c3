// One picture's way: sent, queued, classified, or refused in words.

import * as api from "./api.js";
import * as memory from "./memory.js";

const UPLOADS = 4; // Browsers open six connections to a server: the other two are for polls and previews.
const ATTEMPTS = 8;
const PATIENCE_SECONDS = 5;
const POLL_SECONDS = 2;
const LONG_POLLS = 2;
const FINISHED = new Set(["succeeded", "failed", "cancelled"]);

let following = 0;

/** A picture and what is known of it; `changed` is called after every change of `state`, `problem` or `result`. */
export class Picture {
  constructor(name, changed, { file = null, id = null } = {}) {
    Object.assign(this, { name, changed, file, id, url: file ? URL.createObjectURL(file) : null });
    this.state = id ? "loading" : "waiting";
    this.problem = null;
    this.result = null;
    this.dropped = false;
    this.key = newKey();
  }

  get isFinished() {
    return FINISHED.has(this.state) || this.state === "refused";
  }

  /** Whether the file is at hand and another try may end otherwise. */
  get canRetry() {
    if (this.file === null) return false;
    if (this.state === "refused") return this.problem.passing || this.problem.status === 401;
    return this.state === "cancelled" || (this.state === "failed" && this.result.error?.code !== "rejected");
  }

  /** Send the file and wait for its classes; never throws: what goes wrong becomes the state "refused". */
  async classify(model) {
    await this.#unlessRefused(async () => {
      await uploads.run(() => this.#send(model));
      await this.#follow();
    });
  }

  /** Fetch what became of a prediction that an earlier visit asked for. */
  async restore() {
    await this.#unlessRefused(async () => {
      await uploads.run(async () => {
        await this.#fetch(0);
        await this.#showStored();
      });
      await this.#follow();
    });
  }

  /** Forget the outcome, so that the file can be sent as a new one. */
  reset() {
    Object.assign(this, { id: null, result: null, dropped: false, key: newKey() });
    this.#become("waiting");
  }

  /** Take it out of the queue, here or on the server. */
  async cancel() {
    this.dropped = true;
    if (!this.id) return this.#become("cancelled");
    try {
      await api.cancel(this.id);
    } catch (problem) {
      // Finished in the meantime: the poll shows how.
      if (problem.status !== 409) this.#become(this.state, problem);
    }
  }

  async #send(model) {
    const { key } = this;
    const isOver = () => this.dropped || this.key !== key; // cancelled, perhaps tried again since
    if (isOver()) return;
    await check(this.file);
    const name = await model();
    await this.#persist(ATTEMPTS, async () => {
      if (isOver()) return;
      this.#become("sending");
      this.#take(await api.submit(name, this.file, key, following ? 0 : PATIENCE_SECONDS));
      memory.remember(this.id, this.name);
      if (this.dropped) await this.cancel();
    });
  }

  async #follow() {
    if (this.isFinished) return;
    following += 1;
    try {
      while (!this.isFinished) {
        const crowded = following > LONG_POLLS;
        await this.#fetch(crowded ? 0 : POLL_SECONDS);
        // Many wait at once: each asks seldom enough that all together ask ten times a second.
        if (crowded && !this.isFinished) await sleep(Math.max(1000, following * 100));
      }
    } finally {
      following -= 1;
    }
  }

  /** Find the picture that the server keeps; a prediction about several has none. */
  async #showStored() {
    try {
      this.url = await api.imageUrl(this.id);
    } catch (problem) {
      console.info(`${this.name} cannot be shown:`, problem.title);
    }
    this.changed(this);
  }

  async #fetch(wait) {
    await this.#persist(Infinity, async () => this.#take(await api.prediction(this.id, wait)));
  }

  /** Repeat what fails in passing; being offline counts as no attempt. */
  async #persist(attempts, action) {
    for (let attempt = 1; ; attempt += navigator.onLine ? 1 : 0) {
      try {
        return await action();
      } catch (problem) {
        if (!problem.passing || attempt >= attempts) throw problem;
        this.#become(this.id ? this.state : "held", problem);
        await api.pause(problem, attempt);
      }
    }
  }

  async #unlessRefused(action) {
    try {
      await action();
    } catch (problem) {
      if (!(problem instanceof api.Problem)) throw problem;
      this.#become("refused", problem);
    }
  }

  #take(resource) {
    this.id = resource.id;
    this.result = resource;
    this.#become(resource.status);
  }

  #become(state, problem = null) {
    Object.assign(this, { state, problem });
    this.changed(this);
  }
}

/** Runs so many tasks at a time; the others wait in the order in which they came. */
class Pool {
  #free;
  #waiting = [];

  constructor(size) {
    this.#free = size;
  }

  async run(task) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => this.#waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

const uploads = new Pool(UPLOADS);

async function check(file) {
  if (file.type && !file.type.startsWith("image/")) {
    throw new api.Problem("That is not a picture", `The file is of type ${file.type}; JPEG, PNG, WebP, GIF, BMP and TIFF are read.`);
  }
  const beginning = await file.slice(0, 1).arrayBuffer().catch(() => null);
  if (beginning === null) throw new api.Problem("The file cannot be read", "It is a folder, or it was moved or changed.");
  if (beginning.byteLength === 0) throw new api.Problem("The file is empty", "There is nothing in it to classify.");
}

// crypto.randomUUID exists on https and localhost alone.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
