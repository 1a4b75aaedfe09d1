// The camera: live masks over what it sees, and a shutter. Frames go out one after the other, never two at once.

import { askInstances } from "./api.js";
import { above, paint } from "./draw.js";
import { shapesOf } from "./shapes.js";

const LIVE_SIDE = 640; // pixels of the long side of what is sent while live

/** The camera's dialog. Fires `taken` (detail: a File). */
export class Camera extends EventTarget {
  #dialog;
  #video = document.createElement("video");
  #canvas;
  #words;
  #problem;
  #live;
  #view = null;
  #stream = null;

  constructor(dialog) {
    super();
    this.#dialog = dialog;
    this.#canvas = dialog.querySelector("canvas");
    this.#words = dialog.querySelector(".words"); // it changes with every frame: not for a screen reader
    this.#problem = dialog.querySelector(".problem");
    this.#live = dialog.querySelector("input");
    this.#video.muted = true;
    this.#video.playsInline = true;
    dialog.querySelector(".shutter").addEventListener("click", () => this.#take());
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop());
  }

  /** Whether this browser lets this page use a camera: only over https, or on the same machine. */
  static get available() {
    return Boolean(navigator.mediaDevices?.getUserMedia);
  }

  /** What to draw: threshold, masks, outlines, labels. */
  set view(view) {
    this.#view = view;
  }

  /** Ask for the camera and show what it sees, until the dialog is closed. */
  async open() {
    this.#say("Waiting for the camera");
    this.#dialog.showModal();
    try {
      const wanted = { facingMode: "environment", width: { ideal: 1280 } };
      const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
      if (!this.#dialog.open) return stopped(stream);
      this.#stream = stream;
      this.#video.srcObject = stream;
      await this.#video.play();
    } catch (error) {
      const why = error.name === "NotAllowedError" ? "The browser was told not to allow it." : "None was found.";
      return this.#say("", `No camera. ${why}`);
    }
    this.#say("");
    return this.#run(this.#stream);
  }

  async #run(stream) {
    while (this.#stream === stream) {
      if (this.#live.checked) await this.#segmentFrame(stream);
      else this.#drawFrame(this.#video);
      await new Promise(requestAnimationFrame);
    }
  }

  // The masks belong to the frame that was sent: that one is shown with them, not the one that the camera sees by then.
  async #segmentFrame(stream) {
    const { videoWidth, videoHeight } = this.#video;
    const scale = Math.min(1, LIVE_SIDE / Math.max(videoWidth, videoHeight));
    const frame = canvasOf(this.#video, Math.round(videoWidth * scale), Math.round(videoHeight * scale));
    try {
      const reply = await askInstances(await jpegOf(frame));
      const instances = above(await shapesOf(reply), this.#view.threshold);
      if (this.#stream !== stream) return;
      this.#drawFrame(frame);
      const context = this.#canvas.getContext("2d");
      const unit = Math.max(1, this.#canvas.width / this.#canvas.clientWidth);
      paint(context, instances, { ...this.#view, scale: this.#canvas.width / reply.width, unit });
      this.#say(`${instances.length} found, round trip ${Math.round(reply.roundTrip)} ms`);
    } catch (error) {
      this.#drawFrame(frame);
      this.#say("", error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }

  #drawFrame(source) {
    this.#canvas.width = this.#video.videoWidth;
    this.#canvas.height = this.#video.videoHeight;
    this.#canvas.getContext("2d").drawImage(source, 0, 0, this.#canvas.width, this.#canvas.height);
  }

  async #take() {
    if (!this.#stream) return;
    const whole = canvasOf(this.#video, this.#video.videoWidth, this.#video.videoHeight);
    const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
    const file = new File([await jpegOf(whole)], `camera ${time}.jpg`, { type: "image/jpeg" });
    this.#dialog.close();
    this.dispatchEvent(new CustomEvent("taken", { detail: file }));
  }

  #stop() {
    if (this.#stream) stopped(this.#stream);
    this.#stream = null;
    this.#video.srcObject = null;
  }

  #say(words, problem = "") {
    this.#words.textContent = words;
    this.#problem.hidden = !problem;
    if (this.#problem.textContent !== problem) this.#problem.textContent = problem;
  }
}

function stopped(stream) {
  stream.getTracks().forEach((track) => track.stop());
}

function canvasOf(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return canvas;
}

function jpegOf(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}
