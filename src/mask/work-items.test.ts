import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inputsArbitrary, maskArbitrary } from "../../test/support/mask-arbitraries.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { causal, createMaskInputs, custom, planTiles, planWork, slidingWindow, type WorkItems } from "./index.ts";

const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0);

/** The (kv head, entry) pairs of all items, and the (kv head, row) pairs, each as often as they occur. */
function covered(work: WorkItems): { entries: string[]; rows: Set<string> } {
  const entries: string[] = [];
  const rows = new Set<string>();
  for (let i = 0; i < work.row.length; i++) {
    rows.add(`${work.kvHead[i]}:${work.row[i]}`);
    for (let entry = work.entryStart[i]!; entry < work.entryEnd[i]!; entry++)
      entries.push(`${work.kvHead[i]}:${entry}`);
  }
  return { entries, rows };
}

describe("planWork", () => {
  it("gives every row tile and every entry to one worker, in balance, for any plan", () => {
    fc.assert(
      fc.property(
        maskArbitrary,
        inputsArbitrary,
        fc.integer({ min: 1, max: 7 }),
        fc.boolean(),
        (mask, inputs, workers, splitKeys) => {
          const plan = planTiles(mask, inputs, { rowTile: 2, keyTile: 3 });
          const kvHeads = inputs.heads;
          const work = planWork(plan, { kvHeads, workers, splitKeys });
          const { entries, rows } = covered(work);
          const copies = plan.planes === 1 ? kvHeads : 1; // shared planes run once per head
          expect(entries.length).toBe(plan.columns.length * copies);
          expect(new Set(entries).size).toBe(entries.length);
          expect(rows.size).toBe(inputs.batch * kvHeads * plan.rowTiles);
          for (let i = 0; i < work.row.length; i++) {
            const row = work.row[i]!;
            expect(work.entryStart[i]).toBeGreaterThanOrEqual(plan.rowPointers[row]!);
            expect(work.entryEnd[i]).toBeLessThanOrEqual(plan.rowPointers[row + 1]!);
            const plane = Math.floor(row / plan.rowTiles) % plan.planes;
            expect(plan.planes === 1 ? 0 : work.kvHead[i]).toBe(plane);
          }
          expect(work.workerPointers[0]).toBe(0);
          expect(work.workerPointers[workers]).toBe(work.row.length);
          const largest = Math.max(
            ...Array.from(work.entryStart, (start, i) => 0.25 + 1.25 * (work.entryEnd[i]! - start)),
          );
          expect(Math.max(...work.costs)).toBeLessThanOrEqual(sum(work.costs) / workers + largest + 1e-9);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("shares a causal square out so that no worker waits: within 2 % of the mean", () => {
    const inputs = createMaskInputs({ queryLength: 4096, keyLength: 4096 });
    const plan = planTiles(causal(), inputs, { rowTile: 32, keyTile: 64 });
    const work = planWork(plan, { kvHeads: 8, workers: 6 });
    // per head: 128 rows of 0.25; 64 pairs of rows meet 0, 1, ... 63 full tiles and one partial each
    const total = 8 * (128 * 0.25 + 2 * ((63 * 64) / 2) + 128 * 1.25);
    expect(sum(work.costs)).toBe(total);
    for (const cost of work.costs) expect(Math.abs(cost / (total / 6) - 1)).toBeLessThan(0.02);
  });

  it("splits the keys of one long row between workers when asked, and only then", () => {
    const inputs = createMaskInputs({ queryLength: 1, keyLength: 6400 });
    const plan = planTiles(causal(), inputs, { rowTile: 8, keyTile: 64 });
    const whole = planWork(plan, { kvHeads: 1, workers: 4 });
    expect([...whole.entryEnd]).toEqual([100]);
    const parts = planWork(plan, { kvHeads: 1, workers: 4, splitKeys: true });
    expect([...parts.entryStart]).toEqual([0, 24, 48, 72, 96]);
    expect([...parts.entryEnd]).toEqual([24, 48, 72, 96, 100]);
    expect([...parts.row]).toEqual([0, 0, 0, 0, 0]);
  });

  it("keeps a row tile without entries, so that its output is written", () => {
    const inputs = createMaskInputs({ queryLength: 2, keyLength: 4, queryPositions: Int32Array.of(-9, 3) });
    const plan = planTiles(slidingWindow(2), inputs, { rowTile: 1, keyTile: 2 });
    const work = planWork(plan, { kvHeads: 1, workers: 1, splitKeys: true });
    expect([...work.row]).toEqual([0, 1]);
    expect([...work.entryStart]).toEqual([0, 0]);
    expect([...work.entryEnd]).toEqual([0, 1]);
  });

  it("gives workers nothing when there is nothing", () => {
    const plan = planTiles(causal(), createMaskInputs({ queryLength: 0, keyLength: 4 }), { rowTile: 1, keyTile: 2 });
    expect([...planWork(plan, { kvHeads: 3, workers: 2 }).workerPointers]).toEqual([0, 0, 0]);
  });

  it("refuses numbers that make no sense", () => {
    const inputs = createMaskInputs({ queryLength: 3, keyLength: 5, heads: 4 });
    const plan = planTiles(causal(), inputs, { rowTile: 2, keyTile: 2 });
    const byHead = planTiles(
      custom((v) => v.kvPosition.le(v.head)),
      inputs,
      { rowTile: 2, keyTile: 2, group: 2 },
    );
    const cases: [() => unknown, string][] = [
      [() => planWork(plan, { kvHeads: 0, workers: 1 }), "kvHeads must be an integer of at least 1; got kvHeads=0."],
      [
        () => planWork(plan, { kvHeads: 1, workers: 0.5 }),
        "workers must be an integer of at least 1; got workers=0.5.",
      ],
      [() => planWork(plan, { kvHeads: 1, workers: 4097 }), "workers must be at most 4096; got workers=4097."],
      [
        () => planWork(plan, { kvHeads: 1, workers: 1, partialCost: -1 }),
        "partialCost must be a positive number; got partialCost=-1.",
      ],
      [
        () => planWork(plan, { kvHeads: 1, workers: 1, rowCost: 0 }),
        "rowCost must be a positive number; got rowCost=0.",
      ],
      [() => planWork(byHead, { kvHeads: 4, workers: 1 }), "kvHeads must be 2, as in the plan; got kvHeads=4."],
    ];
    for (const [action, message] of cases) expect(thrownBy(action)).toBe(`ConfigError: planWork: ${message}`);
  });
});
