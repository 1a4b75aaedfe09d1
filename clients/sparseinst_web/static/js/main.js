// Ties the page together: what is on the shelf, which view is open, which instance is brought out.

import { Camera } from "./camera.js";
import { cocoOf, pngOf, save, stemOf } from "./download.js";
import { above } from "./draw.js";
import { offer } from "./examples.js";
import { Grid } from "./grid.js";
import { InstanceList } from "./instance_list.js";
import { listen } from "./intake.js";
import { Panel } from "./panel.js";
import { Server } from "./server.js";
import { Shelf, isDeserted, isFinal, sizeOf } from "./shelf.js";
import { Stage } from "./stage.js";

const BUSY = { waiting: "Waiting for its turn", working: "Segmenting" };
const AWAY = {
  server_unavailable: "The inference server cannot be reached.",
  gateway_unreachable: "The gateway that serves this page cannot be reached.",
};
const TITLES = {
  not_a_picture: "This cannot be read as a picture",
  too_large: "This picture is too large",
  overloaded: "The server is busy",
  server_unavailable: "The server is down",
  gateway_unreachable: "The gateway is gone",
};

const $ = (id) => document.getElementById(id);
const server = new Server();
const shelf = new Shelf();
const panel = new Panel();
const stage = new Stage($("stage"));
const list = new InstanceList($("instances"), $("instance-row"));
const grid = new Grid($("grid"), $("grid-card"));
const camera = new Camera($("camera"));

let model = null;
let open = null; // the picture on the stage; null while the grid is seen
let picked = null; // the instance that stays brought out
let pointed = null; // the one under the pointer, or with the keyboard's focus

// --- what is served

server.addEventListener("up", ({ detail: served }) => {
  const back = $("server").dataset.state === "down";
  serverIs("up", "Server ready");
  alarm(null);
  if (JSON.stringify(served) !== JSON.stringify(model)) meet(served);
  if (back) say("The server is back.");
  shelf.retryDeserted();
});

server.addEventListener("down", ({ detail: error }) => {
  serverIs("down", error.code === "gateway_unreachable" ? "Gateway not reachable" : "Server not reachable");
  alarm(`${AWAY[error.code] ?? error.message} This page keeps asking, and goes on by itself.`);
});

function meet(served) {
  model = served;
  shelf.maxBytes = model.max_bytes;
  $("name").textContent = model.name;
  $("classes").textContent = ` · ${model.classes.length} ${model.classes.length === 1 ? "class" : "classes"}`;
  $("finds").textContent = `The model finds ${inWords(model.classes)}.`;
  $("most").textContent = `, up to ${sizeOf(model.max_bytes)}`;
  panel.start(model);
  offer($("examples"), model.examples, take, () => server.ask());
}

function serverIs(state, words) {
  $("server").dataset.state = state;
  $("server-words").textContent = words;
}

function alarm(words) {
  const text = $("alert").querySelector("p");
  $("alert").hidden = !words;
  if (words && text.textContent !== words) text.textContent = words; // a screen reader says it once
}

function inWords(names) {
  if (names.length === 1) return names[0];
  if (names.length > 12) return `${names.slice(0, 8).join(", ")} and ${names.length - 8} more kinds of things`;
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

// --- pictures

function take(files) {
  shelf.add(files);
}

shelf.addEventListener("added", ({ detail: pictures }) => {
  grid.add(pictures);
  if (shelf.pictures.length === 1) show(pictures[0]);
  else showGrid();
});

shelf.addEventListener("changed", ({ detail: picture }) => {
  grid.change(picture);
  if (picture.status === "done" ? server.state !== "up" : isDeserted(picture)) server.ask();
  if (picture === open) show(picture);
  else refresh();
  report(picture);
});

shelf.addEventListener("emptied", () => {
  grid.empty();
  open = picked = pointed = null;
  stage.show(null);
  refresh();
  document.querySelector("#welcome input").focus();
});

// For those who do not see the picture.
function report(picture) {
  const { length: total } = shelf.pictures;
  const finished = shelf.finished;
  if (total === 1 && picture.status === "failed") say(`${picture.name}: ${picture.problem}`);
  if (total === 1 && picture.status === "done") say(summaryOf(picture));
  if (total > 1 && finished.length === total) {
    const failed = finished.filter(({ status }) => status === "failed").length;
    say(`All ${total} pictures are done${failed ? `, ${failed} of them failed` : ""}.`);
  }
}

function say(words) {
  $("said").textContent = words;
}

function summaryOf({ instances }) {
  const shown = above(instances, panel.view.threshold);
  if (shown.length === 0) return "Nothing found above this score.";
  const counts = new Map();
  for (const { class: name } of shown) counts.set(name, (counts.get(name) ?? 0) + 1);
  const words = [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
  return `${shown.length} ${shown.length === 1 ? "instance" : "instances"} found: ${words}.`;
}

// --- views

function show(picture) {
  if (picture !== open) picked = pointed = null;
  open = picture;
  stage.show(picture);
  list.show(picture.instances, panel.view.threshold);
  refresh();
}

function showGrid(focused = null) {
  open = null;
  refresh();
  grid.view = panel.view; // draws what was out of sight
  if (focused) grid.focus(focused);
}

function refresh() {
  const { pictures } = shelf;
  const many = pictures.length > 1;
  document.body.dataset.view = pictures.length === 0 ? "welcome" : open ? "stage" : "grid";
  $("welcome").hidden = pictures.length > 0;
  $("work").hidden = pictures.length === 0;
  $("panel").hidden = pictures.length === 0 || open?.status === "failed";
  $("stage").hidden = $("instances").hidden = !open;
  $("grid").hidden = $("totals").hidden = Boolean(open);
  $("to-grid").hidden = $("turn").hidden = !many || !open;
  $("save-png").hidden = !open;
  $("list-title").textContent = open ? "Instances" : "All pictures";
  refreshProgress();
  if (open) refreshStage();
  else $("title").textContent = `${pictures.length} pictures`;
  panel.show(open ? [open] : pictures);
}

function refreshProgress() {
  const [total, finished] = [shelf.pictures.length, shelf.finished.length];
  $("progress").hidden = total < 2 || finished === total;
  $("progress").querySelector("progress").value = total ? finished / total : 0;
  $("progress").querySelector("p").textContent = `${finished} of ${total}`;
}

function refreshStage() {
  const { name, status, problem, code, width, height } = open;
  $("title").textContent = status === "done" ? `${name}, ${width} × ${height}` : name;
  $("stage").dataset.status = status;
  $("stage").querySelector(".busy").lastChild.textContent = BUSY[status] ?? "";
  $("failure").hidden = status !== "failed";
  $("failure").querySelector("h2").textContent = TITLES[code] ?? "That did not work";
  $("failure").querySelector("p").textContent = problem ?? "";
  $("failure").querySelector("button").hidden = isFinal(open);
  const words = status === "done" ? summaryOf(open) : (BUSY[status] ?? status);
  $("stage").querySelector("canvas").setAttribute("aria-label", `${name}. ${words}`);
}

function bringOut() {
  const chosen = pointed ?? picked;
  stage.choose(chosen);
  list.mark(chosen, picked);
}

function turn(by) {
  const { pictures } = shelf;
  show(pictures[(pictures.indexOf(open) + by + pictures.length) % pictures.length]);
}

// --- what people do

panel.addEventListener("viewed", () => {
  const { view } = panel;
  stage.view = grid.view = camera.view = view;
  if (open) list.show(open.instances, view.threshold);
  refresh();
});

for (const part of [stage, list]) {
  part.addEventListener("pointed", ({ detail: instance }) => {
    if (instance === pointed) return;
    pointed = instance;
    bringOut();
    stage.describe(instance ?? picked);
  });
  part.addEventListener("picked", ({ detail: instance }) => {
    picked = instance === picked ? null : instance;
    if (!picked) pointed = null; // let go of, though it still has the focus
    bringOut();
    stage.describe(picked);
  });
}

grid.addEventListener("opened", ({ detail: picture }) => {
  show(picture);
  $("to-grid").focus();
});
grid.addEventListener("retried", ({ detail: picture }) => shelf.retry(picture));
camera.addEventListener("taken", ({ detail: file }) => take([file]));
listen([...document.querySelectorAll("input[type=file]")], take);

for (const button of document.querySelectorAll(".open-camera")) {
  button.hidden = !Camera.available;
  button.addEventListener("click", () => camera.open());
}
$("alert").querySelector("button").addEventListener("click", () => server.ask());
$("failure").querySelector("button").addEventListener("click", () => shelf.retry(open));
$("to-grid").addEventListener("click", () => showGrid(open));
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("clear").addEventListener("click", () => shelf.empty());
$("save-png").addEventListener("click", async () => save(await pngOf(open, panel.view), `${stemOf(open.name)}.masks.png`));
$("save-coco").addEventListener("click", () => {
  const pictures = open ? [open] : shelf.pictures;
  const text = JSON.stringify(cocoOf(pictures, model, panel.view.threshold), null, 1);
  save(new Blob([text], { type: "application/json" }), `${open ? stemOf(open.name) : "pictures"}.coco.json`);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("camera").open || !open) return;
  if (picked) {
    picked = null;
    bringOut();
    stage.describe(null);
  } else if (shelf.pictures.length > 1) {
    showGrid(open);
  }
});

grid.view = panel.view;
server.ask();
