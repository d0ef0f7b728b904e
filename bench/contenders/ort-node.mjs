/** onnxruntime-node: native code, AVX-512 where the processor has it. */
import { createRequire } from "node:module";
import { ortContender } from "./ort.mjs";

/** @param {{threads: number}} options */
export async function open({ threads }) {
  const { default: ort } = await import("onnxruntime-node");
  const { version } = createRequire(import.meta.url)("onnxruntime-node/package.json");
  return ortContender(ort, version, { threads, preallocate: true });
}
