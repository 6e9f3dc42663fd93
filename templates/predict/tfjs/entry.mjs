// What tf.min.js gives to predict.js; README.md says how it is built.
import "@tensorflow/tfjs-backend-wasm";

export { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
export { loadGraphModel } from "@tensorflow/tfjs-converter";
export { env, ready, setBackend, tensor, version_core } from "@tensorflow/tfjs-core";
