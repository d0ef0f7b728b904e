/**
 * The WASM kernels beside the limits of the core they run on: `npm run build && node bench/kernels.mjs [--plain]`.
 *
 * Every round measures the limits and all kernels, one after the other; times are medians of the rounds, shares are
 * medians of the shares within a round. `--plain` leaves relaxed SIMD out.
 */
import { parseArgs } from "node:util";
import v8 from "node:v8";

// Kernels are measured in the optimising tier only.
v8.setFlagsFromString("--no-liftoff");
v8.setFlagsFromString("--no-wasm-lazy-compilation");

const { values: options } = parseArgs({ options: { plain: { type: "boolean" }, rounds: { type: "string" } } });
const rounds = Number(options.rounds ?? 9);

const { compile, createLimits } = await import("./limits.mjs");
const wasm = "../dist/engine/wasm";
const { detectFeatures } = await import(`${wasm}/features.js`);
const { emitLinear } = await import(`${wasm}/kernels/linear.js`);
const { weightBytes } = await import(`${wasm}/kernels/weights.js`);
const { emitRotate } = await import(`${wasm}/kernels/rotate.js`);
const { emitRmsNorm } = await import(`${wasm}/kernels/norm.js`);
const { emitGate } = await import(`${wasm}/kernels/elementwise.js`);
const { emitSoftmax } = await import(`${wasm}/kernels/softmax.js`);
const { emitProduct } = await import(`${wasm}/kernels/product.js`);
const { emitRmsNormBackward, NORM_CHUNK } = await import(`${wasm}/kernels/norm-backward.js`);
const { emitGateBackward } = await import(`${wasm}/kernels/gate-backward.js`);
const { emitCrossEntropy } = await import(`${wasm}/kernels/cross-entropy.js`);
const { emitAdamW } = await import(`${wasm}/kernels/adamw.js`);

const relaxed = detectFeatures().relaxed && !options.plain;
const MiB = 2 ** 20;
const memory = new WebAssembly.Memory({ initial: 2048, maximum: 2048 });
new Float32Array(memory.buffer).fill(2 ** -10);
/** Targets of the loss. */
const TARGETS = 120 * MiB;
new Int32Array(memory.buffer, TARGETS, 1024).fill(7);

const linear = (name, inputs, outputs, tokens, weightType, interleaved = false) => {
  const { linear } = compile(memory, (module) =>
    emitLinear(module, { inputs, outStride: 4 * outputs, weightType, bias: false, relaxed, interleaved }),
  );
  return {
    name,
    flop: 2 * inputs * outputs * tokens,
    bytes: tokens === 1 ? weightBytes(weightType, inputs * outputs) : undefined,
    run: () => linear(8 * MiB, 1 * MiB, 16 * MiB, 0, 0, tokens, 0, outputs, 64 * 1024),
  };
};

/** Gradients of a linear layer: of its input, dOut [T, N] · weight [N, K], and of its weight, dOutᵀ · x [T, K]. */
const linearBackward = (T, N, K) => {
  const flop = 2 * T * N * K;
  const product = (left) => compile(memory, (module) => emitProduct(module, { left, relaxed })).product;
  const [rows, columns] = [product("rows"), product("columns")];
  const at = [96 * MiB, 8 * MiB, 16 * MiB];
  return [
    {
      name: `linear backward, input, T ${T}, N ${N}, K ${K}`,
      flop,
      run: () => rows(...at, K, N, 4 * N, 0, 0, T, 64 * MiB),
    },
    {
      name: `linear backward, weight, T ${T}, N ${N}, K ${K}`,
      flop,
      run: () => columns(...at, K, T, 4 * N, 1, 0, N, 64 * MiB),
    },
  ];
};

const rotation = (name, pairing, x) => {
  const [heads, tokens, headDim] = [8, 4096, 128];
  const dims = { heads, headDim, rotaryDim: headDim, rotaryOffset: 0, pairing, relaxed };
  const { rotate } = compile(memory, (module) => emitRotate(module, { ...dims, ...(x ? { x } : {}) }));
  return {
    name,
    bytes: 8 * heads * tokens * headDim,
    run: () => rotate(16 * MiB, 16 * MiB, MiB, 4 * MiB, 0, tokens),
  };
};

const rows = (name, emit, bytes, call) => {
  const exports = compile(memory, emit);
  return { name, bytes, run: () => call(exports) };
};

const limits = createLimits(memory, { relaxed, from: 16 * MiB, to: 112 * MiB });
const cases = [
  { name: "limit: 128-bit multiply-add", ...limits.peak },
  { name: "limit: read 96 MiB", ...limits.read },
  { name: "limit: read 96 MiB, one of eight heads after the other", ...limits.heads },
  linear("linear 512³ f32", 512, 512, 512, "f32"),
  linear("linear 512³ f32, interleaved", 512, 512, 512, "f32", true),
  linear("linear 512³ bf16", 512, 512, 512, "bf16"),
  linear("linear 256 x 1024 by 1024² f32", 1024, 1024, 256, "f32"),
  linear("linear 256 x 1024 by 1024² f32, interleaved", 1024, 1024, 256, "f32", true),
  linear("linear 256 x 1024 by 1024² bf16", 1024, 1024, 256, "bf16"),
  linear("linear 64 x 2816 by 1024 bf16", 2816, 1024, 64, "bf16"),
  linear("linear 2048 x 192 by 512 f32, interleaved", 192, 512, 2048, "f32", true),
  linear("linear 512³ q4_0", 512, 512, 512, "q4_0"),
  linear("linear 4 x 4096 by 4096 x 1024 f32", 4096, 1024, 4, "f32"),
  ...["f32", "f16", "bf16", "int8", "q8_0", "q4_0"].map((type) =>
    linear(`linear 1 x 4096 by 4096² ${type}`, 4096, 4096, 1, type),
  ),
  linear("linear 1 x 4096 by 4096² f32, interleaved", 4096, 4096, 1, "f32", true),
  ...linearBackward(512, 512, 512),
  ...linearBackward(2048, 192, 512),
  ...linearBackward(2048, 512, 192),
  ...linearBackward(1024, 1024, 1024),
  rotation("rotate [4096, 8, 128] half", "half"),
  rotation("rotate [4096, 8, 128] interleaved", "interleaved"),
  rotation("rotate [8, 4096, 128] half", "half", { tokenStride: 512, headStride: 512 * 4096 }),
  rows(
    "rmsNorm [512, 4096]",
    (module) => emitRmsNorm(module, { width: 4096, relaxed }),
    2 * 8 * MiB,
    ({ rmsNorm }) => rmsNorm(32 * MiB, 16 * MiB, MiB, 0, 512, 1e-5),
  ),
  rows(
    "silu gate of 2 Mi numbers",
    (module) => emitGate(module, { activation: "silu", relaxed }),
    3 * 8 * MiB,
    ({ gate }) => gate(32 * MiB, 16 * MiB, 48 * MiB, 0, 2 * MiB),
  ),
  rows(
    "softmax of 151936 logits",
    (module) => emitSoftmax(module, { width: 151936, relaxed }),
    8 * 151936,
    ({ softmax }) => softmax(32 * MiB, 16 * MiB, 0, 1, 1),
  ),
  rows(
    "rmsNorm backward [4096, 512]",
    (module) => emitRmsNormBackward(module, { width: 512, add: false, relaxed }),
    3 * 8 * MiB,
    ({ rmsNormBackward }) =>
      rmsNormBackward(32 * MiB, 64 * MiB, 16 * MiB, 48 * MiB, MiB, 4096, 0, 4096 / NORM_CHUNK, 1e-5),
  ),
  rows(
    "silu gate backward of 2 Mi numbers",
    (module) => emitGateBackward(module, { activation: "silu", relaxed }),
    5 * 8 * MiB,
    ({ gateBackward }) => gateBackward(32 * MiB, 40 * MiB, 16 * MiB, 48 * MiB, 64 * MiB, 0, 2 * MiB),
  ),
  rows(
    "cross-entropy [1024, 2048]",
    (module) => emitCrossEntropy(module, { width: 2048, relaxed }),
    2 * 8 * MiB,
    ({ crossEntropy }) => crossEntropy(8 * MiB, 80 * MiB, TARGETS, 0, 1024, 2 ** -10),
  ),
  rows(
    "AdamW of 2 Mi numbers",
    (module) => emitAdamW(module, { relaxed }),
    7 * 8 * MiB,
    ({ adamW }) => adamW(88 * MiB, 80 * MiB, 96 * MiB, 104 * MiB, 0, 2 * MiB, 0.9, 0.1, 0.95, 0.05, 0, 1, 1e-8, 0),
  ),
];

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const times = cases.map(() => []);
for (let round = -1; round < rounds; round++) {
  for (const [i, { run }] of cases.entries()) {
    // A few calls of about 5 ms in all; the best of them is what the core can do in this round.
    let best = Infinity;
    for (let spent = 0, calls = 0; spent < 5 && calls < 50; calls++) {
      const start = performance.now();
      run();
      const elapsed = performance.now() - start;
      spent += elapsed;
      best = Math.min(best, elapsed);
    }
    if (round >= 0) times[i].push(best); // the first round warms up
  }
}

const share = (i, limit, work) =>
  median(times[i].map((time, round) => work(cases[i]) / time / (work(cases[limit]) / times[limit][round])));
process.stdout.write(`${process.version}, relaxed SIMD ${relaxed}, ${rounds} rounds\n\n`);
process.stdout.write("| work | ms | GFLOP/s | of peak | GB/s | of read bandwidth |\n|---|---|---|---|---|---|\n");
for (const [i, { name, flop, bytes }] of cases.entries()) {
  const time = median(times[i]);
  const cells = [
    name,
    time.toFixed(3),
    flop ? (flop / time / 1e6).toFixed(1) : "",
    flop ? share(i, 0, (one) => one.flop).toFixed(2) : "",
    bytes ? (bytes / time / 1e6).toFixed(1) : "",
    bytes ? share(i, 1, (one) => one.bytes).toFixed(2) : "",
  ];
  process.stdout.write(`| ${cells.join(" | ")} |\n`);
}
