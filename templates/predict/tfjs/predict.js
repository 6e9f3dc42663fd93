// SPDX-License-Identifier: Apache-2.0
"use strict";

// The web worker that runs the network, so that the page stays awake meanwhile. segc runs this very file in Node.js to
// verify the model. What it is told and what it answers stands at the end.

if (typeof importScripts !== "function") {
  console.error("predict.js is the worker of index.html, no program: run python -m http.server here, and open the page");
  process.exit(2);
}

importScripts("runtime/tf.min.js", "constants.js", "inference.js");

const FETCHED_AT_ONCE = 4;
const STRIP_PIXELS = 1 << 22;

/** Something that people can mend; its message is for them. */
class PredictError extends Error {}

// ---- the model

/** Start the runtime: WebAssembly, on one thread, since more of them need headers that plain servers do not send. */
async function startRuntime() {
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  if (!(await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT"))) {
    throw new PredictError("This browser is too old: it has no WebAssembly SIMD.");
  }
  tf.setWasmPaths("runtime/", true);
  await tf.setBackend("wasm");
  await tf.ready();
}

/**
 * Load a graph model.
 *
 * @param folder where its model.json lies, without a slash at the end.
 * @param progress is told the share that is there, 0 to 1.
 * @returns {{graph: object, metadata: object, suppresses: boolean}} the model of TensorFlow.js, what segc wrote about
 *   it, and whether it suppresses overlapping boxes by itself.
 */
async function loadModel(folder, progress) {
  const description = await (await fetched(`${folder}/model.json`)).json().catch(() => null);
  const metadata = description?.userDefinedMetadata?.segc;
  if (description?.format !== "graph-model" || !Array.isArray(metadata?.names)) {
    throw new PredictError(`${folder}/model.json is not a model of segc.`);
  }
  const groups = description.weightsManifest;
  const paths = groups.flatMap((group) => group.paths);
  const shards = await fetchAll(paths.map((path) => `${folder}/${path}`), progress);
  const artifacts = {
    modelTopology: description.modelTopology,
    signature: description.signature,
    userDefinedMetadata: description.userDefinedMetadata,
    weightSpecs: groups.flatMap((group) => group.weights),
    weightData: shards,
  };
  await startRuntime();
  const suppresses = description.modelTopology.node.some(({ op }) => op === "NonMaxSuppressionV4");
  return { graph: await tf.loadGraphModel({ load: async () => artifacts }), metadata, suppresses };
}

/** A file of the server; what the browser has kept is used where the server says that it is still the same. */
async function fetched(path) {
  const response = await fetch(path, { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) {
    const reason = response ? `the server answered ${response.status}` : "the server does not answer";
    throw new PredictError(`${path} cannot be loaded: ${reason}.`);
  }
  return response;
}

/** The bytes of several files, in their order, a few fetched at a time. */
async function fetchAll(paths, progress) {
  const results = new Array(paths.length);
  let [next, done] = [0, 0];
  const fetchRest = async () => {
    while (next < paths.length) {
      const index = next++;
      results[index] = await (await fetched(paths[index])).arrayBuffer();
      progress?.(++done / paths.length);
    }
  };
  await Promise.all(Array.from({ length: FETCHED_AT_ONCE }, fetchRest));
  return results;
}

/**
 * Run a model.
 *
 * @param input [1, height, width, 3] in 0..1, as a Float32Array.
 * @returns {Object<string, {values: Float32Array, shape: number[]}>} its outputs by name.
 */
async function runModel(model, input, shape) {
  const images = tf.tensor(input, shape, "float32");
  // TensorFlow.js suppresses only asynchronously.
  const results = await (model.suppresses ? model.graph.predictAsync({ images }) : model.graph.predict({ images }));
  const outputs = {};
  for (const [name, result] of Object.entries(results)) {
    const values = result.dataSync();
    outputs[name] = { values: result.dtype === "float32" ? values : Float32Array.from(values), shape: result.shape };
    result.dispose();
  }
  images.dispose();
  return outputs;
}

// ---- the photograph

/**
 * An image file, decoded and turned as its EXIF orientation says.
 *
 * Its colours are taken as the file has them, as training does, not converted from its colour profile. Where it is
 * transparent the browser gives black, though, and training what is stored there.
 */
async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new PredictError("This file is no image that the browser can read.");
  }
}

/** The rows of a bitmap, for `letterbox`. Few are copied at a time: canvases as large as photographs may be refused. */
function rowReader(bitmap) {
  const { width, height } = bitmap;
  const most = clamp(Math.floor(STRIP_PIXELS / width), 2, height);
  const context = new OffscreenCanvas(width, most).getContext("2d", { willReadFrequently: true });
  // In place of the strip before, not on top of it.
  context.globalCompositeOperation = "copy";
  let [first, strip] = [0, null];
  const row = (y) => {
    if (strip === null || y >= first + strip.height) {
      first = y;
      const rows = Math.min(most, height - y);
      context.drawImage(bitmap, 0, y, width, rows, 0, 0, width, rows);
      strip = context.getImageData(0, 0, width, rows);
    }
    return strip.data.subarray((y - first) * width * 4, (y - first + 1) * width * 4);
  };
  return { height, width, row };
}

// ---- what the page asks for

/** What the worker knows: the model, and the photograph that was run last. */
const state = { model: null, photo: null };

/** Run the network on an image file; the size of the photograph and the milliseconds that the network took. */
async function openPhoto({ file }) {
  state.photo = null;
  if (!state.model) throw new PredictError("There is no model to run.");
  const { imgsz: size, names } = state.model.metadata;
  const bitmap = await decode(file);
  const { input, geometry } = letterbox(rowReader(bitmap), size);
  bitmap.close();
  const started = performance.now();
  const outputs = await runModel(state.model, input, [1, ...size, 3]);
  const scores = outputs.scores.values;
  state.photo = {
    name: file.name,
    geometry,
    boxes: outputs.boxes.values,
    scores: outputs.classes ? spreadScores(scores, outputs.classes.values, names.length) : scores,
    coefficients: outputs.coefficients?.values,
    prototypes: outputs.prototypes && grid(outputs.prototypes),
    masks: outputs.masks && grid(outputs.masks),
  };
  return { size: geometry.original, milliseconds: performance.now() - started };
}

/** An output [1, height, width, count] for what reads it cell by cell. */
function grid({ values, shape: [, height, width, count] }) {
  return { values, height, width, count };
}

/** A detection's mask on the frame. */
function maskOf(row) {
  const { coefficients, prototypes, masks, boxes, geometry } = state.photo;
  if (masks) return cutMask(masks, row.anchor, row.box);
  const count = coefficients.length / (boxes.length / 4);
  const own = coefficients.subarray(row.anchor * count, (row.anchor + 1) * count);
  return frameMask(own, prototypes, row.box, geometry.size);
}

/**
 * The detections on the open photograph.
 *
 * @param thresholds `conf`, `iou`, `maxDet`.
 * @param size [height, width] of the picture that they are drawn on.
 * @returns rows with `classId`, `score`, `box` in pixels of the photograph, and in pixels of the picture `outlines` and
 *   `runs`: y, start, stop, y, start, stop, … of the mask's rows.
 */
function findDetections({ thresholds, size }) {
  const { geometry } = state.photo;
  const shown = { ...geometry, original: size };
  return detections(state.photo, state.model.metadata.names.length, thresholds).map((row) => {
    const mask = imageMask(maskOf(row), shown);
    const box = Array.from(boxToImage(row.box, geometry));
    return { classId: row.classId, score: row.score, box, outlines: outlines(mask), runs: maskRuns(mask) };
  });
}

/** The rows of a mask as runs of pixels. */
function maskRuns(mask) {
  const runs = [];
  for (let y = 0; y < mask.height; y++) {
    const row = mask.bitmap.subarray(y * mask.width, (y + 1) * mask.width);
    for (let start = row.indexOf(1); start >= 0; ) {
      const stop = row.indexOf(0, start);
      runs.push(mask.y + y, mask.x + start, mask.x + (stop < 0 ? mask.width : stop));
      start = stop < 0 ? -1 : row.indexOf(1, stop);
    }
  }
  return runs;
}

/** The result as JSON text, with the exact masks. */
function resultText({ thresholds }) {
  const { names } = state.model.metadata;
  const found = detections(state.photo, names.length, thresholds);
  const record = jsonRecord(found, state.photo.name, state.photo.geometry, names, maskOf);
  return `${JSON.stringify([record])}\n`;
}

async function openModel({ folder }) {
  state.model = await loadModel(folder, (share) => self.postMessage({ progress: share }));
  return state.model.metadata;
}

const TASKS = { model: openModel, photo: openPhoto, detections: findDetections, result: resultText };

// A message { id, task, … } is answered by { id, value } or { id, error }; between them may come { progress }. Tasks
// are done one after the other.
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id: data.id, value: await TASKS[data.task](data) });
    } catch (error) {
      const known = error instanceof PredictError;
      self.postMessage({ id: data.id, error: known ? error.message : `It did not work: ${error?.message ?? error}` });
    }
  });
};
