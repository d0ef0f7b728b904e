import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { requestArbitrary } from "../../test/support/attention-arbitraries.ts";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { causal, slidingWindow } from "../mask/index.ts";
import type { KernelName } from "./capabilities.ts";
import { type AttentionPlan, type PlanOptions, planAttention } from "./plan.ts";
import { referenceAttention } from "./reference.ts";
import type { AttentionRequest } from "./spec.ts";
import { runPlan } from "./tile-loop.ts";
import { validateAttentionPlan } from "./validate-plan.ts";

/** Small and prime tiles; of pages, whole ones. */
function tileFor(request: AttentionRequest, rows: number, keys: number): { rows: number; keys: number } {
  const { kv } = request;
  return { rows, keys: kv?.layout === "paged" ? kv.keys.shape[1] * Math.max(1, keys >> 2) : keys };
}

const KERNELS: readonly (KernelName | undefined)[] = [undefined, "dense", "tiled", "decode", "ragged", "paged"];

/** A plan with the kernel if it can run the request, else with the one chosen. */
function planWith(request: AttentionRequest, kernel: KernelName | undefined, options: PlanOptions): AttentionPlan {
  const isPaged = request.kv?.layout === "paged";
  if (kernel === undefined || (kernel === "paged") !== isPaged) return planAttention(request, options);
  if (kernel === "dense") return planAttention(request, { ...options, kernel, tile: { rows: 5 } });
  return planAttention(request, { ...options, kernel });
}

function shuffled(count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, n) => n).sort(
    (a, b) => ((a * 7919 + seed) % 101) - ((b * 7919 + seed) % 101),
  );
}

describe("runPlan", () => {
  it("equals the reference and is a legal plan, for any request, kernel, tile, number of workers and order", () => {
    const choice = fc.record({
      kernel: fc.constantFrom(...KERNELS),
      rows: fc.constantFrom(1, 3, 7, 8, 11, 64),
      keys: fc.constantFrom(1, 5, 7, 13, 64),
      workers: fc.constantFrom(1, 2, 3, 7, 40),
      seed: fc.nat(100),
    });
    fc.assert(
      fc.property(requestArbitrary, choice, (request, { kernel, rows, keys, workers, seed }) => {
        const plan = planWith(request, kernel, { workers, tile: tileFor(request, rows, keys) });
        validateAttentionPlan(plan, request);
        const want = referenceAttention(request);
        const got = runPlan(plan, request, { order: shuffled(plan.work.row.length, seed) });
        expectClose(got.out.data, want.out.data, F32_STORED);
        expectClose(got.lse.data, want.lse.data, F32_STORED);
        expectClose(got.maxLogits.data, want.maxLogits.data, F32_STORED);
        for (const value of got.out.data) expect(Number.isFinite(value)).toBe(true);
      }),
      { numRuns: 400 },
    );
  });

  const request = {
    q: values([1, 4, 3], 1),
    k: values([37, 2, 3], 2),
    v: values([37, 2, 5], 3),
    mask: causal(),
  };

  it("gives the same to the last bit whatever the order of work items", () => {
    const plan = planAttention(request, { workers: 5, tile: { rows: 2, keys: 3 } });
    expect(plan.merges.starts.length).toBe(2);
    const forwards = runPlan(plan, request);
    const count = plan.work.row.length;
    const backwards = runPlan(plan, request, { order: Array.from({ length: count }, (_, n) => count - 1 - n) });
    expect(backwards.out.data).toEqual(forwards.out.data);
    expect(backwards.lse.data).toEqual(forwards.lse.data);
  });

  it("runs one plan over layers with other numbers", () => {
    const plan = planAttention(request, { workers: 3 });
    for (const salt of [11, 12, 13]) {
      const layer = { ...request, q: values([1, 4, 3], salt), k: values([37, 2, 3], salt + 9) };
      expectClose(runPlan(plan, layer).out.data, referenceAttention(layer).out.data, F32_STORED);
    }
  });

  it("refuses requests that the plan was not made for", () => {
    const plan = planAttention({ ...request, softcap: 3 });
    const run = (changed: Partial<AttentionRequest>) =>
      thrownBy(() => runPlan(plan, { ...request, softcap: 3, ...changed } as AttentionRequest));
    expect(run({ q: values([2, 4, 3], 1) })).toBe(
      "ShapeError: runPlan: the plan was made for Tq=1; got Tq=2. Make a new plan.",
    );
    expect(run({ k: values([37, 1, 3], 1), v: values([37, 1, 5], 1) })).toBe(
      "ShapeError: runPlan: the plan was made for Hk=2; got Hk=1. Make a new plan.",
    );
    expect(run({ mask: slidingWindow(3) })).toBe(
      'ConfigError: runPlan: the plan was made for another mask; got mask="slidingWindow(3)". Make a new plan.',
    );
    expect(run({ sinks: [1, 2, 3, 4] })).toBe(
      'ConfigError: runPlan: the plan was made for features ["softcap","mixedHeadDims"]; ' +
        'got features=["softcap","sinks","mixedHeadDims"]. Make a new plan.',
    );
    expect(run({ queryPositions: Int32Array.of(35) })).toBe(
      "ConfigError: runPlan: the plan was made for other positions, segments, tables or selection. Make a new plan.",
    );
    expect(thrownBy(() => runPlan(plan, { ...request, softcap: 3 }, { order: [0, 9] }))).toBe(
      "ConfigError: runPlan: order must list the work items 0 to 1, each once; got order=[0,9].",
    );
    for (const order of [[0, 0], [0], [0, 1, 1], [0, 0.5]]) {
      expect(thrownBy(() => runPlan(plan, { ...request, softcap: 3 }, { order }))).toBe(
        `ConfigError: runPlan: order must list the work items 0 to 1, each once; got order=[${order}].`,
      );
    }
  });

  it("refuses pages that do not fit the tiles of the plan", () => {
    const slots = { positions: Int32Array.from({ length: 48 }, (_, n) => n), segments: new Int32Array(48) };
    const inPages = (size: number): AttentionRequest => ({
      q: values([1, 4, 3], 1),
      queryPositions: Int32Array.of(47),
      kv: {
        layout: "paged",
        keys: values([48 / size, size, 2, 3], 2),
        values: values([48 / size, size, 2, 5], 3),
        pageTable: { dtype: "i32", shape: [1, 48 / size], data: Int32Array.from({ length: 48 / size }, (_, n) => n) },
        ...slots,
      },
    });
    const plan = planAttention(inPages(16)); // tiles of 64 keys
    expectClose(runPlan(plan, inPages(8)).out.data, referenceAttention(inPages(8)).out.data, F32_STORED);
    expect(thrownBy(() => runPlan(plan, inPages(24)))).toBe(
      "ConfigError: runPlan: the plan was made for pages that fit tiles of 64 keys; got page=24. Make a new plan.",
    );
  });

  it("refuses another selection than the planned one", () => {
    const moba = { ...request, select: { kind: "moba", chunk: 4, topk: 2 } } as const;
    const plan = planAttention(moba);
    expectClose(runPlan(plan, moba).out.data, referenceAttention(moba).out.data, F32_STORED);
    expect(thrownBy(() => runPlan(plan, { ...moba, q: values([1, 4, 3], 77) }))).toBe(
      "ConfigError: runPlan: the plan was made for other positions, segments, tables or selection. Make a new plan.",
    );
  });
});
