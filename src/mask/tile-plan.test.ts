import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inputsArbitrary, maskArbitrary } from "../../test/support/mask-arbitraries.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import {
  and,
  blockCausal,
  causal,
  chunked,
  createMaskInputs,
  custom,
  full,
  type Mask,
  type MaskInputs,
  maskPredicate,
  planTiles,
  prefixLm,
  sameSegment,
  slidingWindow,
  type TilePlan,
  table,
  validateTilePlan,
} from "./index.ts";

/** What each tile of the first plane and batch entry is: "." empty, "#" full, "+" partial. */
function draw(plan: TilePlan): string[] {
  return Array.from({ length: plan.rowTiles }, (_, row) => {
    const signs = Array.from({ length: plan.keyTiles }, () => ".");
    for (let entry = plan.rowPointers[row]!; entry < plan.rowPointers[row + 1]!; entry++) {
      signs[plan.columns[entry]!] = entry < plan.firstPartial[row]! ? "#" : "+";
    }
    return signs.join("");
  });
}

/** The same, from all pairs. */
function drawByHand(inputs: MaskInputs, tile: number, allows: (q: number, k: number) => boolean): string[] {
  const lines: string[] = [];
  for (let q0 = 0; q0 < inputs.queryLength; q0 += tile) {
    let line = "";
    for (let k0 = 0; k0 < inputs.keyLength; k0 += tile) {
      let allowed = 0;
      let all = 0;
      for (let q = q0; q < Math.min(q0 + tile, inputs.queryLength); q++) {
        for (let k = k0; k < Math.min(k0 + tile, inputs.keyLength); k++) {
          all++;
          if (allows(q, k)) allowed++;
        }
      }
      line += allowed === 0 ? "." : allowed === all ? "#" : "+";
    }
    lines.push(line);
  }
  return lines;
}

describe("planTiles", () => {
  it("is tight for masks with ascending positions: the interval verdict of every tile is the true one", () => {
    const length = 61;
    const inputs = createMaskInputs({ queryLength: length, keyLength: length });
    const cases: [Mask, (q: number, k: number) => boolean][] = [
      [full(), () => true],
      [causal(), (q, k) => k <= q],
      [slidingWindow(17), (q, k) => k <= q && k > q - 17],
      [slidingWindow({ left: 3, right: 20 }), (q, k) => k >= q - 3 && k <= q + 20],
      [blockCausal(11), (q, k) => Math.floor(k / 11) <= Math.floor(q / 11)],
      [prefixLm(23), (q, k) => k <= q || k < 23],
      [causal().not(), (q, k) => k > q],
    ];
    for (const [mask, allows] of cases) {
      for (const tile of [1, 4, 7, 64]) {
        const plan = planTiles(mask, inputs, { rowTile: tile, keyTile: tile });
        expect(draw(plan), `${mask} in tiles of ${tile}`).toEqual(drawByHand(inputs, tile, allows));
      }
    }
  });

  it("cuts chunks and packed segments out without looking at pairs", () => {
    const segments = Int32Array.from({ length: 40 }, (_, i) => (i < 16 ? 0 : i < 32 ? 1 : -1));
    const inputs = createMaskInputs({
      queryLength: 40,
      keyLength: 40,
      querySegments: segments,
      keySegments: segments,
    });
    const tile = { rowTile: 8, keyTile: 8 };
    expect(draw(planTiles(sameSegment(), inputs, tile))).toEqual(["##...", "##...", "..##.", "..##.", "....."]);
    expect(draw(planTiles(and(causal(), sameSegment()), inputs, tile))).toEqual([
      "+....",
      "#+...",
      "..+..",
      "..#+.",
      ".....",
    ]);
    expect(draw(planTiles(chunked(16), inputs, tile))).toEqual(["+....", "#+...", "..+..", "..#+.", "....."]);
  });

  it("covers every allowed pair once and fills full tiles only with allowed pairs, for any mask and positions", () => {
    fc.assert(
      fc.property(
        maskArbitrary,
        inputsArbitrary,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 9 }),
        fc.constantFrom(1, 2, 3, 6),
        fc.boolean(),
        (mask, inputs, rowTile, keyTile, group, exact) => {
          fc.pre(inputs.heads % group === 0);
          const plan = planTiles(mask, inputs, { rowTile, keyTile, group, exact });
          const { pairs } = validateTilePlan(plan, mask, inputs);
          expect(pairs).toBe(inputs.batch * inputs.heads * inputs.queryLength * inputs.keyLength);
        },
      ),
      { numRuns: 600 },
    );
  });

  it("leaves no partial tile that is in truth empty or full when exact", () => {
    fc.assert(
      fc.property(maskArbitrary, inputsArbitrary, fc.integer({ min: 1, max: 7 }), (mask, inputs, tile) => {
        const plan = planTiles(mask, inputs, { rowTile: tile, keyTile: tile, exact: true });
        const allows = maskPredicate(mask, inputs);
        expect(draw(plan)).toEqual(drawByHand(inputs, tile, (q, k) => allows(0, 0, q, k)));
      }),
      { numRuns: 200 },
    );
  });

  it("packs the heads of a group as rows, so that one query token with 6 heads fills one row tile", () => {
    const inputs = createMaskInputs({ queryLength: 1, keyLength: 50, heads: 6 });
    const plan = planTiles(slidingWindow(20), inputs, { rowTile: 8, keyTile: 16, group: 6 });
    expect([plan.rowTiles, plan.planes]).toEqual([1, 1]);
    expect(draw(plan)).toEqual([".+##"]);
  });

  it("plans every key-value head by itself when the mask depends on the head", () => {
    const inputs = createMaskInputs({ queryLength: 12, keyLength: 12, heads: 4 });
    const byHead = custom(({ qPosition, kvPosition, head }) => qPosition.sub(kvPosition).lt(head.mul(3)));
    const mask = causal().and(byHead);
    const plan = planTiles(mask, inputs, { rowTile: 4, keyTile: 4, group: 2 });
    expect(plan.planes).toBe(2);
    expect(plan.rowPointers.length).toBe(2 * 6 + 1);
    expect(validateTilePlan(plan, mask, inputs).pairs).toBe(4 * 12 * 12);
    const columnsOf = (plane: number): number[] => {
      const row = plane * 6 + 4; // tokens 8 and 9
      return [...plan.columns.slice(plan.rowPointers[row], plan.rowPointers[row + 1])];
    };
    expect(columnsOf(0)).toEqual([1, 2]); // heads 0 and 1 see 0 and 3 keys
    expect(columnsOf(1)).toEqual([1, 0, 2]); // heads 2 and 3 see 6 and 9 keys; tile 1 is full
  });

  it("takes effort in proportion to tiles with work, not to all tiles", () => {
    const length = 1 << 17;
    const inputs = createMaskInputs({ queryLength: length, keyLength: length });
    const plan = planTiles(slidingWindow(128), inputs, { rowTile: 64, keyTile: 64 });
    expect(plan.columns.length).toBe(3 * 2048 - 3); // each row tile meets 3 key tiles, the first ones fewer
    expect(validateTilePlan(plan, slidingWindow(128), inputs)).toEqual({ entries: 6141, pairs: 0 });
  });

  it("keeps a ring cache's keys by position, whatever their slots", () => {
    const keyPositions = Int32Array.from({ length: 32 }, (_, slot) => (slot < 8 ? 32 + slot : slot)); // 8..39 in a ring
    const inputs = createMaskInputs({
      queryLength: 1,
      keyLength: 32,
      queryPositions: Int32Array.of(39),
      keyPositions,
    });
    const plan = planTiles(slidingWindow(12), inputs, { rowTile: 1, keyTile: 4 });
    expect(draw(plan)).toEqual(["##.....#"]); // positions 32..39 and 28..31
  });

  it("gives no entries where there are no queries or no keys", () => {
    const tile = { rowTile: 4, keyTile: 4 };
    const noKeys = planTiles(causal(), createMaskInputs({ queryLength: 5, keyLength: 0 }), tile);
    expect([...noKeys.rowPointers]).toEqual([0, 0, 0]);
    const noQueries = planTiles(causal(), createMaskInputs({ queryLength: 0, keyLength: 5 }), tile);
    expect([...noQueries.rowPointers]).toEqual([0]);
  });

  it("refuses sizes that are not positive integers, with the name", () => {
    const inputs = createMaskInputs({ queryLength: 5, keyLength: 5, heads: 4 });
    expect(thrownBy(() => planTiles(causal(), inputs, { rowTile: 0, keyTile: 4 }))).toBe(
      "ConfigError: planTiles: rowTile must be an integer of at least 1; got rowTile=0.",
    );
    expect(thrownBy(() => planTiles(causal(), inputs, { rowTile: 4, keyTile: 4, group: 3 }))).toBe(
      "ConfigError: planTiles: group must divide heads; got heads=4, group=3.",
    );
  });

  it("refuses a plan of more than 2^24 tiles before it takes the memory", () => {
    const length = 5000;
    const inputs = createMaskInputs({ queryLength: length, keyLength: length });
    expect(thrownBy(() => planTiles(full(), inputs, { rowTile: 1, keyTile: 1 }))).toBe(
      "BudgetError: planTiles: at most 16777216 tiles with work. Use larger tiles.",
    );
    const many = createMaskInputs({ queryLength: 1, keyLength: 1, heads: 2 ** 40 });
    const byHead = custom(({ head }) => head.lt(3));
    expect(thrownBy(() => planTiles(byHead, many, { rowTile: 1, keyTile: 1 }))).toBe(
      "BudgetError: planTiles: at most 16777216 row tiles; got batch=1, planes=1099511627776, rowTiles=1.",
    );
  });
});

describe("validateTilePlan", () => {
  const inputs = createMaskInputs({ queryLength: 8, keyLength: 8 });
  const plan = planTiles(causal(), inputs, { rowTile: 4, keyTile: 4 }); // rows: [+.] and [#+]

  it("accepts the plan that planTiles makes", () => {
    expect(validateTilePlan(plan, causal(), inputs)).toEqual({ entries: 3, pairs: 64 });
  });

  it("refuses each way to break a plan, with the place", () => {
    const cases: [Partial<TilePlan>, string][] = [
      [{ keyTiles: 3 }, "keyTiles must be 2; got keyTiles=3."],
      [{ maskHash: "x" }, `maskHash must be ${causal().hash()}; got maskHash="x".`],
      [
        { firstPartial: Int32Array.of(0) },
        "one pointer per row tile (2), and one more for the end; got rowPointers=3, firstPartial=1.",
      ],
      [
        { rowPointers: Int32Array.of(0, 1, 2) },
        "rowPointers must go from 0 to the number of columns, 3; got first=0, last=2.",
      ],
      [
        { firstPartial: Int32Array.of(0, 0) },
        "rowPointers[i] ≤ firstPartial[i] ≤ rowPointers[i + 1]; got row=1, start=1, middle=0, end=3.",
      ],
      [{ columns: Int32Array.of(0, 2, 1) }, "columns must ascend and stay below 2; got row=1, previous=-1, column=2."],
      [{ columns: Int32Array.of(0, 0, 0) }, "a key tile appears at most once in a row; got row=1, column=0."],
      [
        { firstPartial: Int32Array.of(0, 3) },
        "full tiles hold allowed pairs only; got batch=0, head=0, query=4, key=5.",
      ],
      [
        { rowPointers: Int32Array.of(0, 1, 2), columns: Int32Array.of(0, 0) },
        "every allowed pair lies in a tile with work; got batch=0, head=0, query=4, key=4.",
      ],
    ];
    for (const [change, message] of cases) {
      const broken = { ...plan, ...change };
      expect(thrownBy(() => validateTilePlan(broken, causal(), inputs))).toBe(
        `ConfigError: validateTilePlan: ${message}`,
      );
    }
  });

  it("leaves the pairs of big plans unchecked and says so", () => {
    expect(validateTilePlan(plan, causal(), inputs, 63)).toEqual({ entries: 3, pairs: 0 });
  });
});

describe("planTiles with tables", () => {
  it("reads the table tile by tile", () => {
    const cells = new Uint8Array(6 * 6);
    for (let q = 0; q < 6; q++) for (let k = 0; k < 6; k++) cells[q * 6 + k] = q >= 3 && k < 3 ? 7 : 0;
    cells[1 * 6 + 5] = 1;
    const inputs = createMaskInputs({ queryLength: 6, keyLength: 6, tables: { seen: cells } });
    expect(draw(planTiles(table("seen"), inputs, { rowTile: 3, keyTile: 3 }))).toEqual([".+", "#."]);
  });
});
