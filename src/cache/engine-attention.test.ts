import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { referenceAttention } from "../attention/index.ts";
import { createEngine, type Engine } from "../engine/index.ts";
import { causal } from "../mask/index.ts";
import { createKvCache, type KvLayerSpec, type PositionedCache } from "./index.ts";

const [Hk, D, Dv] = [2, 8, 12];

function append(cache: PositionedCache, count: number, salt: number): void {
  const first = cache.nextPosition;
  cache.append(0, {
    keys: values([count, Hk, D], salt),
    values: values([count, Hk, Dv], salt + 1),
    positions: Int32Array.from({ length: count }, (_, t) => first + t),
    segments: new Int32Array(count),
  });
}

describe.each(["wasm", "reference"] as const)("a cache in the memory of the engine %s", (backend) => {
  let engine: Engine;
  beforeEach(async () => {
    engine = await createEngine(backend === "wasm" ? { threads: 0, maxBytes: 2 ** 24 } : { backend });
  });
  afterEach(() => engine.dispose());

  it.each<Partial<KvLayerSpec>>([
    {},
    { elements: "int8" },
    { elements: "int4", layout: { type: "paged", pageSize: 8 } },
    { layout: { type: "ring", window: 40, maxChunk: 40 } },
  ])("is attended to as the heap's is, rows not yet flushed included: %j", async (spec) => {
    const layer = { kvHeads: Hk, keyDim: D, valueDim: Dv, ...spec };
    const [cache, plain] = [createKvCache([layer], { memory: engine.memory }), createKvCache([layer])];
    for (const count of [31, 1, 1]) {
      const salt = cache.length();
      for (const one of [cache, plain]) append(one, count, salt);
      const request = {
        q: values([1, 6, D], count),
        queryPositions: Int32Array.of(cache.nextPosition - 1),
        mask: causal(),
      };
      const { out } = await engine.attention({ ...request, kv: cache.view(0) });
      expectClose(out.data, referenceAttention({ ...request, kv: plain.view(0) }).out.data, F32_COMPUTED);
    }
    cache.dispose();
  });

  it("may be changed once everything issued is flushed", async () => {
    const cache = createKvCache([{ kvHeads: Hk, keyDim: D, valueDim: Dv }], { memory: engine.memory });
    append(cache, 9, 1);
    if (backend === "wasm") {
      expect(() => cache.compact(0, Int32Array.of(1, 2))).toThrow(
        "cache.compact: everything issued must have taken effect; got pending=true. " +
          "Wait for the model's step to end, or flush the backend.",
      );
    }
    await engine.memory.flush();
    cache.compact(0, Int32Array.of(1, 2));
    expect([...cache.positions(0)]).toEqual([1, 2]);
  });
});

it("keys in the engine's memory are not copied for a call, and come back when released", async () => {
  const engine = await createEngine({ threads: 0, maxBytes: 2 ** 20 });
  const T = 4000; // keys and values take 0.93 MiB: a copy would not fit
  const [k, v] = [engine.memory.allocate([T, 1, 32]), engine.memory.allocate([T, 1, 29])];
  k.data.set(values(k.shape, 1).data);
  v.data.set(values(v.shape, 2).data);
  const request = { q: values([1, 1, 32], 3), k, v, mask: causal() };
  const { usedBytes } = engine;
  expect(usedBytes).toBeGreaterThan(2 ** 19);
  const { out } = await engine.attention(request);
  expectClose(out.data, referenceAttention(request).out.data, F32_COMPUTED);
  engine.memory.release(k);
  engine.memory.release(v);
  await engine.memory.flush();
  expect(engine.usedBytes).toBeLessThan(2 ** 17);
  engine.dispose();
  expect(() => engine.memory).toThrow("memory: the engine must not be disposed of.");
});
