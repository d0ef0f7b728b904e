import { describe, expect, it, vi } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { referenceAttention, referenceAttentionGradients, scoreModifier } from "../attention/index.ts";
import { causal, sameSegment, table } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { type BackendName, createEngine } from "./engine.ts";
import { createWasmRuntime } from "./wasm/backend.ts";
import { WasmRunner } from "./wasm/engine-runner.ts";

const request = {
  q: values([5, 4, 3], 1),
  k: values([131, 2, 3], 2),
  v: values([131, 2, 7], 3),
  mask: causal(),
  softcap: 2,
};

async function rejectionOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "nothing",
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

describe("the reference engine", () => {
  const createReference = (workers = 1) => createEngine({ backend: "reference", workers });

  it("attends with defaults, and without q's batch axis gives none", async () => {
    const engine = await createReference();
    const { out, lse, ...rest } = await engine.attention(request);
    const want = referenceAttention(request);
    expect([out.shape, lse.shape]).toEqual([
      [5, 4, 7],
      [5, 4],
    ]);
    expect(out.data).toEqual(want.out.data);
    expect(lse.data).toEqual(want.lse.data);
    expect(rest).toEqual({});
  });

  it("gives max logits when asked for", async () => {
    const engine = await createReference();
    const { maxLogits } = await engine.attention({ ...request, outputs: { maxLogits: true } });
    expect(maxLogits?.data).toEqual(referenceAttention(request).maxLogits.data);
  });

  it("runs the kernel that is asked for, with a selection too", async () => {
    const engine = await createReference(3);
    for (const kernel of ["dense", "tiled", "decode", "ragged"] as const) {
      const result = await engine.attention(request, { kernel });
      expectClose(result.out.data, referenceAttention(request).out.data, F32_STORED);
    }
    const moba = { ...request, select: { kind: "moba", chunk: 16, topk: 3 } } as const;
    const result = await engine.attention(moba, { kernel: "tiled" });
    expectClose(result.out.data, referenceAttention(moba).out.data, F32_STORED);
  });

  it("plans by shapes for its workers, and runs the plan with any numbers", async () => {
    const engine = await createReference(3);
    const { q, k, v, ...options } = request;
    const shapes = {
      q: { dtype: q.dtype, shape: q.shape },
      k: { dtype: k.dtype, shape: k.shape },
      v: { dtype: v.dtype, shape: v.shape },
    };
    const plan = engine.plan({ ...options, ...shapes });
    expect(plan.work.costs.length).toBe(3);
    const { out } = await engine.run(plan, request);
    expectClose(out.data, referenceAttention(request).out.data, F32_STORED);
  });

  it("says what the reference can do: everything", async () => {
    const { capabilities } = await createReference();
    expect(capabilities.backend).toBe("reference");
    expect(Object.keys(capabilities.kernels)).toEqual(["dense", "tiled", "decode", "ragged", "paged"]);
  });
});

describe("the WASM engine", () => {
  /** f32 against f64; scores are below 3. */
  const close = F32_STORED;

  it("is the default, and gives what the reference gives", async () => {
    const engine = await createEngine();
    expect(engine.capabilities.backend).toBe("wasm");
    const { out, lse, maxLogits } = await engine.attention({ ...request, outputs: { maxLogits: true } });
    const want = referenceAttention(request);
    expect([out.shape, lse.shape, maxLogits?.shape]).toEqual([[5, 4, 7], [5, 4], [4]]);
    expectClose(out.data, want.out.data, close);
    expectClose(lse.data, want.lse.data, close);
    expectClose(maxLogits?.data as Float64Array, want.maxLogits.data, close);
  });

  it("plans with the tiles of its kernels, and runs the plan with any numbers", async () => {
    const engine = await createEngine({ workers: 3 });
    const plan = engine.plan(request);
    expect([plan.backend, plan.tiles.rowTile, plan.tiles.keyTile]).toEqual(["wasm", 16, 64]);
    expect(plan.work.costs.length).toBe(3);
    const other = { ...request, v: values([131, 2, 7], 9) };
    expectClose((await engine.run(plan, other)).out.data, referenceAttention(other).out.data, close);
  });

  it("runs plans with other tiles, small and large", async () => {
    const engine = await createEngine();
    for (const tile of [{ rows: 3 }, { rows: 12, keys: 17 }, { rows: 64, keys: 200 }]) {
      const plan = engine.plan(request, { tile });
      expectClose((await engine.run(plan, request)).out.data, referenceAttention(request).out.data, close);
    }
    expect(await rejectionOf(engine.run(engine.plan(request, { tile: { rows: 65 } }), request))).toBe(
      "ConfigError: run: a plan with row tiles of at most 64 rows; got rows=65.",
    );
  });

  it("runs requests that overlap in time", async () => {
    const engine = await createEngine();
    const requests = [1, 2, 3, 4].map((salt) => ({ ...request, q: values([5, 4, 3], salt) }));
    const results = await Promise.all(requests.map((one) => engine.attention(one)));
    for (const [n, one] of requests.entries()) {
      expectClose(results[n].out.data, referenceAttention(one).out.data, close);
    }
  });

  it("takes keys and values where they lie in its memory", async () => {
    const runtime = await createWasmRuntime("test", { threads: 0, maxBytes: 2 ** 24 });
    const runner = new WasmRunner(runtime);
    const inEngine = (t: Tensor<"f32">): Tensor<"f32"> => {
      const data = runtime.memory.view("f32", runtime.memory.take(t.data.byteLength).address, t.data.length);
      data.set(t.data);
      return { ...t, data };
    };
    const resident = { ...request, q: inEngine(request.q), k: inEngine(request.k), v: inEngine(request.v) };
    const take = vi.spyOn(runtime.memory, "take");
    const { out } = await runner.attend(resident);
    expectClose(out.data, referenceAttention(request).out.data, close);
    const sizes = take.mock.calls.map(([bytes]) => bytes);
    expect(sizes).not.toContain(request.k.data.byteLength);
    expect(sizes).not.toContain(request.v.data.byteLength);
  });

  it("gives memory back after a call, and after one that does not fit", async () => {
    const engine = await createEngine({ threads: 0, maxBytes: 2 ** 20 });
    await engine.attention(request);
    const { usedBytes } = engine;
    await engine.attention(request);
    expect(engine.usedBytes).toBe(usedBytes);
    const large = { ...request, k: values([60_001, 2, 3], 2), v: values([60_001, 2, 7], 3) };
    expect(await rejectionOf(engine.attention(large))).toContain(
      "BudgetError: createEngine: the engine's memory cannot hold another block",
    );
    expect(engine.usedBytes).toBe(usedBytes);
    expectClose((await engine.attention(request)).out.data, referenceAttention(request).out.data, close);
  });

  it("refuses by name what only the reference can do", async () => {
    const engine = await createEngine();
    const refusal = (lack: string) =>
      'CapabilityError: planAttention: backend "wasm" must have a kernel for this request; got kernels=["decode lacks ' +
      `${lack}","tiled lacks ${lack}"]. Backend "reference" has one.`;
    expect(await rejectionOf(engine.attention({ ...request, accumulate: "f64" }))).toBe(refusal("f64Accumulation"));
    const wide = (t: Tensor<"f32">) => tensor("f64", t.shape, Float64Array.from(t.data));
    expect(await rejectionOf(engine.attention({ ...request, q: wide(request.q) }))).toBe(refusal("f64 queries"));
    expect(await rejectionOf(engine.attention({ ...request, v: wide(request.v) }))).toBe(refusal("f64 values"));
    const byTable = scoreModifier(({ score, select }) => select(table("t"), score, 0));
    const tables = { t: new Uint8Array(5 * 131) };
    expect(await rejectionOf(engine.attention({ ...request, scoreModifier: byTable, tables }))).toBe(
      'CapabilityError: attention: the score modifier must be one that backend "wasm" can compute; ' +
        'got part="select by the table \\"t\\"". Backend "reference" can compute it.',
    );
    expect(await rejectionOf(engine.attention(request, { kernel: "dense" }))).toBe(
      'CapabilityError: planAttention: kernel dense must support what the request needs; got backend="wasm", ' +
        'lacking="the kernel". Kernel "decode" can do it.',
    );
  });
});

describe("gradients of attention", () => {
  const dOut = values([5, 4, 7], 4);

  it("are f64 by the formula from the reference engine", async () => {
    const engine = await createEngine({ backend: "reference" });
    expect(await engine.attentionGradients(request, dOut)).toEqual(referenceAttentionGradients(request, dOut));
  });

  it("are the same in f32 from the WASM engine, for any number of workers", async () => {
    const wanted = referenceAttentionGradients(request, dOut);
    for (const workers of [1, 4]) {
      using engine = await createEngine({ backend: "wasm", threads: 0, workers });
      const got = await engine.attentionGradients(request, dOut);
      for (const name of ["dq", "dk", "dv"] as const) {
        expect([got[name].dtype, got[name].shape]).toEqual(["f32", wanted[name].shape]);
        expectClose(got[name].data, wanted[name].data, 1e-5);
      }
    }
  });

  it("are refused after the engine was disposed of", async () => {
    const engine = await createEngine({ backend: "wasm", threads: 0 });
    engine.dispose();
    expect(await rejectionOf(engine.attentionGradients(request, dOut))).toBe(
      "DeviceError: attentionGradients: the engine must not be disposed of. Make another one with createEngine.",
    );
  });
});

describe("createEngine", () => {
  it("refuses backends that are not there and odd numbers of workers", async () => {
    expect(await rejectionOf(createEngine({ backend: "abacus" as BackendName }))).toBe(
      'CapabilityError: createEngine: backend must be one of wasm, reference; got backend="abacus". ' +
        "Leave it out for the best one there is.",
    );
    expect(await rejectionOf(createEngine({ backend: "reference", threads: 2 }))).toBe(
      'ConfigError: createEngine: threads must be absent with backend "reference"; got threads=2.',
    );
    expect(await rejectionOf(createEngine({ workers: 1.5 }))).toBe(
      "ConfigError: createEngine: workers must be a positive integer; got workers=1.5.",
    );
  });

  it("rejects, rather than throws, when a request does not fit", async () => {
    const engine = await createEngine();
    expect(await rejectionOf(engine.attention({ ...request, mask: sameSegment() }))).toBe(
      'ConfigError: attention: the mask needs keySegments; got mask="sameSegment()". Pass it with the mask\'s inputs.',
    );
    expect(await rejectionOf(engine.attention(request, { kernel: "paged" }))).toBe(
      'CapabilityError: planAttention: kernel paged takes keys in pages; got rows=10, keys=131, layout="contiguous". ' +
        'Kernel "decode" can do it.',
    );
  });

  it("refuses the plan of another backend", async () => {
    const engine = await createEngine();
    const plan = { ...engine.plan(request), backend: "reference" };
    expect(await rejectionOf(engine.run(plan, request))).toBe(
      'ConfigError: run: the plan must be made by an engine of backend "wasm"; got backend="reference".',
    );
  });

  it("computes nothing after it was disposed of", async () => {
    const engine = await createEngine();
    engine.dispose();
    engine.dispose();
    expect(await rejectionOf(engine.attention(request))).toBe(
      "DeviceError: attention: the engine must not be disposed of. Make another one with createEngine.",
    );
    expect(() => engine.plan(request)).toThrow("plan: the engine must not be disposed of.");
  });
});
