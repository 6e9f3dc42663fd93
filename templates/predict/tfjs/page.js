// SPDX-License-Identifier: Apache-2.0
"use strict";

// The page around the network: takes photographs, draws what was found, offers it for download. The work is done by
// predict.js, a web worker. Class names are strangers' text: they are only ever set as text, never as HTML.

const TALLEST_SHARE = 0.78; // of the window's height that a picture takes
const MOST_ENLARGED = 3;
const MOST_PIXELS = 1600; // a side of the picture
const FONT = "system-ui, sans-serif";

const byId = (id) => document.getElementById(id);
const settings = document.body.dataset;
const view = { opening: null, photo: null, found: [], marked: null };

// ---- the worker

let worker = null;
let names = [];
let lastId = 0;
const waiting = new Map();

/** Have the worker do a task; the promise is kept with what it answers. */
function ask(task, data) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ ...data, id, task });
  });
}

function hear({ data }) {
  if ("progress" in data) {
    byId("progress").value = data.progress;
    return;
  }
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if ("error" in data) reject(new Error(data.error));
  else resolve(data.value);
}

async function start() {
  showThresholds();
  showStatus("");
  if (location.protocol === "file:") {
    const folder = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
    showError(
      "Browsers do not let a page that was opened as a file read its model. Serve its folder instead: run " +
        `python -m http.server in ${folder} and open http://localhost:8000/`,
    );
    return;
  }
  worker = new Worker("predict.js");
  worker.onmessage = hear;
  worker.onerror = (event) => showError(`predict.js cannot be run: ${event.message || "it cannot be loaded"}`);
  showStatus("Loading the model…");
  byId("progress").hidden = false;
  try {
    ({ names } = await ask("model", { folder: encodeURIComponent(settings.model) }));
    showStatus(view.opening ? "Looking…" : "Ready.");
  } catch (error) {
    showStatus("");
    showError(error.message);
  }
  byId("progress").hidden = true;
}

// ---- what the page says

function showStatus(text) {
  byId("status").textContent = text;
}

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function thresholds() {
  return { conf: Number(byId("conf").value), iou: Number(byId("iou").value), maxDet: Number(settings.maxDet) };
}

function showThresholds() {
  for (const name of ["conf", "iou"]) byId(`${name}-value`).textContent = Number(byId(name).value).toFixed(2);
}

/** "2 person, 1 dog", in class order. */
function counted(found) {
  const counts = new Map();
  for (const { classId } of found) counts.set(classId, (counts.get(classId) ?? 0) + 1);
  const classes = [...counts.keys()].sort((a, b) => a - b);
  return classes.map((classId) => `${counts.get(classId)} ${names[classId]}`).join(", ") || "Nothing found";
}

function showFound() {
  const { photo, found } = view;
  showStatus(`${counted(found)}; ${Math.round(photo.milliseconds)} ms, ${photo.size[1]} × ${photo.size[0]} pixels.`);
  byId("found").replaceChildren(...found.map(foundItem));
}

function foundItem(detection) {
  const item = document.createElement("li");
  const swatch = document.createElement("canvas");
  [swatch.width, swatch.height] = [16, 16];
  const context = swatch.getContext("2d");
  context.fillStyle = cssColour(classColour(detection.classId));
  context.fillRect(0, 0, 16, 16);
  const name = document.createElement("span");
  name.textContent = names[detection.classId];
  const score = document.createElement("span");
  score.className = "score";
  score.textContent = detection.score.toFixed(2);
  item.append(swatch, name, score);
  item.addEventListener("pointerenter", () => mark(detection));
  item.addEventListener("pointerleave", () => mark(null));
  return item;
}

// ---- photographs

/** Show an image file and find what is on it. */
async function openFile(file) {
  if (!worker) return;
  showError("");
  view.photo = null;
  byId("download").disabled = true;
  if (waiting.size === 0) showStatus("Looking…");
  const photo = { name: file.name };
  view.opening = photo;
  try {
    const { size, milliseconds } = await ask("photo", { file });
    Object.assign(photo, { size, milliseconds, picture: await createImageBitmap(file) });
    if (view.opening !== photo) return; // Another one was chosen meanwhile.
    view.photo = photo;
    byId("drop").hidden = true;
    byId("picture").hidden = byId("another").hidden = false;
    await refresh();
    byId("download").disabled = false;
  } catch (error) {
    if (view.opening !== photo) return;
    forget();
    showError(error.message);
  }
}

/** Back to the start: there is no photograph. */
function forget() {
  Object.assign(view, { opening: null, photo: null, found: [], marked: null });
  showStatus("");
  byId("found").replaceChildren();
  byId("drop").hidden = false;
  byId("picture").hidden = byId("another").hidden = true;
}

/** Ask for the detections by the thresholds and the picture's size as they are now, and show them. */
let refreshing = null;
let stale = false;

function refresh() {
  stale = true;
  refreshing ??= (async () => {
    while (stale && view.photo) {
      stale = false;
      const { photo } = view;
      photo.shown = pictureSize(photo.size);
      const found = await ask("detections", { thresholds: thresholds(), size: photo.shown.pixels });
      if (view.photo !== photo) continue;
      Object.assign(view, { found, marked: null });
      showFound();
      draw();
    }
  })().finally(() => (refreshing = null));
  return refreshing;
}

function mark(detection) {
  if (!view.photo) return;
  view.marked = detection;
  draw();
}

async function download() {
  const { photo } = view;
  byId("download").disabled = true; // On a large photograph the exact masks take a while.
  try {
    const text = await ask("result", { thresholds: thresholds() });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `${photo.name.replace(/\.[^.]*$/, "") || "image"}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } finally {
    byId("download").disabled = view.photo === null;
  }
}

// ---- drawing

/** How large a photograph of a size [height, width] is shown: in pixels of the canvas, and those a CSS pixel. */
function pictureSize([height, width]) {
  const room = [window.innerHeight * TALLEST_SHARE, byId("stage").clientWidth];
  const scale = Math.min(room[0] / height, room[1] / width, MOST_ENLARGED);
  const density = Math.min(window.devicePixelRatio, MOST_PIXELS / (Math.max(height, width) * scale));
  const pixels = [height, width].map((side) => Math.max(1, Math.round(side * scale * density)));
  return { pixels, density };
}

/** A class's colour [red, green, blue], that of segc's own pictures. */
function classColour(classId) {
  const hue = (0.55 + classId * 0.618034) % 1;
  const saturation = [0.75, 1, 0.55][Math.floor(classId / 5) % 3];
  const value = [0.8, 0.6, 1][Math.floor(classId / 7) % 3];
  // The channel's share of full colour, by its distance on the circle of hues.
  const channel = (turn) => {
    const sector = (turn + hue * 6) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(sector, 4 - sector, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

function cssColour(colour, opacity = 1) {
  return `rgb(${colour.join(" ")} / ${opacity})`;
}

function draw() {
  const { photo, found, marked } = view;
  const { pixels, density } = photo.shown;
  const canvas = byId("picture");
  [canvas.height, canvas.width] = pixels;
  canvas.style.width = `${canvas.width / density}px`;
  const context = canvas.getContext("2d");
  context.drawImage(photo.picture, 0, 0, canvas.width, canvas.height);
  const line = Math.max(1, 1.5 * density);
  // Large things first, so that small ones lie on top of them.
  const shown = marked ? [marked] : found;
  const extent = ({ runs }) => runs.reduce((sum, value, i) => sum + [0, -1, 1][i % 3] * value, 0);
  const order = shown.map((row) => [extent(row), row]).sort((a, b) => b[0] - a[0]);
  for (const [, row] of order) drawMask(context, row, line);
  const scale = pixels.map((side, axis) => side / photo.size[axis]);
  for (const [, row] of order) {
    const [x1, y1, x2, y2] = pictureBox(row, scale);
    context.strokeStyle = cssColour(classColour(row.classId));
    context.lineWidth = line;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  drawLabels(context, shown, scale, density);
}

function pictureBox(row, scale) {
  return row.box.map((side, i) => side * scale[1 - (i % 2)]);
}

function drawMask(context, { classId, runs, outlines }, line) {
  const colour = classColour(classId);
  const inside = new Path2D();
  for (let i = 0; i < runs.length; i += 3) inside.rect(runs[i + 1], runs[i], runs[i + 2] - runs[i + 1], 1);
  context.fillStyle = cssColour(colour, MASK_OPACITY);
  context.fill(inside);
  const border = new Path2D();
  for (const points of outlines) {
    border.moveTo(points[0] + 0.5, points[1] + 0.5);
    for (let i = 2; i < points.length; i += 2) border.lineTo(points[i] + 0.5, points[i + 1] + 0.5);
    border.closePath();
  }
  context.strokeStyle = cssColour(colour);
  context.lineWidth = line;
  context.lineJoin = "round";
  context.stroke(border);
}

/** Labels last, the best detection's first, each where it hides least of those before it, or not at all. */
function drawLabels(context, shown, scale, density) {
  const { width, height } = context.canvas;
  const [size, pad] = [13 * density, 4 * density];
  context.font = `600 ${size}px ${FONT}`;
  context.textBaseline = "middle";
  const taken = [];
  for (const row of shown) {
    const text = `${names[row.classId]} ${row.score.toFixed(2)}`;
    const long = Math.min(context.measureText(text).width + 2 * pad, width);
    const tall = size + pad;
    const [x1, y1, x2, y2] = pictureBox(row, scale);
    const corners = [[x1, y1 - tall], [x1, y1], [x2 - long, y2 - tall], [x1, y2], [x2 - long, y1 - tall]];
    const places = corners.map(([x, y]) => {
      const left = Math.max(0, Math.min(x, width - long));
      const top = Math.max(0, Math.min(y, height - tall));
      return [left, top, left + long, top + tall];
    });
    const hidden = places.map((place) => taken.reduce((sum, other) => sum + commonArea(place, other), 0));
    const least = Math.min(...hidden);
    if (least > MOST_HIDDEN * long * tall) continue;
    const place = places[hidden.indexOf(least)];
    taken.push(place);
    const colour = classColour(row.classId);
    context.fillStyle = cssColour(colour);
    context.fillRect(place[0], place[1], long, tall);
    context.fillStyle = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 ? "#000" : "#fff";
    context.fillText(text, place[0] + pad, place[1] + tall / 2, long - 2 * pad);
  }
}

function commonArea(a, b) {
  const [width, height] = [0, 1].map((axis) => Math.min(a[axis + 2], b[axis + 2]) - Math.max(a[axis], b[axis]));
  return Math.max(0, width) * Math.max(0, height);
}

// ---- what people do

function openFirst(files, otherwise) {
  if (files.length) openFile(files[0]);
  else if (otherwise) showError(otherwise);
}

byId("file").addEventListener("change", ({ target }) => {
  openFirst(target.files);
  target.value = ""; // So that the same file can be chosen again.
});
byId("another").addEventListener("click", () => byId("file").click());
byId("download").addEventListener("click", () => download().catch((error) => showError(error.message)));
for (const name of ["conf", "iou"]) {
  byId(name).addEventListener("input", () => {
    showThresholds();
    if (view.photo) refresh().catch((error) => showError(error.message));
  });
}
document.addEventListener("paste", ({ clipboardData }) => {
  openFirst(clipboardData.files, "There is no image in the clipboard.");
});
for (const type of ["dragenter", "dragover"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  openFirst(event.dataTransfer.files, "That is no file: save the image first, then drop it here.");
});
new ResizeObserver(() => view.photo && refresh().catch((error) => showError(error.message))).observe(byId("stage"));

start();
