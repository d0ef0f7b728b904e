import fc from "fast-check";
import { beforeAll, describe, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import {
  type ContiguousKv,
  planAttention,
  type QuantizedBits,
  quantizeKv,
  referenceAttention,
} from "../../attention/index.ts";
import { causal, full, sameSegment, slidingWindow } from "../../mask/index.ts";
import { f32, type Tensor } from "../../tensor.ts";
import { ModuleBuilder } from "./assembler/module.ts";
import { attentionOptions, numbersOf } from "./attention-options.ts";
import { WASM_CAPABILITIES, wasmTile } from "./attention-runner.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { decodeSpec, lowerDecodePlan } from "./decode-lowering.ts";
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

type StoreType = "f32" | QuantizedBits;

const requests = fc.record({
  B: fc.integer({ min: 1, max: 3 }),
  Tk: fc.integer({ min: 1, max: 300 }),
  Hk: fc.integer({ min: 1, max: 5 }),
  G: fc.integer({ min: 1, max: 9 }),
  D: fc.constantFrom(4, 12, 16, 32, 20),
  Dv: fc.constantFrom(4, 8, 16, 48),
  mask: fc.constantFrom(full(), causal(), slidingWindow(70), causal().and(sameSegment())),
  salt: fc.nat(1000),
  workers: fc.integer({ min: 1, max: 4 }),
  sinks: fc.boolean(),
  keyType: fc.constantFrom<StoreType>("f32", 8, 4),
  valueType: fc.constantFrom<StoreType>("f32", 8, 4),
  axis: fc.constantFrom("dkv", "heads_and_dkv"),
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
      const { B, Tk, Hk, G, D, Dv, mask, salt, workers, keyType, valueType, axis } = request;
      const H = Hk * G;
      const q = values([B, 1, H, D], salt);
      const store = (type: StoreType, x: Tensor<"f32">) => (type === "f32" ? x : quantizeKv(x, { bits: type, axis }));
      const kv: ContiguousKv = {
        layout: "contiguous",
        keys: store(keyType, values([B, Tk, Hk, D], salt + 1)),
        values: store(valueType, values([B, Tk, Hk, Dv], salt + 2)),
        positions: Int32Array.from({ length: B * Tk }, (_, i) => i % Tk),
        segments: Int32Array.from({ length: B * Tk }, (_, i) => ((i % Tk) % 5) - 1),
      };
      const sinks = request.sinks ? Float32Array.from({ length: H }, (_, h) => Math.cos(h)) : undefined;
      const queries = {
        queryPositions: new Int32Array(B).fill(Tk - 1),
        querySegments: new Int32Array(B).fill(2),
      };
      const all = { q, kv, mask, ...queries, ...(sinks && { sinks }) };
      const wanted = referenceAttention(all);
      const plan = planAttention(all, { capabilities: WASM_CAPABILITIES, workers, tile: wasmTile(G, D) });
      const layout = { keys: storageOf(kv.keys), values: storageOf(kv.values), slots: slotsOf(kv, plan.dims) };
      const spec = decodeSpec(plan, layout, relaxed);
      const { attendOne, mergeOne } = runtime.kernels(`one ${JSON.stringify(spec)}`, () => ({
        scratchBytes: decodeScratch(spec).end,
        emit: (module) => {
          emitDecode(module, spec);
          emitDecodeMerge(module, spec);
        },
      }));
      const { items, itemCount, merges, mergeCount } = lowerDecodePlan(plan, spec, layout, {
        place: (numbers) => runtime.placeInput(numbers),
        take: (bytes) => runtime.takeInput(bytes),
      });
      const out = runtime.memory.take(B * H * Dv * 4);
      const stats = runtime.memory.take(B * H * 8);
      const sinkAddress = sinks ? runtime.placeInput(sinks) : 0;
      const [qAt, kAt, vAt] = [q.data, numbersOf(kv.keys), numbersOf(kv.values)].map((x) => runtime.placeInput(x));
      const options = runtime.placeInput(attentionOptions((x) => runtime.placeInput(x), kv));
      const results = [out.address, stats.address, sinkAddress] as const;
      const scale = { float: 1 / Math.sqrt(D) };
      runtime.issue(
        attendOne,
        { items: itemCount },
        ...(["from", "to", items, qAt, kAt, vAt, ...results, scale, options, "scratch"] as const),
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
    await fc.assert(fc.asyncProperty(requests, check), { numRuns: 100 });
  });
});
