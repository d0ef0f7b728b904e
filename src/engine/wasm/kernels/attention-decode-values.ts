/**
 * The product of probabilities and values of a tile in the decode kernel.
 */

import { f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder } from "../assembler/function.ts";
import { emitAhead, emitAheadStart, emitLoad, loadScale, stepBytes } from "./attention-decode-elements.ts";
import {
  type DecodeLocals,
  type DecodeScratch,
  type DecodeSpec,
  emitTokenLoop,
  rowBlocks,
} from "./attention-decode-rows.ts";
import { fma } from "./vector-math.ts";

/** output = output · factor + probabilities · values, values in the unit they are loaded in. */
export function emitValues(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { values, from } = locals;
  emitFactors(f, spec, layout, locals);
  emitTokenLoop(f, spec, layout, locals, { side: spec.values, start: values, scores: from }, (wide) =>
    emitTokens(f, spec, layout, locals, wide),
  );
}

/** output = output · factor, where the factor is not 1. */
function emitFactors(
  f: FunctionBuilder,
  { heads, valueDim }: DecodeSpec,
  layout: DecodeScratch,
  { scratch, head, end, into, value, work: [factor] }: DecodeLocals,
): void {
  f.set(into, i32.add(scratch, layout.output));
  f.for(head, 0, heads, 1, () => {
    f.set(end, i32.add(into, valueDim * 4));
    f.set(value, f32.load(i32.add(scratch, i32.shl(head, 2)), layout.factor));
    f.if(
      f32.eq(value, 1),
      () => f.set(into, end),
      () => {
        f.set(factor, f32x4.splat(value));
        f.doWhile(
          () => {
            f.storeVector(into, f32x4.mul(v128.load(into), factor));
            f.set(into, i32.add(into, 16));
          },
          () => i32.ltU(into, end),
        );
      },
    );
  });
}

/** output += probabilities · values for `wide` tokens from `row` on, whose probabilities are at `from`. */
function emitTokens(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  locals: DecodeLocals,
  wide: 1 | 2,
): void {
  const { scratch, key, row, head, at, end, into, from, scale, work } = locals;
  const { values, valueDim, group, heads } = spec;
  const rowBytes = valueDim * 4;
  const bytes = stepBytes(values);
  const scales = work.slice(8, 8 + wide);
  const tokens = work.slice(10, 10 + wide);
  const spare = work[12];
  if (wide === 2) emitAheadStart(f, values, locals);
  f.set(at, row);
  f.set(into, i32.add(scratch, layout.output));
  if (values.scaleStride > 0) f.set(scale, i32.add(locals.valueScales, i32.mul(key, values.scaleStride)));
  f.for(head, 0, heads * 4, group * 4, () => {
    if (values.scaleStride > 0) {
      for (const [n, x] of scales.entries()) f.set(x, f32x4.splat(loadScale(values, scale, n * values.scaleStride, 1)));
      f.set(scale, i32.add(scale, values.scaleHead));
    }
    for (const { first, rows } of rowBlocks(group)) {
      if (first > 0) f.set(at, i32.sub(at, (valueDim / 4) * bytes));
      const probabilities = tokens.map((_, n) => work.slice(n * rows, (n + 1) * rows));
      for (const [n, own] of probabilities.entries()) {
        for (const [r, p] of own.entries()) {
          const splat = v128.load32Splat(i32.add(from, head), n * layout.pitch + (first + r) * 4);
          f.set(p, values.scaleStride > 0 ? f32x4.mul(splat, scales[n]) : splat);
        }
      }
      const steps = rows * wide <= 2 && valueDim % 8 === 0 ? 2 : 1;
      f.set(end, i32.add(into, rowBytes));
      f.doWhile(
        () => {
          if (wide === 2 && first === 0) emitAhead(f, values, locals, steps);
          for (let step = 0; step < steps; step++) {
            for (const [n, token] of tokens.entries()) {
              emitLoad(f, values, locals, at, n * values.stride + step * bytes, token, spare);
            }
            for (let r = 0; r < rows; r++) {
              const offset = r * rowBytes + step * 16;
              let sum: V128 = v128.load(into, offset);
              for (const [n, token] of tokens.entries()) sum = fma(spec, token, probabilities[n][r], sum);
              f.storeVector(into, sum, offset);
            }
          }
          f.set(at, i32.add(at, steps * bytes));
          f.set(into, i32.add(into, steps * 16));
        },
        () => i32.ltU(into, end),
      );
      f.set(into, i32.add(into, (rows - 1) * rowBytes));
    }
  });
}
