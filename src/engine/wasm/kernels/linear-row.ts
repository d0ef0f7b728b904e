/**
 * A linear layer of one token: every weight is read once, in order, so memory sets the pace. The processor's prefetcher
 * follows one stream best: one row at a time, or four that are interleaved, which need the inputs once instead of four times.
 */

import { INTERLEAVED_ROWS, PIECE_BYTES, PIECES_APART } from "../../interleaved-rows.ts";
import { type Expression, f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder } from "../assembler/function.ts";
import type { LinearParameters, LinearSpec } from "./linear.ts";
import { emitSum, emitSumFour, fma } from "./vector-math.ts";
import { createWeightReader, type WeightReader, weightBytes, weightStep } from "./weights.ts";

/**
 * out[n] = x · weight[n] + bias[n] for n from `from` to `to`.
 *
 * @param factor - what the products are to be multiplied by
 */
export function emitOneToken(
  f: FunctionBuilder,
  spec: LinearSpec,
  { out, x, weight, scales, bias, from, to }: LinearParameters,
  reader: WeightReader,
  factor = 1,
): void {
  const { inputs, weightType } = spec;
  const step = weightStep(weightType);
  const rest = inputs % step;
  const sums = f.vectors("rowSum", 4);
  const total = f.local("total", "f32");
  const row = f.local("row", "i32");
  const weightAt = f.local("weightHere", "i32");
  const inputAt = f.local("inputHere", "i32");
  const inputEnd = f.local("inputStop", "i32", i32.add(x, 4 * (inputs - rest)));
  const restEnd = i32.add(x, 4 * inputs);

  f.for(row, from, to, 1, () => {
    f.set(weightAt, i32.add(weight, i32.mul(row, weightBytes(weightType, inputs))));
    f.set(inputAt, x);
    reader.startRow(i32.add(scales, i32.shl(row, 2)));
    for (const sum of sums) f.set(sum, f32x4.const(0));
    f.while(
      () => i32.ltU(inputAt, inputEnd),
      () => {
        reader.unpack(weightAt, (i, four) => {
          f.set(sums[i], fma(spec, four, v128.load(inputAt, 16 * i), sums[i]));
        });
        f.set(weightAt, i32.add(weightAt, weightBytes(weightType, step)));
        f.set(inputAt, i32.add(inputAt, 4 * step));
      },
    );
    f.set(sums[0], f32x4.add(f32x4.add(sums[0], sums[1]), f32x4.add(sums[2], sums[3])));
    if (reader.scale) f.set(sums[0], f32x4.mul(sums[0], reader.scale));
    if (factor !== 1) f.set(sums[0], f32x4.mul(sums[0], f32x4.const(factor)));
    f.set(total, emitSum(f, sums[0]));
    if (rest > 0) {
      f.doWhile(
        () => {
          f.set(total, f32.add(total, f32.mul(reader.one(weightAt), f32.load(inputAt))));
          f.set(weightAt, i32.add(weightAt, weightBytes(weightType, 1)));
          f.set(inputAt, i32.add(inputAt, 4));
        },
        () => i32.ltU(inputAt, restEnd),
      );
    }
    const column = (base: Expression<"i32">): Expression<"i32"> => i32.add(base, i32.shl(row, 2));
    f.store("f32.store", column(out), spec.bias ? f32.add(total, f32.load(column(bias))) : total);
  });
}

/**
 * f16 weights are bits moved to an f32's place, 2^−112 times what they stand for. Some of that is made good in the inputs,
 * the rest in the sums, so that nothing is left to do for each weight; in halves, so that nothing overflows or vanishes.
 */
const INPUT_FACTOR = 2 ** 48;
const SUM_FACTOR = 2 ** 64;

/** Whether weights are f16 in whole turns of the loop. */
export function hasHalves({ weightType, inputs }: Pick<LinearSpec, "weightType" | "inputs">): boolean {
  return weightType === "f16" && inputs % weightStep("f16") === 0;
}

/** The same with f16 weights, for inputs below 2^80. */
export function emitOneTokenHalves(f: FunctionBuilder, spec: LinearSpec, parameters: LinearParameters): void {
  const { x, scratch } = parameters;
  const from = f.local("inputsFrom", "i32", x);
  const at = f.local("inputsAt", "i32", scratch);
  const end = f.local("inputsEnd", "i32", i32.add(scratch, 4 * spec.inputs));
  f.doWhile(
    () => {
      f.storeVector(at, f32x4.mul(v128.load(from), f32x4.const(INPUT_FACTOR)));
      f.set(from, i32.add(from, 16));
      f.set(at, i32.add(at, 16));
    },
    () => i32.ltU(at, end),
  );
  const reader = createWeightReader(f, "f16", false);
  emitOneToken(f, spec, { ...parameters, x: scratch }, reader, SUM_FACTOR);
}

/** The same with interleaved rows of f32, eight inputs a turn; `from` and `to` are multiples of 4. */
export function emitOneTokenInterleaved(
  f: FunctionBuilder,
  spec: LinearSpec,
  { out, x, weight, bias, from, to }: LinearParameters,
): void {
  const { inputs } = spec;
  const fours = f.vectors("inputFour", 2);
  const sums = f.vectors("rowSum", INTERLEAVED_ROWS);
  const row = f.local("row", "i32");
  const weightAt = f.local("weightHere", "i32", i32.add(weight, i32.mul(from, 4 * inputs)));
  const inputAt = f.local("inputHere", "i32");
  const inputEnd = f.local("inputStop", "i32", i32.add(x, 4 * inputs));

  f.for(row, from, to, INTERLEAVED_ROWS, () => {
    f.set(inputAt, x);
    for (const sum of sums) f.set(sum, f32x4.const(0));
    f.doWhile(
      () => {
        for (const [i, four] of fours.entries()) f.set(four, v128.load(inputAt, 16 * i));
        for (const [i, four] of fours.entries()) {
          for (const [r, sum] of sums.entries()) {
            f.set(sum, fma(spec, v128.load(weightAt, i * PIECES_APART + r * PIECE_BYTES), four, sum));
          }
        }
        f.set(weightAt, i32.add(weightAt, 2 * PIECES_APART));
        f.set(inputAt, i32.add(inputAt, 32));
      },
      () => i32.ltU(inputAt, inputEnd),
    );
    f.set(sums[0], emitSumFour(f, [sums[0], sums[1], sums[2], sums[3]]));
    const columns = (base: Expression<"i32">): Expression<"i32"> => i32.add(base, i32.shl(row, 2));
    if (spec.bias) f.set(sums[0], f32x4.add(sums[0], v128.load(columns(bias))));
    f.storeVector(columns(out), sums[0]);
  });
}
