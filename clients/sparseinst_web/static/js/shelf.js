// The pictures that were given, and the queue that has them segmented, a few at a time and in order.

import { Refused, askInstances } from "./api.js";
import { shapesOf } from "./shapes.js";
import { upright } from "./upright.js";

const AT_ONCE = 2;
const TRIES = 6; // when the server has too much to do

/**
 * Pictures and what became of them. Fires `added` and `changed` (detail: pictures, a picture) and `emptied`.
 *
 * A picture has id, name, file, seen (what is shown: the file or an upright copy), url (of that), status ("waiting",
 * "working", "done", "failed"), problem (a sentence, or null) with its code, and once it is done width, height,
 * instances, model, server and roundTrip in milliseconds.
 */
export class Shelf extends EventTarget {
  pictures = [];
  maxBytes = Infinity;
  #working = 0;
  #ids = 0;
  #abort = new AbortController();

  /** Put files on the shelf; those that can be seen to be no picture, or too large, fail at once. */
  add(files) {
    const pictures = [...files].map((file) => {
      const url = URL.createObjectURL(file);
      const picture = { id: ++this.#ids, name: file.name, file, seen: file, url, status: "waiting" };
      return Object.assign(picture, { retried: false, problem: null, code: null, instances: [] });
    });
    this.pictures.push(...pictures);
    this.#tell("added", pictures);
    this.#work();
  }

  /** Try a picture again. */
  retry(picture) {
    picture.status = "waiting";
    this.#changed(picture);
    this.#work();
  }

  /** Try again what found nobody there; once each, so that a picture that a server dies of does not kill the next one. */
  retryDeserted() {
    for (const picture of this.pictures.filter((one) => isDeserted(one) && !one.retried)) {
      picture.retried = true;
      this.retry(picture);
    }
  }

  /** Forget all pictures, and give up what is under way. */
  empty() {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.pictures.forEach((picture) => URL.revokeObjectURL(picture.url));
    this.pictures = [];
    this.#tell("emptied", null);
  }

  /** Pictures that have an end, good or bad. */
  get finished() {
    return this.pictures.filter(({ status }) => status === "done" || status === "failed");
  }

  #work() {
    while (this.#working < AT_ONCE) {
      const next = this.pictures.find(({ status }) => status === "waiting");
      if (!next) return;
      this.#working++;
      this.#segment(next, this.#abort.signal).finally(() => {
        this.#working--;
        this.#work();
      });
    }
  }

  async #segment(picture, signal) {
    picture.status = "working";
    picture.problem = picture.code = null;
    this.#changed(picture);
    try {
      if (picture.file.size > this.maxBytes) throw tooLarge(picture.file.size, this.maxBytes);
      const reply = await this.#ask(picture.file, signal);
      const { model, height, width, milliseconds, roundTrip } = reply;
      const [instances, seen] = await Promise.all([shapesOf(reply), upright(picture.file, reply)]);
      if (signal.aborted) return;
      if (seen !== picture.file) {
        URL.revokeObjectURL(picture.url);
        Object.assign(picture, { seen, url: URL.createObjectURL(seen) });
      }
      Object.assign(picture, { model, height, width, instances, server: milliseconds.server, roundTrip });
      picture.status = "done";
      picture.retried = false;
    } catch (error) {
      if (signal.aborted) return;
      picture.status = "failed";
      picture.problem = error.message;
      picture.code = error.code ?? "unreadable";
    }
    if (!signal.aborted) this.#changed(picture);
  }

  async #ask(file, signal) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await askInstances(file, signal);
      } catch (error) {
        if (error.code !== "overloaded" || attempt === TRIES) throw error;
        await pause(1000 * (error.retryAfter || 1) * (0.5 + Math.random())); // not all at the same moment
      }
    }
  }

  #changed(picture) {
    this.#tell("changed", picture);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Whether a picture failed in a way that trying again cannot help. */
export function isFinal({ code }) {
  return code === "not_a_picture" || code === "too_large";
}

/** Whether a picture failed because nobody was there to look at it. */
export function isDeserted({ status, code }) {
  return status === "failed" && (code === "server_unavailable" || code === "gateway_unreachable");
}

/** Bytes in words. */
export function sizeOf(bytes) {
  return bytes < 2 ** 20 ? `${Math.max(1, Math.round(bytes / 2 ** 10))} KB` : `${Number((bytes / 2 ** 20).toFixed(1))} MB`;
}

function tooLarge(bytes, limit) {
  return new Refused("too_large", `The picture has ${sizeOf(bytes)}; at most ${sizeOf(limit)} are taken.`, 413);
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
