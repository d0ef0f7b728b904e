import fc from "fast-check";
import { beforeAll, describe, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { planAttention, referenceAttention } from "../../attention/index.ts";
import { causal, full, sameSegment, slidingWindow } from "../../mask/index.ts";
import { f32, type Tensor } from "../../tensor.ts";
import { ModuleBuilder } from "./assembler/module.ts";
import { WASM_CAPABILITIES } from "./attention-runner.ts";
import { slotsOf } from "./attention-storage.ts";
import { lowerDecodePlan } from "./decode-lowering.ts";
import { detectFeatures } from "./features.ts";
import { emitDecode } from "./kernels/attention-decode.ts";
import { emitDecodeMerge } from "./kernels/attention-decode-merge.ts";
import { decodeScratch } from "./kernels/attention-decode-rows.ts";
import { WasmRuntime } from "./runtime.ts";

/** f32 against f64 over a few hundred keys. */
const TOLERANCE = 2e-6;

function values(shape: readonly number[], salt: number): Tensor<"f32"> {
  const size = shape.reduce((a, b) => a * b, 1);
  return f32(
    shape,
    Array.from({ length: size }, (_, i) => 2 * Math.sin(salt * 12.9898 + i * 78.233)),
  );
}

const requests = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  Tk: fc.integer({ min: 1, max: 300 }),
  H: fc.integer({ min: 1, max: 9 }),
  D: fc.constantFrom(4, 12, 16, 32, 20),
  Dv: fc.constantFrom(4, 8, 16, 48),
  mask: fc.constantFrom(full(), causal(), slidingWindow(70), causal().and(sameSegment())),
  salt: fc.nat(1000),
  workers: fc.integer({ min: 1, max: 4 }),
  sinks: fc.boolean(),
});

describe.each([true, false])("the decode kernel with relaxed SIMD %s", (relaxed) => {
  let runtime: WasmRuntime;
  beforeAll(async () => {
    const features = { ...detectFeatures(), relaxed };
    runtime = await WasmRuntime.create({ features, threads: 0, maxBytes: 2 ** 28 }, (memory) => {
      return new ModuleBuilder({ minimumPages: 1, maximumPages: memory.maximumPages, shared: memory.shared });
    });
  });

  it.skipIf(relaxed && !detectFeatures().relaxed)("equals the reference for any sizes, masks and splits", async () => {
    const check = async (request: typeof requests extends fc.Arbitrary<infer T> ? T : never): Promise<void> => {
      const { B, Tk, H, D, Dv, mask, salt, workers } = request;
      const q = values([B, 1, H, D], salt);
      const k = values([B, Tk, H, D], salt + 1);
      const v = values([B, Tk, H, Dv], salt + 2);
      const sinks = request.sinks ? Float32Array.from({ length: H }, (_, h) => Math.cos(h)) : undefined;
      const segments = {
        querySegments: new Int32Array(B).fill(2),
        keySegments: Int32Array.from({ length: B * Tk }, (_, i) => ((i % Tk) % 5) - 1),
      };
      const all = { q, k, v, mask, ...segments, ...(sinks && { sinks }) };
      const wanted = referenceAttention(all);
      const plan = planAttention(all, { capabilities: WASM_CAPABILITIES, workers, tile: { rows: 4, keys: 64 } });
      const [keyStride, valueStride] = [H * D * 4, H * Dv * 4];
      const spec = { relaxed, heads: H, keyDim: D, valueDim: Dv, keyStride, valueStride };
      const { attendOne, mergeOne } = runtime.kernels(`one ${JSON.stringify(spec)}`, () => ({
        scratchBytes: decodeScratch(spec).end,
        emit: (module) => {
          emitDecode(module, spec);
          emitDecodeMerge(module, spec);
        },
      }));
      const { items, itemCount, merges, mergeCount } = lowerDecodePlan(
        plan,
        spec,
        { slots: slotsOf(undefined, { Tk }) },
        { place: (numbers) => runtime.placeInput(numbers), take: (bytes) => runtime.takeInput(bytes) },
      );
      const out = runtime.memory.take(B * H * Dv * 4);
      const stats = runtime.memory.take(B * H * 8);
      const sinkAddress = sinks ? runtime.placeInput(sinks) : 0;
      const [qAt, kAt, vAt] = [q, k, v].map((t) => runtime.placeInput(t.data));
      const results = [out.address, stats.address, sinkAddress] as const;
      const scale = { float: 1 / Math.sqrt(D) };
      runtime.issue(
        attendOne,
        { items: itemCount },
        ...(["from", "to", items, qAt, kAt, vAt, ...results, scale, "scratch"] as const),
      );
      if (mergeCount > 0) {
        runtime.issue(
          mergeOne,
          { items: mergeCount },
          ...(["from", "to", merges, items, ...results, "scratch"] as const),
        );
      }
      await runtime.flush();
      expectClose(runtime.memory.view("f32", out.address, B * H * Dv), wanted.out.data, TOLERANCE);
      const pairs = runtime.memory.view("f32", stats.address, B * H * 2);
      const lse = Float64Array.from({ length: B * H }, (_, row) => {
        const own = pairs[2 * row + 1] > 0 ? pairs[2 * row] + Math.log(pairs[2 * row + 1]) : -Infinity;
        const sink = sinks ? sinks[row % H] : -Infinity;
        const top = Math.max(own, sink);
        return top === -Infinity ? top : top + Math.log(Math.exp(own - top) + Math.exp(sink - top));
      });
      expectClose(lse, wanted.lse.data, TOLERANCE);
      runtime.memory.release(out);
      runtime.memory.release(stats);
    };
    await fc.assert(fc.asyncProperty(requests, check), { numRuns: 60 });
  });
});
