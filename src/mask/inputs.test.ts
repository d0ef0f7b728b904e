import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import {
  bidirectionalSpans,
  causal,
  checkMaskInputs,
  createMaskInputs,
  custom,
  lengths,
  type Mask,
  type MaskInputs,
  maskPredicate,
  planTiles,
  prefix,
  requirements,
  sameSegment,
  table,
  tree,
} from "./index.ts";

describe("requirements", () => {
  it("names what a mask reads, once and in order", () => {
    const nothing = { rows: [], tables: [], integerTables: [], headDependent: false };
    expect(requirements(causal().and(prefix(3)))).toEqual(nothing);
    const mask = sameSegment()
      .and(table("b"), table("a").not(), table("b"))
      .or(prefix(), lengths(), bidirectionalSpans(), tree([-1]));
    expect(requirements(mask)).toEqual({
      rows: [
        "keyNodes",
        "keySegments",
        "keySpans",
        "lengths",
        "prefixLengths",
        "queryNodes",
        "querySegments",
        "querySpans",
      ],
      tables: ["a", "b"],
      integerTables: [],
      headDependent: false,
    });
    const byHead = custom((v) => v.lookup("n", v.head.add(v.lookup("m", v.batch))).lt(v.qSegment.max(2)));
    expect(requirements(byHead)).toEqual({
      rows: ["querySegments"],
      tables: [],
      integerTables: ["m", "n"],
      headDependent: true,
    });
  });
});

describe("checkMaskInputs", () => {
  const inputs = createMaskInputs({ batch: 2, queryLength: 3, keyLength: 5 });
  const cases: [string, Mask, Partial<MaskInputs>, string][] = [
    [
      "missing segments",
      causal().and(sameSegment()),
      { keySegments: new Int32Array(10) },
      'ConfigError: the mask needs querySegments; got mask="causal().and(sameSegment())". Pass it with the mask\'s inputs.',
    ],
    [
      "a missing table",
      table("toString"),
      { tables: {} },
      'ConfigError: the mask needs tables["toString"]; got mask="table(\\"toString\\")". Pass it with the mask\'s inputs.',
    ],
    [
      "a missing integer table",
      custom((v) => v.lookup("n", v.head).lt(1)),
      {},
      'ConfigError: the mask needs integerTables["n"]; got mask="lookup(\\"n\\", head).lt(1)". Pass it with the mask\'s inputs.',
    ],
    [
      "segments of another length",
      causal(),
      { querySegments: new Int32Array(5) },
      "ShapeError: querySegments must have 6 entries; got length=5.",
    ],
    [
      "segments in another array type",
      causal(),
      { keySegments: new Float32Array(10) as unknown as Int32Array },
      "ShapeError: keySegments must be an Int32Array.",
    ],
    [
      "positions of another length",
      causal(),
      { keyPositions: new Int32Array(5) },
      "ShapeError: keyPositions must have 10 entries; got length=5.",
    ],
    [
      "no positions",
      causal(),
      { queryPositions: undefined as unknown as Int32Array },
      "ShapeError: queryPositions are required.",
    ],
    [
      "a position of 2^30",
      causal(),
      { queryPositions: Int32Array.of(0, 1, 2, 0, 2 ** 30, 2) },
      "ConfigError: queryPositions must be below 2^30 in magnitude; got index=4, position=1073741824.",
    ],
    [
      "a table of another size",
      table("t"),
      { tables: { t: new Uint8Array(15) } },
      'ShapeError: table "t" must be u8 [B, Tq, Tk]; got length=15, shape=[2,3,5].',
    ],
    [
      "an integer table in another array type",
      custom((v) => v.lookup("n", v.head).lt(1)),
      { integerTables: { n: [1, 2] as unknown as Int32Array } },
      'ShapeError: integer table "n" must be an Int32Array.',
    ],
    [
      "a draft that the tree does not have",
      causal().or(tree([-1, 0]).not()),
      { queryNodes: Int32Array.of(-1, -1, 0, 1, 2, 0), keyNodes: new Int32Array(10) },
      "ConfigError: queryNodes must be below the number of drafts of the tree; got index=4, node=2, drafts=2.",
    ],
    [
      "a negative length",
      causal(),
      { keyLength: -1 },
      "ShapeError: keyLength must be a non-negative integer; got keyLength=-1.",
    ],
  ];
  for (const [name, mask, change, message] of cases) {
    it(`refuses ${name}`, () => {
      const [kind, rest] = [message.slice(0, message.indexOf(":")), message.slice(message.indexOf(":") + 2)];
      const broken = { ...inputs, ...change };
      expect(thrownBy(() => checkMaskInputs("attention", mask, broken))).toBe(`${kind}: attention: ${rest}`);
      expect(thrownBy(() => maskPredicate(mask, broken))).toBe(`${kind}: maskPredicate: ${rest}`);
      expect(thrownBy(() => planTiles(mask, broken, { rowTile: 2, keyTile: 2 }))).toBe(`${kind}: planTiles: ${rest}`);
    });
  }
});

describe("createMaskInputs", () => {
  it("fills in one head and positions aligned bottom-right, per batch entry", () => {
    const { heads, queryPositions, keyPositions } = createMaskInputs({ batch: 2, queryLength: 2, keyLength: 3 });
    expect(heads).toBe(1);
    expect([...queryPositions]).toEqual([1, 2, 1, 2]);
    expect([...keyPositions]).toEqual([0, 1, 2, 0, 1, 2]);
  });
});
