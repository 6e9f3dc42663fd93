// SPDX-License-Identifier: Apache-2.0
"use strict";

// Runs a model in Node.js for segc: `node session.js MODEL_FOLDER`, images on standard input, results on its output.
//
// A message is four bytes, the length (little-endian) of the JSON that follows, and then the float32 values that the
// JSON announces. First it says { ready: true } or { error }. Then { shape } and an image are answered by
// { outputs: [{ name, shape }] } and the values of all outputs, or by { error }. It ends when its input does.
//
// predict.js, the page's own worker, does the work: it finds here what it would find in a browser's web worker, which
// is also what keeps Node.js's own ways of loading files out of TensorFlow.js.

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const HERE = __dirname;
const MODEL = path.resolve(process.argv[2]);
const MODEL_ADDRESS = "model";

/** The file that an address in the worker means. */
function fileOf(address) {
  const [folder, rest] = address.startsWith(`${MODEL_ADDRESS}/`)
    ? [MODEL, address.slice(MODEL_ADDRESS.length + 1)]
    : [HERE, address];
  const file = path.join(folder, decodeURIComponent(rest));
  if (!file.startsWith(folder + path.sep)) throw new Error(`${address} leads out of its folder`);
  return file;
}

/** A web worker's surroundings, as far as predict.js and TensorFlow.js look at them. */
function workerContext() {
  const quiet = () => undefined;
  const own = {
    atob,
    performance,
    setTimeout,
    clearTimeout,
    TextDecoder,
    TextEncoder,
    console: { log: quiet, info: quiet, debug: quiet, warn: quiet, error: quiet },
    WorkerGlobalScope: function WorkerGlobalScope() {},
  };
  const context = vm.createContext(own);
  own.self = own;
  own.location = { href: "" };
  own.importScripts = (...names) => names.forEach((name) => runScript(name, context));
  own.fetch = async (address) => {
    const bytes = fs.readFileSync(fileOf(address));
    // A buffer of that context: TensorFlow.js asks whose child an object is.
    const buffer = vm.runInContext(`new ArrayBuffer(${bytes.length})`, context);
    new Uint8Array(buffer).set(bytes);
    return { ok: true, arrayBuffer: async () => buffer, json: async () => JSON.parse(bytes.toString("utf8")) };
  };
  return context;
}

function runScript(name, context) {
  // It is made for each page, from what Python has; the network runs without.
  if (name === "constants.js") return;
  const file = path.join(HERE, name);
  vm.runInContext(fs.readFileSync(file, "utf8"), context, { filename: file });
}

function send(header, arrays = []) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const parts = arrays.map((values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength));
  process.stdout.write(Buffer.concat([length, text, ...parts]));
}

/** Standard input, so many bytes at a time; null at its end. */
function reader() {
  const chunks = process.stdin[Symbol.asyncIterator]();
  let held = Buffer.alloc(0);
  return async (count) => {
    const parts = [held];
    let size = held.length;
    while (size < count) {
      const { value, done } = await chunks.next();
      if (done) return null;
      parts.push(value);
      size += value.length;
    }
    const all = Buffer.concat(parts);
    held = all.subarray(count);
    return all.subarray(0, count);
  };
}

async function answer(context, model, read) {
  const length = await read(4);
  if (length === null) return false;
  const { shape } = JSON.parse((await read(length.readUInt32LE())).toString("utf8"));
  const bytes = await read(4 * shape.reduce((product, side) => product * side, 1));
  const input = vm.runInContext(`new Float32Array(${bytes.length / 4})`, context);
  new Uint8Array(input.buffer).set(bytes);
  try {
    const outputs = Object.entries(await context.runModel(model, input, shape));
    const described = outputs.map(([name, output]) => ({ name, shape: output.shape }));
    send({ outputs: described }, outputs.map(([, output]) => output.values));
  } catch (error) {
    send({ error: error.message });
  }
  return true;
}

async function main() {
  const context = workerContext();
  let model;
  try {
    runScript("predict.js", context);
    model = await context.loadModel(MODEL_ADDRESS);
  } catch (error) {
    send({ error: error.message });
    return;
  }
  send({ ready: true });
  const read = reader();
  while (await answer(context, model, read));
}

main();
