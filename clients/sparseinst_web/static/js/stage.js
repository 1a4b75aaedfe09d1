// One picture with its masks, fitted into the room there is; what the pointer is over is brought out and described.

import { above, colourOf, paint } from "./draw.js";
import { instanceAt } from "./shapes.js";

const MARGIN = 12; // pixels around the picture
const LARGEST = 3; // screen pixels for one of the picture

/** The stage. Fires `pointed` (detail: the instance under the pointer, or null) and `picked` (clicked or tapped). */
export class Stage extends EventTarget {
  #root;
  #image;
  #canvas;
  #tip;
  #picture = null;
  #url;
  #view = { threshold: 0, masks: true, outlines: true, labels: true };
  #chosen = null;
  #frame = 0;

  constructor(root) {
    super();
    this.#root = root;
    this.#image = root.querySelector("img");
    this.#canvas = root.querySelector("canvas");
    this.#tip = root.querySelector(".tip");
    this.#image.addEventListener("load", () => this.#fit());
    new ResizeObserver(() => this.#fit()).observe(root);
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => this.#tell("pointed", null));
    this.#canvas.addEventListener("click", (event) => this.#tell("picked", this.#under(event)));
  }

  /** Show a picture of the shelf, or none. */
  show(picture) {
    if (picture?.url !== this.#url) {
      this.#url = picture?.url;
      this.#image.classList.remove("ready");
      this.#image.src = picture?.url ?? "";
      this.#image.alt = "";
      this.#image.hidden = !picture;
    }
    this.#picture = picture;
    this.#chosen = null;
    this.describe(null);
    this.#redraw();
  }

  /** What to draw: threshold, masks, outlines, labels. */
  set view(view) {
    this.#view = view;
    this.#redraw();
  }

  /** Bring one instance out; null none. */
  choose(instance) {
    this.#chosen = instance;
    this.#redraw();
  }

  /** Say at the pointer, or where it lies, what an instance is; null says nothing. */
  describe(instance, at = null) {
    this.#tip.hidden = !instance;
    if (!instance) return;
    const { width, height } = this.#picture;
    const share = (100 * instance.area) / (width * height);
    const [name, score, area] = this.#tip.children;
    name.textContent = instance.class;
    score.textContent = `score ${instance.score.toFixed(2)}`;
    area.textContent = `${instance.area.toLocaleString("en")} px, ${share < 0.1 ? "<0.1" : share.toFixed(1)} %`;
    this.#tip.style.setProperty("--colour", colourOf(instance));
    const scale = this.#canvas.clientWidth / width;
    const x = at?.x ?? instance.box.x1 * scale - 14;
    const y = at?.y ?? instance.box.y2 * scale - 8;
    const left = this.#canvas.offsetLeft + x;
    const fits = left + 18 + this.#tip.offsetWidth < this.#root.clientWidth;
    const top = Math.min(this.#canvas.offsetTop + y + 16, this.#root.clientHeight - this.#tip.offsetHeight - 8);
    this.#tip.style.left = `${Math.max(8, fits ? left + 14 : left - 14 - this.#tip.offsetWidth)}px`;
    this.#tip.style.top = `${Math.max(8, top)}px`;
  }

  #under(event) {
    if (this.#picture?.status !== "done") return null;
    const { width, height, instances } = this.#picture;
    const x = Math.floor((event.offsetX / this.#canvas.clientWidth) * width);
    const y = Math.floor((event.offsetY / this.#canvas.clientHeight) * height);
    if (x < 0 || y < 0 || x >= width || y >= height) return null;
    return instanceAt(above(instances, this.#view.threshold), height, x, y);
  }

  #point(event) {
    const instance = this.#under(event);
    this.#tell("pointed", instance);
    if (event.pointerType !== "touch") this.describe(instance, { x: event.offsetX, y: event.offsetY });
  }

  // As large as the room allows.
  #fit() {
    const { naturalWidth: width, naturalHeight: height } = this.#image;
    if (!this.#picture || !width || !height) return;
    const room = (side) => Math.max(1, side - 2 * MARGIN);
    const scale = Math.min(room(this.#root.clientWidth) / width, room(this.#root.clientHeight) / height, LARGEST);
    const style = { width: `${Math.round(width * scale)}px`, height: `${Math.round(height * scale)}px` };
    Object.assign(this.#image.style, style);
    Object.assign(this.#canvas.style, style);
    this.#image.classList.add("ready");
    this.#redraw();
  }

  #redraw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const unit = window.devicePixelRatio;
    this.#canvas.width = Math.round(this.#canvas.clientWidth * unit); // this clears it
    this.#canvas.height = Math.round(this.#canvas.clientHeight * unit);
    if (this.#picture?.status !== "done" || !this.#image.classList.contains("ready")) return;
    const { instances, width } = this.#picture;
    const shown = above(instances, this.#view.threshold);
    const chosen = shown.includes(this.#chosen) ? this.#chosen : null;
    const scale = this.#canvas.width / width;
    paint(this.#canvas.getContext("2d"), shown, { ...this.#view, scale, unit, chosen });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
