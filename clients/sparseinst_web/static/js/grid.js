// The batch view: a card for each picture, drawn when it comes into sight.

import { above, paint } from "./draw.js";
import { isFinal } from "./shelf.js";

const WORDS = { waiting: "waiting", working: "working", failed: "failed" };
const LONG_SIDE = 640; // of a small picture, in pixels

/** The grid. Fires `opened` (detail: the picture) and `retried`. */
export class Grid extends EventTarget {
  #root;
  #template;
  #cards = new Map(); // from the picture
  #view = null;
  #insight;

  constructor(root, template) {
    super();
    this.#root = root;
    this.#template = template;
    this.#insight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        target.card.visible = isIntersecting;
        this.#draw(target.card);
      }
    }, { rootMargin: "200px" });
  }

  /** Add cards. */
  add(pictures) {
    for (const picture of pictures) {
      const item = this.#template.content.firstElementChild.cloneNode(true);
      const card = { picture, item, visible: false, drawn: "", seen: null, small: null };
      item.card = card;
      item.querySelector(".open").addEventListener("click", () => this.#tell("opened", picture));
      item.querySelector(".again").addEventListener("click", () => this.#tell("retried", picture));
      item.querySelector(".name").textContent = picture.name;
      this.#cards.set(picture, card);
      this.#root.append(item);
      this.#insight.observe(item);
      this.change(picture);
    }
  }

  /** A picture has another status, or the threshold moved. */
  change(picture) {
    const card = this.#cards.get(picture);
    const { item } = card;
    item.dataset.status = picture.status;
    const count = above(picture.instances, this.#view.threshold).length;
    const words = picture.status === "done" ? `${count} found` : WORDS[picture.status];
    item.querySelector(".status").textContent = words;
    item.querySelector(".again").hidden = isFinal(picture);
    item.querySelector(".problem").textContent = picture.problem ?? "";
    item.querySelector(".open").setAttribute("aria-label", `Open ${picture.name}, ${words}`);
    item.querySelector(".again").setAttribute("aria-label", `Try ${picture.name} again`);
    this.#draw(card);
  }

  /** What to draw: threshold, masks, outlines; labels have no room here. */
  set view(view) {
    this.#view = view;
    for (const picture of this.#cards.keys()) this.change(picture);
  }

  /** Take all cards away. */
  empty() {
    this.#insight.disconnect();
    this.#cards.clear();
    this.#root.replaceChildren();
  }

  /** Give the keyboard to the card of a picture. */
  focus(picture) {
    this.#cards.get(picture)?.item.querySelector(".open").focus();
  }

  async #draw(card) {
    const { picture, item } = card;
    const drawn = JSON.stringify([picture.status === "done", this.#view]);
    if (!card.visible || this.#root.hidden || card.drawn === drawn) return;
    card.drawn = drawn;
    if (card.seen !== picture.seen) [card.seen, card.small] = [picture.seen, smallOf(picture.seen)];
    const small = await card.small;
    if (!small || card.drawn !== drawn) return; // not a picture, or drawn anew meanwhile
    const canvas = item.querySelector("canvas");
    canvas.width = small.width;
    canvas.height = small.height;
    const context = canvas.getContext("2d");
    context.drawImage(small, 0, 0);
    if (picture.status !== "done") return;
    const shown = above(picture.instances, this.#view.threshold);
    paint(context, shown, { ...this.#view, labels: false, scale: small.width / picture.width, unit: 1.25 });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

async function smallOf(file) {
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, LONG_SIDE / Math.max(whole.width, whole.height));
    const size = { resizeWidth: Math.max(1, Math.round(whole.width * scale)), resizeQuality: "medium" };
    const small = await createImageBitmap(whole, size);
    whole.close();
    return small;
  } catch {
    return null;
  }
}
