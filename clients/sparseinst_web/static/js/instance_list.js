// The list of instances: what the canvas shows, for keyboards, screen readers and everybody else.

import { above, colourOf, readableOn } from "./draw.js";

const MOVES = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

/** The list. Fires `pointed` (focus or pointer on an instance, or null) and `picked` (pressed). */
export class InstanceList extends EventTarget {
  #root;
  #template;
  #rows = [];

  constructor(root, template) {
    super();
    this.#root = root;
    this.#template = template;
    root.addEventListener("keydown", (event) => this.#move(event));
    root.addEventListener("pointerleave", () => this.#tell("pointed", null));
    root.addEventListener("focusout", () => this.#tell("pointed", null));
  }

  /** List instances above a threshold. Rows are made once for a picture and hidden afterwards: focus stays. */
  show(instances, threshold) {
    if (this.#rows.length !== instances.length || this.#rows.some((row, index) => row.instance !== instances[index])) {
      this.#rows = instances.map((instance) => this.#row(instance));
      this.#root.replaceChildren(...this.#rows.map((row) => row.item));
    }
    const shown = new Set(above(instances, threshold));
    for (const { item, instance } of this.#rows) item.hidden = !shown.has(instance);
  }

  /** Mark the instance that is brought out on the stage, and the one that stays so. */
  mark(chosen, picked) {
    for (const { item, button, instance } of this.#rows) {
      item.classList.toggle("chosen", instance === chosen);
      button.setAttribute("aria-pressed", String(instance === picked));
      if (instance === picked && instance === chosen) item.scrollIntoView({ block: "nearest" });
    }
  }

  #row(instance) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    const button = item.querySelector("button");
    const [number, name, meter, score, area] = button.children;
    const colour = colourOf(instance);
    number.textContent = instance.number;
    name.textContent = instance.class;
    score.textContent = instance.score.toFixed(2);
    area.textContent = `${instance.area.toLocaleString("en")} px`;
    item.style.setProperty("--colour", colour);
    item.style.setProperty("--on-colour", readableOn(colour));
    meter.style.setProperty("--share", String(instance.score));
    button.addEventListener("pointerenter", () => this.#tell("pointed", instance));
    button.addEventListener("focus", () => this.#tell("pointed", instance));
    button.addEventListener("click", () => this.#tell("picked", instance));
    return { item, button, instance };
  }

  #move(event) {
    if (!(event.key in MOVES)) return;
    event.preventDefault();
    const buttons = this.#rows.filter(({ item }) => !item.hidden).map(({ button }) => button);
    const at = buttons.indexOf(document.activeElement) + MOVES[event.key];
    buttons[Math.max(0, Math.min(at, buttons.length - 1))]?.focus();
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
