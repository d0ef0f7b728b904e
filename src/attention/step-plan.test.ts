import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  causal,
  chunked,
  custom,
  dilated,
  full,
  type Mask,
  prefix,
  sameSegment,
  slidingWindow,
} from "../mask/index.ts";
import { tensor, zeros } from "../tensor.ts";
import type { KeyValues } from "./kv-view.ts";
import { planAttention } from "./plan.ts";
import { type StepOptions, StepPlanner, type StepRequest } from "./step-plan.ts";

const MASKS: readonly Mask[] = [
  full(),
  causal().and(sameSegment()),
  slidingWindow(70).and(sameSegment()),
  slidingWindow({ left: 5, right: 9 }),
  chunked(37),
  prefix(9).or(slidingWindow(50)),
  dilated(3, 40),
  causal().and(custom(({ kvPosition }) => kvPosition.mod(4).ne(2))),
  causal().and(slidingWindow(20).not()),
];

type Case = { kv: KeyValues; request: StepRequest; options: StepOptions };

/** Positions that never fall, in any layout; slots of a ring and of pages lie anywhere. */
const cases: fc.Arbitrary<Case> = fc
  .record({
    gaps: fc.array(fc.constantFrom(0, 1, 1, 1, 2, 60), { minLength: 1, maxLength: 300 }),
    first: fc.integer({ min: -3, max: 40 }),
    segment: fc.constantFrom(0, 0, 7, -1),
    querySegment: fc.constantFrom(0, 0, 7, -1),
    ahead: fc.integer({ min: -40, max: 5 }),
    layout: fc.constantFrom(undefined, "contiguous", "ring", "paged"),
    pageSize: fc.constantFrom(1, 16, 48, 67),
    Hk: fc.constantFrom(1, 2, 3),
    G: fc.constantFrom(1, 2, 5, 9),
    mask: fc.constantFrom(...MASKS),
    rows: fc.constantFrom(4, 8, 16),
    workers: fc.integer({ min: 1, max: 4 }),
  })
  .map(({ gaps, first, segment, querySegment, ahead, layout, pageSize, Hk, G, mask, rows, workers }) => {
    let at = first;
    const positions = Int32Array.from(gaps, (gap) => (at += gap));
    const slots = positions.length;
    const order = { version: {}, ascending: true, segment };
    const places = { positions, segments: new Int32Array(slots).fill(segment), order };
    const pages = Math.ceil(slots / pageSize);
    const outer = layout === "paged" ? [pages, pageSize] : layout === "ring" ? [1, slots + 3] : [1, slots];
    const shape = [...(layout === undefined ? [slots] : outer), Hk];
    const rowsOf = (width: number) => zeros("f32", [...shape, width]);
    const both = { keys: rowsOf(8), values: rowsOf(4), ...places };
    const pageTable = tensor(
      "i32",
      [1, pages],
      Int32Array.from({ length: pages }, (_, n) => pages - 1 - n),
    );
    const kv: KeyValues =
      layout === "paged"
        ? { layout, ...both, pageTable }
        : layout === "ring"
          ? { layout, ...both, starts: Int32Array.of(slots) }
          : { ...(layout && { layout }), ...both };
    const queryPosition = positions[slots - 1] + ahead;
    const request = { heads: Hk * G, headDim: 8, kv, mask, queryPosition, querySegment };
    return { kv, request, options: { workers, tile: layout === "paged" ? { rows } : { rows, keys: 64 } } };
  });

describe("StepPlanner", () => {
  it("plans what planAttention plans, or nothing", () => {
    let planned = 0;
    fc.assert(
      fc.property(cases, ({ kv, request, options }) => {
        const { heads, mask, queryPosition, querySegment } = request;
        const step = new StepPlanner().plan(request, options);
        if (step === undefined) return;
        planned++;
        const whole = planAttention(
          {
            q: zeros("f32", [1, heads, 8]),
            kv,
            mask,
            queryPositions: Int32Array.of(queryPosition),
            querySegments: Int32Array.of(querySegment),
          },
          options,
        );
        const { dims, tiles, bits, work, merges, cost } = whole;
        expect(step).toEqual({ dims, tiles: { ...tiles, maskHash: "" }, bits, work, merges, cost });
      }),
      { numRuns: 300 },
    );
    expect(planned).toBeGreaterThan(150);
  });

  const positions = Int32Array.of(3, 4, 9);
  const rows = { keys: zeros("f32", [3, 1, 4]), values: zeros("f32", [3, 1, 4]), positions };
  const order = { version: {}, ascending: true, segment: 0 };
  const base = { heads: 1, headDim: 4, mask: causal(), queryPosition: 9, querySegment: 0 };
  const options = { workers: 1, tile: { rows: 4, keys: 64 } };

  it.each<[string, KeyValues, Mask?]>([
    ["without a known order", { ...rows, segments: new Int32Array(3) }],
    ["of positions that fall", { ...rows, segments: new Int32Array(3), order: { ...order, ascending: false } }],
    ["of several segments", { ...rows, segments: Int32Array.of(0, 1, 1), order: { ...order, segment: undefined } }],
    ["whose heads differ", { ...rows, segments: new Int32Array(3), order }, custom(({ head }) => head.lt(1))],
  ])("leaves steps %s to planAttention", (_, kv, mask = causal()) => {
    expect(new StepPlanner().plan({ ...base, kv, mask }, options)).toBeUndefined();
  });

  it("plans with one and the same planner for any queries", () => {
    const planner = new StepPlanner();
    const kv = { ...rows, segments: new Int32Array(3), order };
    const seen = [2, 3, 4, 8, 9].map((queryPosition) => {
      const plan = planner.plan({ ...base, kv, queryPosition }, options);
      return plan?.cost.visiblePairs;
    });
    expect(seen).toEqual([0, 1, 2, 2, 3]);
  });
});
