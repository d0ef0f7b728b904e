/**
 * The gradients of a normalisation. With r = 1/sqrt(mean(x²) + eps) and g the gradient of the output:
 *
 *     dx = r·g·weight − x · r³·Σ(g·weight·x)/C            dweight = Σ over rows of g·x·r
 *
 * Rows are taken 32 at a time. Each of these chunks has a sum of its own for dweight, to be added up in order, so that
 * results do not depend on how chunks are dealt out.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitSum, type FloatingMode, fma } from "./vector-math.ts";

/** Rows of a chunk. */
export const NORM_CHUNK = 32;

/** What the generated code is specialised for. */
export type NormBackwardSpec = FloatingMode & {
  /** Export name; `rmsNormBackward` unless told. */
  readonly name?: string;
  /** C, elements of a row; any. */
  readonly width: number;
  /** Whether dx is added to what is there. */
  readonly add: boolean;
};

/**
 * Adds `rmsNormBackward(dx, sums, dOut, x, weight, rows, from, to, eps: f32)` to a module: chunks [from, to).
 *
 * dx, dOut and x f32 [rows][C], weight f32 [C]; sums f32 [chunks][C], each chunk's share of dweight, zeros before. dx may
 * be dOut when it is not added to.
 */
export function emitRmsNormBackward(module: ModuleBuilder, spec: NormBackwardSpec): FunctionHandle {
  const { width, add } = spec;
  return module.function(spec.name ?? "rmsNormBackward", (f) => {
    const integer = (name: string) => f.parameter(name, "i32");
    const [dx, sums, dOut, x, weight, rows, from, to] = [
      ...["dx", "sums", "dOut", "x", "weight", "rows", "from", "to"].map(integer),
    ];
    const eps = f.parameter("eps", "f32");
    const [chunk, row, end] = ["chunk", "row", "end"].map((name) => f.local(name, "i32"));
    const [dxAt, sumsAt, dOutAt, xAt, weightAt] = ["dxAt", "sumsAt", "dOutAt", "xAt", "weightAt"].map((name) =>
      f.local(name, "i32"),
    );
    const squares = f.vectors("square", 2);
    const products = f.vectors("product", 2);
    const [a, g, scale, slopes] = ["a", "g", "scale", "slopes"].map((name) => f.local(name, "v128"));
    const [square, product, factor, slope, one] = ["squareSum", "productSum", "factor", "slope", "one"].map((name) =>
      f.local(name, "f32"),
    );
    const startRow = (): void => {
      const bytes = i32.mul(row, 4 * width);
      f.set(xAt, i32.add(x, bytes));
      f.set(dOutAt, i32.add(dOut, bytes));
      f.set(weightAt, weight);
    };

    f.for(chunk, from, to, 1, () => {
      f.set(row, i32.mul(chunk, NORM_CHUNK));
      f.set(end, i32.add(row, NORM_CHUNK));
      f.if(i32.gtS(end, rows), () => f.set(end, rows));
      f.forAtLeastOnce(row, end, 1, () => {
        startRow();
        for (const sum of [...squares, ...products]) f.set(sum, f32x4.const(0));
        f.set(square, 0);
        f.set(product, 0);
        emitRowLoop(
          f,
          { pointers: [xAt, dOutAt, weightAt].map((at) => [at, 4] as const), count: width, wide: 2 },
          (i) => {
            f.set(a, v128.load(xAt, 16 * i));
            f.set(squares[i], fma(spec, a, a, squares[i]));
            f.set(g, f32x4.mul(v128.load(dOutAt, 16 * i), v128.load(weightAt, 16 * i)));
            f.set(products[i], fma(spec, g, a, products[i]));
          },
          () => {
            f.set(one, f32.load(xAt));
            f.set(square, f32.add(square, f32.mul(one, one)));
            f.set(product, f32.add(product, f32.mul(f32.mul(f32.load(dOutAt), f32.load(weightAt)), one)));
          },
        );
        for (const [total, [first, second]] of [
          [square, squares],
          [product, products],
        ] as const) {
          f.set(first, f32x4.add(first, second));
          f.set(total, f32.add(total, emitSum(f, first)));
        }
        f.set(factor, f32.div(1, f32.sqrt(f32.add(f32.div(square, width), eps))));
        f.set(slope, f32.mul(f32.mul(factor, factor), f32.mul(factor, f32.div(product, -width))));
        f.set(scale, f32x4.splat(factor));
        f.set(slopes, f32x4.splat(slope));

        startRow();
        f.set(dxAt, i32.add(dx, i32.mul(row, 4 * width)));
        f.set(sumsAt, i32.add(sums, i32.mul(chunk, 4 * width)));
        emitRowLoop(
          f,
          { pointers: [xAt, dOutAt, weightAt, dxAt, sumsAt].map((at) => [at, 4] as const), count: width },
          () => {
            f.set(a, v128.load(xAt));
            f.set(g, f32x4.mul(v128.load(dOutAt), scale));
            f.storeVector(sumsAt, fma(spec, g, a, v128.load(sumsAt)));
            const straight = fma(spec, g, v128.load(weightAt), f32x4.mul(a, slopes));
            f.storeVector(dxAt, add ? f32x4.add(v128.load(dxAt), straight) : straight);
          },
          () => {
            f.set(one, f32.mul(f32.load(dOutAt), factor));
            f.store("f32.store", sumsAt, f32.add(f32.load(sumsAt), f32.mul(one, f32.load(xAt))));
            const straight = f32.add(f32.mul(one, f32.load(weightAt)), f32.mul(f32.load(xAt), slope));
            f.store("f32.store", dxAt, add ? f32.add(f32.load(dxAt), straight) : straight);
          },
        );
      });
    });
  });
}
