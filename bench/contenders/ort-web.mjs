/** onnxruntime-web: the same runtime compiled to WebAssembly. */
import { readFileSync } from "node:fs";
import { ortContender } from "./ort.mjs";

/** @param {{threads: number}} options */
export async function open({ threads }) {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.proxy = false;
  const { version } = JSON.parse(
    readFileSync(new URL("../node_modules/onnxruntime-web/package.json", import.meta.url), "utf8"),
  );
  return ortContender(ort, version, { threads, preallocate: false });
}
