import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { planAttention, referenceAttention } from "../../attention/index.ts";
import { causal, full, type Mask, sameSegment, slidingWindow } from "../../mask/index.ts";
import { f32, type Tensor } from "../../tensor.ts";
import { ModuleBuilder } from "./assembler/module.ts";
import { issueAttention, placePlan, WASM_CAPABILITIES, wasmTile } from "./attention-runner.ts";
import { detectFeatures } from "./features.ts";
import { WasmRuntime } from "./runtime.ts";

/** f32 against f64 over up to a few hundred keys. */
const TOLERANCE = 2e-6;

type Sizes = { B: number; Tq: number; Tk: number; Hk: number; G: number; D: number; Dv: number };
type Request = Sizes & { mask: Mask; salt: number; workers: number; sinks: boolean; segments: boolean };

function values(shape: readonly number[], salt: number): Tensor<"f32"> {
  const size = shape.reduce((a, b) => a * b, 1);
  return f32(
    shape,
    Array.from({ length: size }, (_, i) => 2 * Math.sin(salt * 12.9898 + i * 78.233)),
  );
}

async function createRuntime(relaxed: boolean): Promise<WasmRuntime> {
  const features = { ...detectFeatures(), relaxed };
  return WasmRuntime.create({ features, threads: 0, maxBytes: 2 ** 28 }, (memory) => {
    return new ModuleBuilder({ minimumPages: 1, maximumPages: memory.maximumPages, shared: memory.shared });
  });
}

/** Runs a request on a runtime and compares it with the reference. */
async function check(runtime: WasmRuntime, request: Request): Promise<void> {
  const { B, Tq, Tk, Hk, G, D, Dv, mask, salt, workers } = request;
  const H = Hk * G;
  const q = values([B, Tq, H, D], salt);
  const k = values([B, Tk, Hk, D], salt + 1);
  const v = values([B, Tk, Hk, Dv], salt + 2);
  const sinks = request.sinks ? Float32Array.from({ length: H }, (_, h) => Math.cos(h)) : undefined;
  const segment = (length: number) =>
    Int32Array.from({ length: B * length }, (_, i) => Math.floor((i % length) / 7) - 1);
  const segments = request.segments ? { querySegments: segment(Tq), keySegments: segment(Tk) } : {};
  const full = { q, k, v, mask, ...(sinks && { sinks }), ...segments };
  const wanted = referenceAttention(full);
  const plan = planAttention(full, { capabilities: WASM_CAPABILITIES, workers, tile: wasmTile(Tq * G, D) });

  const [outBytes, statBytes] = [B * Tq * H * Dv * 4, B * Tq * H * 8];
  const out = runtime.memory.take(outBytes);
  const stats = runtime.memory.take(statBytes);
  const operands = {
    q: runtime.placeInput(q.data),
    keys: runtime.placeInput(k.data),
    values: runtime.placeInput(v.data),
    keyStride: Hk * D * 4,
    valueStride: Hk * Dv * 4,
    strides: { keyBatch: Tk * Hk * D * 4, valueBatch: Tk * Hk * Dv * 4, keyHead: D * 4, valueHead: Dv * 4 },
    out: out.address,
    stats: stats.address,
    sinks: sinks ? runtime.placeInput(sinks) : 0,
    scale: 1 / Math.sqrt(D),
  };
  issueAttention(runtime, plan, placePlan(runtime, plan, operands), operands);
  await runtime.flush();
  expectClose(runtime.memory.view("f32", out.address, outBytes / 4), wanted.out.data, TOLERANCE);
  const pairs = runtime.memory.view("f32", stats.address, statBytes / 4);
  const lse = Float64Array.from({ length: pairs.length / 2 }, (_, row) => {
    const own = pairs[2 * row + 1] > 0 ? pairs[2 * row] + Math.log(pairs[2 * row + 1]) : -Infinity;
    const sink = sinks ? sinks[row % H] : -Infinity;
    const top = Math.max(own, sink);
    return top === -Infinity ? top : top + Math.log(Math.exp(own - top) + Math.exp(sink - top));
  });
  expectClose(lse, wanted.lse.data, TOLERANCE);
  runtime.memory.release(out);
  runtime.memory.release(stats);
}

const MASKS = [full(), causal(), causal().and(slidingWindow(5)), slidingWindow({ left: 3, right: 70 })];

const requests: fc.Arbitrary<Request> = fc.record({
  B: fc.integer({ min: 1, max: 2 }),
  Tq: fc.integer({ min: 1, max: 19 }),
  Tk: fc.integer({ min: 1, max: 150 }),
  Hk: fc.integer({ min: 1, max: 3 }),
  G: fc.integer({ min: 1, max: 5 }),
  D: fc.integer({ min: 1, max: 21 }),
  Dv: fc.integer({ min: 1, max: 21 }),
  mask: fc.constantFrom(...MASKS, ...MASKS.map((mask) => mask.and(sameSegment()))),
  salt: fc.nat(1000),
  workers: fc.integer({ min: 1, max: 3 }),
  sinks: fc.boolean(),
  segments: fc.constant(true),
});

describe.each([true, false])("attention kernels with relaxed SIMD %s", (relaxed) => {
  let runtime: WasmRuntime;
  beforeAll(async () => {
    runtime = await createRuntime(relaxed);
  });

  it.skipIf(relaxed && !detectFeatures().relaxed)("equal the reference for any sizes, masks and splits", async () => {
    await fc.assert(
      fc.asyncProperty(requests, (request) => check(runtime, request)),
      { numRuns: 60 },
    );
  });

  it("use no memory after they have run but modules' scratch", () => {
    const used = runtime.memory.usedBytes;
    expect(used).toBeLessThan(100_000);
  });
});
