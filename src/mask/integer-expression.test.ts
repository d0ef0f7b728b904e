import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import {
  createMaskInputs,
  custom,
  type IntegerExpression,
  integer,
  type Mask,
  maskPredicate,
  planTiles,
  variable,
} from "./index.ts";

const inputs = createMaskInputs({
  batch: 2,
  heads: 3,
  queryLength: 5,
  keyLength: 7,
  querySegments: Int32Array.of(0, 1, 2, 3, 4, 0, 1, 2, 3, 4),
  keySegments: Int32Array.of(0, 0, 1, 1, 2, 2, 3, 3, 3, 2, 2, 1, 1, 0),
  integerTables: { width: Int32Array.of(1, 4, 2), shift: Int32Array.of(5, -3) },
});

/** Fails unless the mask allows what `allows` says, for every batch entry, head, query and key position. */
function expectAllows(mask: Mask, allows: (b: number, h: number, q: number, k: number) => boolean): void {
  const predicate = maskPredicate(mask, inputs);
  for (let b = 0; b < 2; b++) {
    for (let h = 0; h < 3; h++) {
      for (let q = 0; q < 5; q++) {
        for (let k = 0; k < 7; k++) {
          expect(predicate(b, h, q, k), `batch ${b}, head ${h}, query ${q}, key ${k}`).toBe(allows(b, h, q + 2, k));
        }
      }
    }
  }
}

describe("custom", () => {
  it("compares positions in each of six ways", () => {
    expectAllows(
      custom((v) => v.kvPosition.eq(v.qPosition)),
      (_b, _h, q, k) => k === q,
    );
    expectAllows(
      custom((v) => v.kvPosition.ne(v.qPosition)),
      (_b, _h, q, k) => k !== q,
    );
    expectAllows(
      custom((v) => v.kvPosition.lt(v.qPosition)),
      (_b, _h, q, k) => k < q,
    );
    expectAllows(
      custom((v) => v.kvPosition.le(v.qPosition)),
      (_b, _h, q, k) => k <= q,
    );
    expectAllows(
      custom((v) => v.kvPosition.gt(v.qPosition)),
      (_b, _h, q, k) => k > q,
    );
    expectAllows(
      custom((v) => v.kvPosition.ge(v.qPosition)),
      (_b, _h, q, k) => k >= q,
    );
  });

  it("computes with all operations; floorDiv rounds down and mod is never negative", () => {
    expectAllows(
      custom((v) => v.qPosition.sub(v.kvPosition).mul(3).add(v.head).mod(4).lt(2)),
      (_b, h, q, k) => (((3 * (q - k) + h) % 4) + 4) % 4 < 2,
    );
    expectAllows(
      custom((v) => v.kvPosition.sub(v.qPosition).floorDiv(3).ge(-1)),
      (_b, _h, q, k) => k - q >= -3,
    );
    expectAllows(
      custom((v) => v.kvPosition.min(v.qPosition).add(v.kvPosition.max(4)).gt(integer(7))),
      (_b, _h, q, k) => Math.min(k, q) + Math.max(k, 4) > 7,
    );
  });

  it("reads heads, batch entries, segments and integer tables", () => {
    const widths = [1, 4, 2];
    const shifts = [5, -3];
    expectAllows(
      custom((v) => v.qPosition.sub(v.kvPosition).lt(v.lookup("width", v.head))),
      (_b, h, q, k) => q - k < widths[h]!,
    );
    expectAllows(
      custom((v) => v.kvPosition.add(v.lookup("shift", v.batch)).ge(v.qPosition)),
      (b, _h, q, k) => k + shifts[b]! >= q,
    );
    const keySegments = [
      [0, 0, 1, 1, 2, 2, 3],
      [3, 3, 2, 2, 1, 1, 0],
    ];
    expectAllows(
      custom((v) => v.kvSegment.le(v.qSegment)),
      (b, _h, q, k) => keySegments[b]![k]! <= q - 2,
    );
  });

  it("reads 0 outside a table", () => {
    expectAllows(
      custom((v) => v.lookup("width", v.kvPosition.sub(2)).ge(1)),
      (_b, _h, _q, k) => k >= 2 && k <= 4,
    );
  });

  it("wraps around in 32 bits", () => {
    const big = 2 ** 31 - 1;
    expectAllows(
      custom((v) => integer(big).add(v.kvPosition).lt(0)),
      (_b, _h, _q, k) => k > 0,
    );
    expectAllows(
      custom((v) =>
        v.kvPosition
          .add(1)
          .mul(big)
          .eq(-(2 ** 31) + 1),
      ), // (2^31 − 1)² = 2^62 − 2^32 + 1, and so on
      (_b, _h, _q, k) => BigInt.asIntN(32, BigInt(k + 1) * BigInt(big)) === BigInt(-(2 ** 31) + 1),
    );
    const plan = planTiles(
      custom((v) => v.qPosition.mul(big).add(v.kvPosition).lt(0)),
      inputs,
      { rowTile: 1, keyTile: 1, exact: true },
    );
    const predicted = Array.from({ length: 35 }, (_, i) => BigInt((i / 7) | 0) + 2n).filter(
      (q, i) => BigInt.asIntN(32, q * BigInt(big) + BigInt(i % 7)) < 0n,
    );
    expect(plan.rowPointers[5]).toBe(predicted.length);
  });

  it("prints as code and describes itself", () => {
    const mask = custom((v) =>
      v.qPosition
        .sub(v.kvPosition)
        .mod(4)
        .lt(v.lookup("width", v.head.min(2)).add(1)),
    );
    expect(mask.toString()).toBe('queryPosition.sub(keyPosition).mod(4).lt(lookup("width", head.min(2)).add(1))');
    expect(mask.describe()).toBe("A query sees keys where ((qPos − kvPos) mod 4) < (width[min(head, 2)] + 1).");
    const halves = custom((v) => v.kvPosition.floorDiv(2).mul(3).ne(v.integer(6)));
    expect(halves.describe()).toBe("A query sees keys where (floor(kvPos / 2) · 3) ≠ 6.");
    expect(`${variable("head").max(1)}`).toBe("head.max(1)");
  });
});

describe("wrong expressions", () => {
  const q = variable("queryPosition");
  const k = variable("keyPosition");
  const cases: [string, () => unknown, string][] = [
    [
      "a comparison by the language's operator",
      () => custom((v) => (v.qPosition < v.kvPosition) as unknown as Mask),
      'custom: operators of the language do not work on expressions; got expression="queryPosition". ' +
        "Use the methods: a.lt(b), a.add(b).",
    ],
    [
      "a sum by the language's operator",
      () => q.lt((k as unknown as number) + 1),
      'custom: operators of the language do not work on expressions; got expression="keyPosition". ' +
        "Use the methods: a.lt(b), a.add(b).",
    ],
    [
      "a function that returns no mask",
      () => custom(() => true as unknown as Mask),
      "custom: a mask made by the builders; got mask=true. Plain JSON is read by parseMask.",
    ],
    [
      "a mask where a number belongs",
      () => q.add(q.lt(k) as unknown as number),
      'add: an integer expression or an integer; got value={"op":"compare","relation":"lt",' +
        '"left":{"op":"variable","name":"queryPosition"},"right":{"op":"variable","name":"keyPosi….',
    ],
    ["a fraction", () => q.lt(0.5), "lt: value must be an integer from -2147483648 to 2147483647; got value=0.5."],
    [
      "a constant beyond 32 bits",
      () => integer(2 ** 31),
      "integer: value must be an integer from -2147483648 to 2147483647; got value=2147483648.",
    ],
    ["a divisor of 0", () => q.mod(0), "mod: divisor must be an integer from 1 to 2147483647; got divisor=0."],
    [
      "a divisor that is an expression",
      () => q.floorDiv(k as unknown as number),
      'floorDiv: divisor must be an integer from 1 to 2147483647; got divisor={"op":"variable","name":"keyPosition"}.',
    ],
    [
      "doubling beyond 65536 parts",
      () => {
        let sum = q;
        for (let i = 0; i < 40; i++) sum = sum.add(sum);
      },
      "add: a mask may have at most 65536 parts; got parts=131071.",
    ],
    [
      "nesting beyond 64",
      () => {
        let sum: IntegerExpression = q;
        for (let i = 0; i < 70; i++) sum = sum.add(1);
      },
      "add: a mask may nest at most 64 deep; got depth=65.",
    ],
  ];
  for (const [name, build, message] of cases) {
    it(`${name} is refused when it is built`, () => {
      expect(thrownBy(build)).toBe(`ConfigError: ${message}`);
    });
  }
});
