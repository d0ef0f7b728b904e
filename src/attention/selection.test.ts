import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { causal, table } from "../mask/index.ts";
import { tensor } from "../tensor.ts";
import { referenceAttention } from "./reference.ts";
import { selectKeys } from "./select.ts";
import {
  type BlockSelection,
  type KeySelection,
  type Selection,
  selectionFromTable,
  selectionPredicate,
  selectionTable,
} from "./selection.ts";

const ints = (...list: number[]): Int32Array => Int32Array.from(list);

/** One batch entry, two heads, two queries, four keys in two blocks; slot 1 is in no block. */
const blocks: BlockSelection = {
  kind: "blocks",
  shape: [1, 2, 2, 4],
  blocks: 2,
  blockPointers: ints(0, 2, 3),
  blockKeys: ints(3, 0, 2),
  rowPointers: ints(0, 1, 3, 3, 4),
  columns: ints(0, 0, 1, 1),
};
const keys: KeySelection = { kind: "keys", shape: [1, 2, 4], rowPointers: ints(0, 2, 2), columns: ints(1, 3) };

describe("selectionPredicate", () => {
  it("tells the keys of chosen blocks", () => {
    const sees = selectionPredicate(blocks);
    const seen = (h: number, i: number): number[] => [0, 1, 2, 3].filter((j) => sees(0, h, i, j));
    expect([seen(0, 0), seen(0, 1), seen(1, 0), seen(1, 1)]).toEqual([[0, 3], [0, 2, 3], [], [2]]);
  });

  it("tells chosen keys, whatever the head", () => {
    const sees = selectionPredicate(keys);
    for (const h of [0, 5]) expect([0, 1, 2, 3].filter((j) => sees(0, h, 0, j))).toEqual([1, 3]);
    expect([0, 1, 2, 3].some((j) => sees(0, 0, 1, j))).toBe(false);
  });
});

describe("selectionTable", () => {
  it("has a column per block, or per key", () => {
    expect(selectionTable(blocks).shape).toEqual([1, 2, 2, 2]);
    expect(Array.from(selectionTable(blocks).data)).toEqual([1, 0, 1, 1, 0, 0, 0, 1]);
    expect(selectionTable(keys).shape).toEqual([1, 2, 4]);
    expect(Array.from(selectionTable(keys).data)).toEqual([0, 1, 0, 1, 0, 0, 0, 0]);
  });
});

describe("selectionFromTable", () => {
  it("makes what selectionTable undoes, and what a mask of that table means", () => {
    const q = values([2, 3, 4, 5], 1);
    const k = values([2, 7, 2, 5], 2);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 42, maxLength: 42, max: 2 }), (keep) => {
        const select = selectionFromTable(tensor("u8", [2, 3, 7], keep));
        expect(Array.from(selectionTable(select).data)).toEqual(Array.from(keep, (x) => Math.min(x, 1)));
        const want = referenceAttention({ q, k, v: k, mask: causal().and(table("keep")), tables: { keep } });
        const got = referenceAttention({ q, k, v: k, mask: causal(), select });
        expect(got.out.data).toEqual(want.out.data);
        expect(got.lse.data).toEqual(want.lse.data);
      }),
      { numRuns: 50 },
    );
  });

  it("refuses a table of another rank", () => {
    expect(thrownBy(() => selectionFromTable(tensor("u8", [6], new Uint8Array(6))))).toBe(
      "ShapeError: selectionFromTable: keep must be [B, Tq, Tk]; got shape=[6].",
    );
  });
});

describe("given selections", () => {
  const q = values([2, 2, 3], 1);
  const k = values([4, 1, 3], 2);
  const attend = (select: unknown): string =>
    thrownBy(() => referenceAttention({ q, k, v: k, select: select as Selection }));

  it("are taken when they fit", () => {
    expect(attend(blocks)).toBe("nothing");
    expect(attend(keys)).toBe("nothing");
  });

  it("give rows that see nothing zeros and -Infinity", () => {
    const { out, lse } = referenceAttention({ q, k, v: k, select: keys });
    expect(Array.from(out.data.subarray(6))).toEqual([0, 0, 0, 0, 0, 0]);
    expect(Array.from(lse.data.subarray(2))).toEqual([-Infinity, -Infinity]);
  });

  it.each<[string, unknown, string]>([
    [
      "it is for other sizes",
      { ...keys, shape: [1, 2, 5] },
      "ShapeError: attention: the selection must be made for [1, 2, 4]; got shape=[1,2,5].",
    ],
    [
      "it is for other heads",
      { ...blocks, shape: [1, 1, 2, 4] },
      "ShapeError: attention: the selection must be made for [1, 2, 2, 4]; got shape=[1,1,2,4].",
    ],
    [
      "a key is out of range",
      { ...keys, columns: ints(1, 4) },
      "ConfigError: attention: columns must be from 0 to 3 and ascend in every row; got row=0, index=1, value=4.",
    ],
    [
      "a key is negative",
      { ...keys, columns: ints(-1, 2) },
      "ConfigError: attention: columns must be from 0 to 3 and ascend in every row; got row=0, index=0, value=-1.",
    ],
    [
      "a key is repeated",
      { ...keys, columns: ints(2, 2) },
      "ConfigError: attention: columns must be from 0 to 3 and ascend in every row; got row=0, index=1, value=2.",
    ],
    [
      "pointers lead beyond the list",
      { ...keys, rowPointers: ints(0, 2, 3) },
      "ConfigError: attention: the pointers into columns must be 3 ascending numbers from 0 to its length; got pointers=3, length=2.",
    ],
    [
      "pointers go back",
      { ...keys, rowPointers: ints(0, 3, 2) },
      "ConfigError: attention: the pointers into columns must be 3 ascending numbers from 0 to its length; got pointers=3, length=2.",
    ],
    [
      "a block is out of range",
      { ...blocks, columns: ints(0, 0, 2, 1) },
      "ConfigError: attention: columns must be from 0 to 1 and ascend in every row; got row=1, index=2, value=2.",
    ],
    [
      "a key is in two blocks",
      { ...blocks, blockKeys: ints(3, 0, 3) },
      "ConfigError: attention: blockKeys must be from 0 to 3, each once; got index=2, key=3.",
    ],
    [
      "the number of blocks is none",
      { ...blocks, blocks: -1 },
      "ShapeError: attention: blocks must be a non-negative integer; got blocks=-1.",
    ],
    [
      "block pointers are missing",
      { ...blocks, blockPointers: ints(0, 3) },
      "ConfigError: attention: the pointers into blockKeys must be 3 ascending numbers from 0 to its length; got pointers=2, length=3.",
    ],
    [
      "its kind is unknown",
      { kind: "random" },
      'ConfigError: attention: select.kind must be "moba", "indexer", "blocks" or "keys"; got kind="random".',
    ],
  ])("are refused when %s", (_, select, message) => {
    expect(attend(select)).toBe(message);
  });

  it("are required by selectKeys", () => {
    expect(thrownBy(() => selectKeys({ q, k, v: k } as never))).toBe(
      "ConfigError: selectKeys: the request must have select.",
    );
  });
});
