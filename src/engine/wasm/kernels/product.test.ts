import { describe, expect, test } from "vitest";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitProduct, PRODUCT_SCRATCH_BYTES } from "./product.ts";

/** Errors of a sum, relative to the sum of the magnitudes of its terms. */
const BUDGET = 1e-6;

type Shape = { rows: number; columns: number; inner: number; from?: number; to?: number; add?: boolean };

function check(left: "rows" | "columns", relaxed: boolean, shape: Shape): void {
  const { rows, columns, inner, from = 0, to = rows, add = false } = shape;
  const numbers = rows * (inner + 3) + inner * (rows + 3) + columns * (inner + rows) + 1000;
  const kernel = new KernelUnderTest((module) => emitProduct(module, { left, relaxed }), {
    pages: Math.ceil((4 * numbers + PRODUCT_SCRATCH_BYTES) / 65536) + 1,
  });
  const [lines, width] = left === "rows" ? [rows, inner + 3] : [inner, rows + 3];
  const a = randomNumbers(lines * width - 3, 1);
  const b = randomNumbers(inner * columns, 2);
  const before = randomNumbers(rows * columns, 3);
  const out = kernel.put(before);
  const scratch = kernel.reserve(PRODUCT_SCRATCH_BYTES);
  // Left and right end where memory or an area ends: a read behind them fails or gives 3.4e38.
  const args = [out, kernel.put(a), kernel.putLast(b), columns, inner, 4 * width, add ? 1 : 0, from, to, scratch];
  kernel.call("product", ...args);
  const got = kernel.f32(out, rows * columns);
  for (let m = 0; m < rows; m++) {
    for (let n = 0; n < columns; n++) {
      const at = m * columns + n;
      if (m < from || m >= to) {
        if (got[at] !== before[at]) expect.fail(`row ${m} was written`);
        continue;
      }
      let want = add ? before[at] : 0;
      let magnitude = Math.abs(want);
      for (let p = 0; p < inner; p++) {
        const term = a[left === "rows" ? m * width + p : p * width + m] * b[p * columns + n];
        want += term;
        magnitude += Math.abs(term);
      }
      if (!(Math.abs(got[at] - want) <= BUDGET * magnitude)) {
        expect.fail(`row ${m} column ${n} of ${JSON.stringify({ left, ...shape })}: ${got[at]}, wanted ${want}`);
      }
    }
  }
}

describe.each(MODES)("product, %o", ({ relaxed }) => {
  describe.each(["rows", "columns"] as const)("left as %s", (left) => {
    test("any numbers of rows, columns and terms", () => {
      for (const rows of [1, 2, 3, 4, 5, 7, 17]) {
        for (const columns of [1, 3, 15, 16, 17, 35]) {
          for (const inner of [1, 3, 4, 7])
            check(left, relaxed, { rows, columns, inner, add: (rows + inner) % 2 === 0 });
        }
      }
    });

    test("more than a block in every direction, written and added to", () => {
      for (const add of [false, true]) {
        check(left, relaxed, { rows: 131, columns: 37, inner: 19, add });
        check(left, relaxed, { rows: 7, columns: 523, inner: 11, add });
        check(left, relaxed, { rows: 13, columns: 19, inner: 521, add });
      }
    });

    test("a range of rows writes only these", () => {
      for (const [from, to] of [
        [0, 4],
        [4, 13],
        [5, 5],
        [12, 13],
      ]) {
        check(left, relaxed, { rows: 13, columns: 21, inner: 6, from, to });
      }
    });
  });
});

test("a row is the same to the bit, however rows are dealt out", () => {
  const [rows, columns, inner] = [11, 19, 300];
  const kernel = new KernelUnderTest((module) => emitProduct(module, { left: "columns", relaxed: false }), {
    pages: 32,
  });
  const [left, right] = [kernel.put(randomNumbers(rows * inner, 1)), kernel.put(randomNumbers(columns * inner, 2))];
  const scratch = kernel.reserve(PRODUCT_SCRATCH_BYTES);
  const run = (...bounds: number[]): Float32Array => {
    const out = kernel.put(new Float32Array(rows * columns));
    for (const [n, from] of bounds.entries()) {
      const to = bounds[n + 1] ?? rows;
      kernel.call("product", out, left, right, columns, inner, 4 * rows, 0, from, to, scratch);
    }
    return kernel.f32(out, rows * columns);
  };
  expect(run(0, 4, 8)).toEqual(run(0));
});

test("the listing: two rows by 16 columns in one turn", () => {
  const loops = listingOf((module) => emitProduct(module, { left: "rows", relaxed: true })).split(/\n\s+loop\n/);
  const loop = loops.find((text) => text.includes("relaxed_madd"));
  expect(loop?.split(/\n\s+branch/)[0]).toMatchInlineSnapshot(`
    "    right0 = v128.load(panel)
        right1 = v128.load(panel + 16)
        right2 = v128.load(panel + 32)
        right3 = v128.load(panel + 48)
        left0 = v128.load32_splat(strip)
        sum0 = f32x4.relaxed_madd(left0, right0, sum0)
        sum1 = f32x4.relaxed_madd(left0, right1, sum1)
        sum2 = f32x4.relaxed_madd(left0, right2, sum2)
        sum3 = f32x4.relaxed_madd(left0, right3, sum3)
        left1 = v128.load32_splat(strip + 4)
        sum4 = f32x4.relaxed_madd(left1, right0, sum4)
        sum5 = f32x4.relaxed_madd(left1, right1, sum5)
        sum6 = f32x4.relaxed_madd(left1, right2, sum6)
        sum7 = f32x4.relaxed_madd(left1, right3, sum7)
        strip = i32.add(strip, 16)
        panel = i32.add(panel, 64)"
  `);
});
