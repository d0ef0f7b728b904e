import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { referenceAttention } from "../attention/index.ts";
import { causal, sameSegment } from "../mask/index.ts";
import { type BackendName, createEngine } from "./engine.ts";

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

describe("createEngine", () => {
  it("attends with defaults, and without q's batch axis gives none", async () => {
    const engine = await createEngine();
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
    const engine = await createEngine();
    const { maxLogits } = await engine.attention({ ...request, outputs: { maxLogits: true } });
    expect(maxLogits?.data).toEqual(referenceAttention(request).maxLogits.data);
  });

  it("runs the kernel that is asked for, with a selection too", async () => {
    const engine = await createEngine({ workers: 3 });
    for (const kernel of ["dense", "tiled", "decode", "ragged"] as const) {
      const result = await engine.attention(request, { kernel });
      expectClose(result.out.data, referenceAttention(request).out.data, F32_STORED);
    }
    const moba = { ...request, select: { kind: "moba", chunk: 16, topk: 3 } } as const;
    const result = await engine.attention(moba, { kernel: "tiled" });
    expectClose(result.out.data, referenceAttention(moba).out.data, F32_STORED);
  });

  it("plans by shapes for its workers, and runs the plan with any numbers", async () => {
    const engine = await createEngine({ workers: 3 });
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
    const { capabilities } = await createEngine();
    expect(capabilities.backend).toBe("reference");
    expect(Object.keys(capabilities.kernels)).toEqual(["dense", "tiled", "decode", "ragged", "paged"]);
  });

  it("refuses backends that are not there and odd numbers of workers", async () => {
    expect(await rejectionOf(createEngine({ backend: "abacus" as BackendName }))).toBe(
      'CapabilityError: createEngine: backend must be one of reference; got backend="abacus". ' +
        "Leave it out for the best one there is.",
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
    const plan = { ...engine.plan(request), backend: "wasm" };
    expect(await rejectionOf(engine.run(plan, request))).toBe(
      'ConfigError: run: the plan must be made by an engine of backend "reference"; got backend="wasm".',
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
