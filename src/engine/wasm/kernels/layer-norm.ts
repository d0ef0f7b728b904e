/**
 * Layer normalisation of rows and its gradients. With x̂ = (x − mean)·r, r = 1/sqrt(variance + eps), and g the gradient
 * of the output:
 *
 *     out = x̂·weight + bias        dx = r·(g·weight − mean(g·weight) − x̂·mean(g·weight·x̂))        dweight = Σ over rows of g·x̂
 *
 * Sums run in f32. The mean is rounded to f32 before anything is taken from it, and what the rounding left out (`rest`,
 * the mean of x − mean) is taken off, too: rows far from 0 lose nothing, x − mean being exact there.
 *
 * The way back takes rows in the chunks of `norm-backward.ts`, for results that do not depend on how they are dealt out.
 */

import { type Expression, f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { NORM_CHUNK, type NormBackwardSpec } from "./norm-backward.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitSum, type FloatingMode, fma } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type LayerNormSpec = FloatingMode & {
  /** Export name; `layerNorm` unless told. */
  readonly name?: string;
  /** C, elements of a row; any. */
  readonly width: number;
  /** Whether a bias is added. */
  readonly bias: boolean;
};

/**
 * Adds `layerNorm(out, x, weight, bias, from, to, eps: f32)` to a module: rows [from, to) of
 * out [T, C] = (x − mean(x)) / sqrt(variance(x) + eps) · weight [C] + bias [C]; out may be x.
 */
export function emitLayerNorm(module: ModuleBuilder, spec: LayerNormSpec): FunctionHandle {
  const { width } = spec;
  return module.function(spec.name ?? "layerNorm", (f) => {
    const [out, x, weight, bias, from, to] = ["out", "x", "weight", "bias", "from", "to"].map((parameter) =>
      f.parameter(parameter, "i32"),
    );
    const eps = f.parameter("eps", "f32");
    const row = f.local("row", "i32");
    const [outAt, weightAt, biasAt] = ["outAt", "weightAt", "biasAt"].map((name) => f.local(name, "i32"));
    const moments = createMoments(f, spec);
    const { xAt, factor } = moments;

    f.for(row, from, to, 1, () => {
      const start = i32.add(x, i32.mul(row, 4 * width));
      moments.emitMean(start);
      f.set(xAt, start);
      moments.emitSums([[xAt, 4]]);
      moments.emitFactor(eps);

      f.set(xAt, start);
      f.set(outAt, i32.add(out, i32.mul(row, 4 * width)));
      f.set(weightAt, weight);
      f.set(biasAt, bias);
      const addresses = spec.bias ? [xAt, outAt, weightAt, biasAt] : [xAt, outAt, weightAt];
      emitRowLoop(
        f,
        { pointers: addresses.map((address) => [address, 4] as const), count: width },
        () => {
          const scaled = f32x4.mul(moments.centred(v128.load(xAt)), f32x4.splat(factor));
          const four = v128.load(weightAt);
          f.storeVector(outAt, spec.bias ? fma(spec, scaled, four, v128.load(biasAt)) : f32x4.mul(scaled, four));
        },
        () => {
          const scaled = f32.mul(f32.mul(moments.centredOne(f32.load(xAt)), factor), f32.load(weightAt));
          f.store("f32.store", outAt, spec.bias ? f32.add(scaled, f32.load(biasAt)) : scaled);
        },
      );
    });
  });
}

/**
 * Adds `layerNormBackward(dx, sums, dOut, x, weight, rows, from, to, eps: f32)` to a module: chunks [from, to).
 *
 * dx, dOut and x f32 [rows][C], weight f32 [C]; sums f32 [chunks][C], each chunk's share of dweight, zeros before. dx may
 * be dOut when it is not added to.
 */
export function emitLayerNormBackward(module: ModuleBuilder, spec: NormBackwardSpec): FunctionHandle {
  const { width, add } = spec;
  return module.function(spec.name ?? "layerNormBackward", (f) => {
    const [dx, sums, dOut, x, weight, rows, from, to] = [
      ...["dx", "sums", "dOut", "x", "weight", "rows", "from", "to"].map((name) => f.parameter(name, "i32")),
    ];
    const eps = f.parameter("eps", "f32");
    const [chunk, row, end, bytes] = ["chunk", "row", "end", "bytes"].map((name) => f.local(name, "i32"));
    const [dxAt, sumsAt, dOutAt, weightAt] = ["dxAt", "sumsAt", "dOutAt", "weightAt"].map((name) =>
      f.local(name, "i32"),
    );
    const moments = createMoments(f, spec);
    const { xAt, factor, rest } = moments;
    const levels = createRowSum(f, "level");
    const products = createRowSum(f, "product");
    const [g, a, straight] = ["g", "a", "straight"].map((name) => f.local(name, "v128"));
    const [gOne, one] = ["gOne", "one"].map((name) => f.local(name, "f32"));
    const [level, slope] = ["meanLevel", "slope"].map((name) => f.local(name, "f32"));
    const startRow = (): void => {
      f.set(xAt, i32.add(x, bytes));
      f.set(dOutAt, i32.add(dOut, bytes));
      f.set(weightAt, weight);
    };
    const pointers = (...addresses: Local<"i32">[]) => addresses.map((address) => [address, 4] as const);

    f.for(chunk, from, to, 1, () => {
      f.set(row, i32.mul(chunk, NORM_CHUNK));
      f.set(end, i32.add(row, NORM_CHUNK));
      f.if(i32.gtS(end, rows), () => f.set(end, rows));
      f.forAtLeastOnce(row, end, 1, () => {
        f.set(bytes, i32.mul(row, 4 * width));
        moments.emitMean(i32.add(x, bytes));

        startRow();
        levels.emitClear();
        products.emitClear();
        moments.emitSums(
          pointers(xAt, dOutAt, weightAt),
          (i, distance) => {
            f.set(g, f32x4.mul(v128.load(dOutAt, 16 * i), v128.load(weightAt, 16 * i)));
            f.set(levels.vectors[i], f32x4.add(levels.vectors[i], g));
            f.set(products.vectors[i], fma(spec, g, distance, products.vectors[i]));
          },
          (distance) => {
            f.set(gOne, f32.mul(f32.load(dOutAt), f32.load(weightAt)));
            f.set(levels.total, f32.add(levels.total, gOne));
            f.set(products.total, f32.add(products.total, f32.mul(gOne, distance)));
          },
        );
        levels.emitTotal();
        products.emitTotal();
        moments.emitFactor(eps);
        // Σ g·weight·(x − mean − rest), then −r³/C of it.
        f.set(slope, f32.sub(products.total, f32.mul(levels.total, rest)));
        f.set(slope, f32.mul(f32.mul(factor, factor), f32.mul(factor, f32.div(slope, -width))));
        f.set(level, f32.mul(factor, f32.div(levels.total, -width)));

        startRow();
        f.set(dxAt, i32.add(dx, bytes));
        f.set(sumsAt, i32.add(sums, i32.mul(chunk, 4 * width)));
        emitRowLoop(
          f,
          { pointers: pointers(xAt, dOutAt, weightAt, dxAt, sumsAt), count: width },
          () => {
            f.set(a, moments.centred(v128.load(xAt)));
            f.set(g, f32x4.mul(v128.load(dOutAt), f32x4.splat(factor)));
            f.storeVector(sumsAt, fma(spec, g, a, v128.load(sumsAt)));
            f.set(straight, fma(spec, a, f32x4.splat(slope), f32x4.splat(level)));
            f.set(straight, fma(spec, g, v128.load(weightAt), straight));
            f.storeVector(dxAt, add ? f32x4.add(v128.load(dxAt), straight) : straight);
          },
          () => {
            f.set(one, moments.centredOne(f32.load(xAt)));
            f.set(gOne, f32.mul(f32.load(dOutAt), factor));
            f.store("f32.store", sumsAt, f32.add(f32.load(sumsAt), f32.mul(gOne, one)));
            f.set(one, f32.add(f32.mul(one, slope), level));
            f.set(one, f32.add(f32.mul(gOne, f32.load(weightAt)), one));
            f.store("f32.store", dxAt, add ? f32.add(f32.load(dxAt), one) : one);
          },
        );
      });
    });
  });
}

/** Vectors of four that sums take in one turn of their loops. */
const WIDE = 2;

/** A sum over a row. */
type RowSum = {
  /** One for each vector of a turn. */
  readonly vectors: readonly Local<"v128">[];
  /** The elements that fill no vector; after `emitTotal` all. */
  readonly total: Local<"f32">;
  readonly emitClear: () => void;
  readonly emitTotal: () => void;
};

function createRowSum(f: FunctionBuilder, name: string): RowSum {
  const vectors = f.vectors(name, WIDE);
  const total = f.local(`${name}Total`, "f32");
  return {
    vectors,
    total,
    emitClear: () => {
      for (const vector of vectors) f.set(vector, f32x4.const(0));
      f.set(total, 0);
    },
    emitTotal: () => {
      f.set(vectors[0], f32x4.add(vectors[0], vectors[1]));
      f.set(total, f32.add(total, emitSum(f, vectors[0])));
    },
  };
}

/** What is known of one row, and the code that finds it. */
type Moments = {
  /** Where the loops over x are. */
  readonly xAt: Local<"i32">;
  /** Mean of x − mean. */
  readonly rest: Local<"f32">;
  /** r. */
  readonly factor: Local<"f32">;
  /** x − mean − rest. */
  readonly centred: (four: V128) => V128;
  readonly centredOne: (value: Expression<"f32">) => Expression<"f32">;
  /** Finds the mean of the row that begins at an address. */
  readonly emitMean: (start: Expression<"i32">) => void;
  /** Sums what `emitFactor` needs, from `xAt` on, and whatever else is to be summed of x − mean. */
  readonly emitSums: (
    pointers: readonly (readonly [Local<"i32">, number])[],
    four?: (i: number, distance: Local<"v128">) => void,
    one?: (distance: Local<"f32">) => void,
  ) => void;
  readonly emitFactor: (eps: Local<"f32">) => void;
};

function createMoments(f: FunctionBuilder, { width, relaxed }: FloatingMode & { readonly width: number }): Moments {
  const xAt = f.local("xAt", "i32");
  const [mean, rest, factor, single] = ["mean", "rest", "factor", "single"].map((name) => f.local(name, "f32"));
  const distance = f.local("distance", "v128");
  const distances = createRowSum(f, "distance");
  const squares = createRowSum(f, "square");
  return {
    xAt,
    rest,
    factor,
    centred: (four) => f32x4.sub(f32x4.sub(four, f32x4.splat(mean)), f32x4.splat(rest)),
    centredOne: (value) => f32.sub(f32.sub(value, mean), rest),
    emitMean: (start) => {
      f.set(xAt, start);
      distances.emitClear();
      emitRowLoop(
        f,
        { pointers: [[xAt, 4]], count: width, wide: WIDE },
        (i) => f.set(distances.vectors[i], f32x4.add(distances.vectors[i], v128.load(xAt, 16 * i))),
        () => f.set(distances.total, f32.add(distances.total, f32.load(xAt))),
      );
      distances.emitTotal();
      f.set(mean, f32.div(distances.total, width));
    },
    emitSums: (pointers, four, one) => {
      distances.emitClear();
      squares.emitClear();
      emitRowLoop(
        f,
        { pointers, count: width, wide: WIDE },
        (i) => {
          f.set(distance, f32x4.sub(v128.load(xAt, 16 * i), f32x4.splat(mean)));
          f.set(distances.vectors[i], f32x4.add(distances.vectors[i], distance));
          f.set(squares.vectors[i], fma({ relaxed }, distance, distance, squares.vectors[i]));
          four?.(i, distance);
        },
        () => {
          f.set(single, f32.sub(f32.load(xAt), mean));
          f.set(distances.total, f32.add(distances.total, single));
          f.set(squares.total, f32.add(squares.total, f32.mul(single, single)));
          one?.(single);
        },
      );
      distances.emitTotal();
      squares.emitTotal();
    },
    emitFactor: (eps) => {
      f.set(rest, f32.div(distances.total, width));
      // Rounding must not make the variance of a constant row negative.
      f.set(factor, f32.max(0, f32.sub(f32.div(squares.total, width), f32.mul(rest, rest))));
      f.set(factor, f32.div(1, f32.sqrt(f32.add(factor, eps))));
    },
  };
}
