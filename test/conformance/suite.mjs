/**
 * The conformance suite: the WASM engine of the built package beside the reference, in any runtime. Nothing here needs a
 * test framework, a file system or a bundler; a runner opens the model's files and takes the results.
 */

import { createWasmBackend } from "../../dist/engine/index.js";
import { detectFeatures } from "../../dist/engine/wasm/features.js";
import { ATTENTION_CHECKS } from "./attention-checks.mjs";
import { DECODER_CHECKS } from "./decoder-checks.mjs";
import { ENGINE_CHECKS } from "./engine-checks.mjs";
import { KERNEL_CHECKS } from "./kernel-checks.mjs";
import { expectSame } from "./numbers.mjs";
import { OPERATOR_CHECKS } from "./operator-checks.mjs";
import { TRAINING_CHECKS } from "./training-checks.mjs";

/** Ways to make a backend: with and without relaxed SIMD, threads and shared memory. */
const MODES = [
  { name: "no threads", options: { threads: 0 } },
  { name: "no threads, no relaxed SIMD", options: { threads: 0, features: { relaxed: false } } },
  { name: "no threads, memory of its own", options: { threads: 0, features: { sharedMemory: false } } },
  { name: "1 thread", options: { threads: 1 } },
  { name: "2 threads", options: { threads: 2 } },
  { name: "2 threads, no relaxed SIMD", options: { threads: 2, features: { relaxed: false } } },
];

const MAX_BYTES = 2 ** 27;

const CHECKS = [
  ...KERNEL_CHECKS,
  ...ATTENTION_CHECKS,
  ...OPERATOR_CHECKS,
  ...DECODER_CHECKS,
  ...TRAINING_CHECKS,
  ...ENGINE_CHECKS,
];

/** What a mode needs and the runtime lacks, if anything. */
function lacking({ options }, features) {
  if (options.threads > 0 && !features.sharedMemory) return "no shared memory";
  if (options.features?.relaxed === false && !features.relaxed) return "the runtime has no relaxed SIMD anyway";
  if (options.features?.sharedMemory === false && !features.sharedMemory) return "the runtime shares no memory anyway";
  return undefined;
}

/**
 * Runs all checks, one after the other.
 *
 * @param environment.openModel - opens stories260K: () => Promise<ModelFiles>
 * @param environment.stories - its expected texts
 * @param report - gets { name, ok } or { name, ok: false, error } or { name, skipped } of each check, at the end
 *   { done: true, features }
 */
export async function runSuite(environment, report) {
  const features = detectFeatures();
  if (!features.sharedMemory) await refuseThreads(report);
  for (const mode of MODES) {
    const options = { maxBytes: MAX_BYTES, ...mode.options };
    const missing = lacking(mode, features);
    let backend;
    for (const [title, check] of CHECKS) {
      const name = `${mode.name}: ${title}`;
      if (missing !== undefined) {
        report({ name, skipped: missing });
        continue;
      }
      try {
        backend ??= await createWasmBackend(options);
        await withinTime(check(backend, { ...environment, options }));
        report({ name, ok: true });
      } catch (error) {
        report({ name, ok: false, error: String(error?.stack ?? error) });
        // What the failed check left behind must not fail the next one.
        backend?.dispose();
        backend = undefined;
      }
    }
    backend?.dispose();
  }
  report({ done: true, features });
}

/** Where memory cannot be shared, threads must be refused by name, and the default must do without. */
async function refuseThreads(report) {
  const name = "threads are refused where memory cannot be shared";
  try {
    const message = await createWasmBackend({ threads: 1 }).then(
      () => "a backend",
      (error) => error.message,
    );
    const want =
      "createWasmBackend: memory that threads can share; got threads=1, sharedMemory=false. " +
      "Serve the page with COOP and COEP headers, or pass threads: 0.";
    expectSame("message", message, want);
    const backend = await createWasmBackend({ maxBytes: MAX_BYTES });
    expectSame("workers", backend.runtime.workers, 1);
    backend.dispose();
    report({ name, ok: true });
  } catch (error) {
    report({ name, ok: false, error: String(error?.stack ?? error) });
  }
}

const CHECK_SECONDS = 60;

/** A worker that hangs must fail its check, not stop the suite. */
function withinTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${CHECK_SECONDS} s`)), 1000 * CHECK_SECONDS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
