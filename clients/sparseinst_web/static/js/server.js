// Whether the server is there and what it serves: asked at the start, now and then while the page is seen, and more often
// while nobody answers, so that the page goes on by itself when the server is back.

import { askModel } from "./api.js";

const NOW_AND_THEN = 15_000; // milliseconds
const WHILE_AWAY = 3_000;

/**
 * The server. Fires `up` (detail: what is served, see api.js) and `down` (detail: the error) with every answer.
 * `state` is "asking" until the first one, then "up" or "down".
 */
export class Server extends EventTarget {
  state = "asking";
  #timer = 0;
  #asked = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => document.hidden || this.ask());
    window.addEventListener("online", () => this.ask());
  }

  /** Ask now; whoever asks meanwhile is answered by the same. */
  ask() {
    this.#asked ??= this.#ask().finally(() => {
      this.#asked = null;
    });
    return this.#asked;
  }

  async #ask() {
    clearTimeout(this.#timer);
    try {
      const model = await askModel();
      this.#is("up", model);
    } catch (error) {
      this.#is("down", error);
    }
    const pause = this.state === "up" ? NOW_AND_THEN : WHILE_AWAY;
    this.#timer = setTimeout(() => document.hidden || this.ask(), pause);
  }

  #is(state, detail) {
    this.state = state;
    this.dispatchEvent(new CustomEvent(state, { detail }));
  }
}
