/** Phasor's WASM backend: on the caller's thread, or on two and more workers. */
import { attentionInputs, numbers, rotationTables } from "../inputs.mjs";
import { createLimits } from "../limits.mjs";
import { cacheFormulations, compressionFormulations } from "./ours-caches.mjs";
import { layoutOf, release } from "./ours-calls.mjs";
import { gradientFormulations, trainingFormulations } from "./ours-training.mjs";

const { createWasmTrainingBackend } = await import("../../dist/engine/wasm/training-backend.js");
const { tensor } = await import("../../dist/tensor.js");
const { planAttention, quantizeKv } = await import("../../dist/attention/index.js");
const { WasmRunner } = await import("../../dist/engine/wasm/engine-runner.js");

const MiB = 2 ** 20;

/** @param {{threads: number}} options */
export async function open({ threads }) {
  const backend = await createWasmTrainingBackend({ threads: threads === 1 ? 0 : threads });
  const place = (shape, data) => {
    const placed = backend.allocate(shape);
    placed.data.set(data);
    return placed;
  };
  const { relaxed } = backend.runtime.features;
  return {
    version: `relaxed SIMD ${relaxed ? "on" : "off"}`,
    formulations: (work) => FORMULATIONS[work.kind](work, backend, place),
    limits: () => {
      const memory = new WebAssembly.Memory({ initial: 1537, maximum: 1537 });
      new Float32Array(memory.buffer).fill(2 ** -10);
      return createLimits(memory, { relaxed, from: 0.0625 * MiB, to: 96 * MiB });
    },
  };
}

const FORMULATIONS = {
  training: trainingFormulations,
  gradient: gradientFormulations,
  compression: compressionFormulations,
  caches: cacheFormulations,
  attention: ({ dims, kv }, backend, place) => [
    {
      name: "phasor",
      create: async () => (kv === "int8" ? quantized(dims, backend, place) : attention(dims, backend, place)),
    },
  ],
  overhead: ({ dims }, backend, place) => [{ name: "phasor", create: async () => planned(dims, backend, place) }],
  rotate: ({ dims: { heads, T, D } }, backend, place) => {
    const create = async () => {
      const { cos, sin } = rotationTables(T, D);
      const x = place([T, heads, D], numbers(T * heads * D, 1));
      const table = {
        cos: place([T, D / 2], cos).data,
        sin: place([T, D / 2], sin).data,
        rotaryDim: D,
        rotaryOffset: 0,
        pairing: "half",
      };
      let first;
      return {
        before: () => backend.rotate(x, table),
        run: async () => {
          await backend.flush();
          first ??= x.data.slice(); // in place: later runs rotate further
        },
        output: () => first,
        dispose: () => release(backend, x, { data: table.cos }, { data: table.sin }),
      };
    };
    return [{ name: "phasor", create }];
  },
  linear: ({ dims: { tokens, inputs, outputs } }, backend, place) => {
    const create = async () => {
      const x = place([tokens, inputs], numbers(tokens * inputs, 1));
      const weight = backend.matrix(tensor("f32", [outputs, inputs], numbers(outputs * inputs, 2)));
      const out = backend.allocate([tokens, outputs]);
      return {
        before: () => backend.linear(out, x, weight),
        run: () => backend.flush(),
        output: () => out.data,
        dispose: () => release(backend, x, weight, out),
      };
    };
    return [{ name: "phasor", create }];
  },
};

/** As a decoder runs it: planned and placed before, everything in the engine's memory. */
function attention(dims, backend, place) {
  const { Tq, Tk, H, Hk, D } = dims;
  const inputs = attentionInputs(dims);
  const q = place([Tq, H, D], inputs.q);
  const keys = place([Tk, Hk, D], inputs.k);
  const values = place([Tk, Hk, D], inputs.v);
  const out = backend.allocate([Tq, H, D]);
  const { kv, queries, mask } = layoutOf(dims);
  const call = { q, kv: { keys, values, ...kv }, mask, ...queries, scale: 1 / Math.sqrt(D) };
  return {
    before: () => backend.attend(out, call),
    run: () => backend.flush(),
    output: () => out.data,
    dispose: () => release(backend, q, keys, values, out),
  };
}

/** A request that is planned once and run: what `Engine.run` does, on tensors that lie in the engine's memory. */
function runOf(request, backend) {
  const runner = new WasmRunner(backend.runtime);
  const { capabilities, workers } = runner;
  const plan = planAttention(request, { capabilities, workers, tile: runner.tile(request) });
  let result;
  return {
    run: async () => {
      result = await runner.run(plan, request);
    },
    output: () => result.out.data,
  };
}

function planned(dims, backend, place) {
  const { Tq, Tk, H, Hk, D } = dims;
  const inputs = attentionInputs(dims);
  const q = place([Tq, H, D], inputs.q);
  const keys = place([Tk, Hk, D], inputs.k);
  const values = place([Tk, Hk, D], inputs.v);
  const { kv, queries, mask } = layoutOf(dims);
  const { run, output } = runOf({ q, kv: { keys, values, ...kv }, mask, ...queries }, backend);
  const out = backend.allocate([Tq, H, D]);
  const call = { q, kv: { keys, values, ...kv }, mask, ...queries, scale: 1 / Math.sqrt(D) };
  const issue = () => backend.attend(out, call);
  return {
    run,
    output,
    notes: async () => ({ ...(await heapGrowth(run)), overheadMicroseconds: await overhead(run, issue, backend) }),
    dispose: () => release(backend, q, keys, values, out),
  };
}

/** What a run takes longer than the kernel alone, on the same numbers: the median of pairs of calls next to each other. */
async function overhead(run, issue, backend) {
  const timed = async (call) => {
    const start = performance.now();
    await call();
    return performance.now() - start;
  };
  const alone = () => {
    issue();
    return timed(() => backend.flush());
  };
  const differences = [];
  for (let pair = 0; pair < 800; pair++) {
    if (pair % 2 === 0) differences.push(-(await alone()) + (await timed(run)));
    else differences.push((await timed(run)) - (await alone()));
  }
  return 1000 * differences.sort((a, b) => a - b)[differences.length >> 1];
}

/** What stays on the JavaScript heap after many calls, and what each leaves to the garbage collector. */
async function heapGrowth(run) {
  const calls = 2000;
  const used = () => process.memoryUsage().heapUsed;
  globalThis.gc();
  const before = used();
  for (let n = 0; n < calls; n++) await run();
  globalThis.gc();
  const retained = used() - before;
  const start = used();
  for (let n = 0; n < 20; n++) await run();
  return { retainedBytesPerCall: Math.round(retained / calls), garbageBytesPerCall: Math.round((used() - start) / 20) };
}

/** Decode on keys and values of 8 bits, checked against the same in f32. */
async function quantized(dims, backend, place) {
  const { Tq, Tk, H, Hk, D } = dims;
  const whole = attention(dims, backend, place);
  whole.before();
  await whole.run();
  const exact = whole.output().slice();
  await whole.dispose();

  const inputs = attentionInputs(dims);
  const inMemory = (x) => {
    const { codes, scales, ...kind } = quantizeKv(tensor("f32", [1, Tk, Hk, D], x), { bits: 8 });
    const words = place([codes.data.length / 4], new Float32Array(codes.data.buffer));
    const data = new Int8Array(words.data.buffer, words.data.byteOffset, codes.data.length);
    const placedScales = place(scales.shape, scales.data);
    const store = { ...kind, codes: tensor("i8", codes.shape, data), scales: placedScales };
    return { store, blocks: [words, placedScales], bytes: codes.data.byteLength + scales.data.byteLength };
  };
  const q = place([1, Tq, H, D], inputs.q);
  const keys = inMemory(inputs.k);
  const values = inMemory(inputs.v);
  const { kv, queries, mask } = layoutOf(dims);
  const { run, output } = runOf(
    { q, kv: { layout: "contiguous", keys: keys.store, values: values.store, ...kv }, mask, ...queries },
    backend,
  );
  await run();
  const error = relativeError(output(), exact);
  if (!(error < 0.05)) throw new Error(`int8 is off by ${error} of the f32 result`);
  return {
    run,
    output,
    notes: () => ({ cacheBytesOfF32: (keys.bytes + values.bytes) / (8 * Tk * Hk * D), relativeError: error }),
    dispose: () => release(backend, q, ...keys.blocks, ...values.blocks),
  };
}

function relativeError(got, want) {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < want.length; i++) {
    difference += (got[i] - want[i]) ** 2;
    size += want[i] ** 2;
  }
  return Math.sqrt(difference / size);
}
