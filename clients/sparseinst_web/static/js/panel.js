// The panel beside the pictures: threshold, what is shown, counts, time. It asks nobody anything.

import { above, colourOf } from "./draw.js";

const $ = (id) => document.getElementById(id);

/** The panel. Fires `viewed` when threshold or switches were moved; `view` is what they say. */
export class Panel extends EventTarget {
  #threshold = $("threshold");
  #switches = ["masks", "outlines", "labels"].map($);
  #default = 0;

  constructor() {
    super();
    for (const input of [this.#threshold, ...this.#switches]) input.addEventListener("input", () => this.#moved());
    $("default").addEventListener("click", () => {
      this.#threshold.value = this.#default;
      this.#moved();
    });
  }

  /** Start from the model's own threshold; nothing below the floor was asked for. */
  start({ score_threshold: threshold, floor }) {
    this.#default = threshold;
    this.#threshold.min = floor;
    this.#threshold.value = threshold;
    $("default").textContent = `Model's own: ${threshold.toFixed(2)}`;
    this.#moved();
  }

  /** Threshold, masks, outlines, labels. */
  get view() {
    const [masks, outlines, labels] = this.#switches.map((input) => input.checked);
    return { threshold: Number(this.#threshold.value), masks, outlines, labels };
  }

  /** Say what is known of these pictures: one on the stage, or all of a batch. */
  show(pictures) {
    const done = pictures.filter(({ status }) => status === "done");
    const instances = done.flatMap((picture) => picture.instances);
    const shown = above(instances, this.view.threshold);
    this.#rule(instances, pictures.length === 1);
    $("count").textContent = done.length ? `${shown.length} of ${instances.length} shown` : "";
    $("none").hidden = shown.length > 0;
    $("none").textContent = absence(done, instances);
    $("save-png").disabled = done.length === 0;
    $("save-coco").disabled = done.length === 0;
    this.#sum(shown);
    this.#time(done);
  }

  // A mark for each instance's score, so that one sees where a threshold cuts.
  #rule(instances, coloured) {
    const { min, max } = this.#threshold;
    const marks = instances.map((instance) => {
      const mark = document.createElement("i");
      mark.style.setProperty("--at", String((instance.score - min) / (max - min)));
      if (coloured) mark.style.setProperty("--colour", colourOf(instance));
      mark.classList.toggle("out", instance.score <= this.view.threshold);
      return mark;
    });
    $("ruler").replaceChildren(...marks);
  }

  #sum(shown) {
    const counts = new Map();
    for (const { class: name } of shown) counts.set(name, (counts.get(name) ?? 0) + 1);
    const most = Math.max(...counts.values());
    const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => {
      const row = document.createElement("li");
      row.style.setProperty("--share", String(count / most));
      row.append(elementOf("span", name), elementOf("b", count));
      return row;
    });
    $("totals").replaceChildren(...rows);
  }

  #time(done) {
    document.querySelector("#times .stack").classList.toggle("empty", done.length === 0);
    for (const id of ["time-server", "time-way", "time-round"]) $(id).textContent = "–";
    if (!done.length) return;
    const server = median(done.map((picture) => picture.server));
    const round = median(done.map((picture) => picture.roundTrip));
    $("time-server").textContent = milliseconds(server);
    $("time-way").textContent = milliseconds(Math.max(0, round - server));
    $("time-round").textContent = milliseconds(round) + (done.length > 1 ? " (median)" : "");
    document.querySelector("#times .stack").style.setProperty("--share", String(Math.min(1, server / round)));
  }

  #moved() {
    const value = this.view.threshold.toFixed(2);
    $("threshold-value").textContent = value;
    const { min, max } = this.#threshold;
    this.#threshold.style.setProperty("--share", String((this.view.threshold - min) / (max - min)));
    this.dispatchEvent(new Event("viewed"));
  }
}

// Why nothing is listed.
function absence(done, instances) {
  if (!done.length) return "They are listed here as soon as they are found.";
  if (!instances.length) return "The model found nothing it knows.";
  return "Nothing above this score. Lower it to see what the model doubts.";
}

function milliseconds(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

function elementOf(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}
