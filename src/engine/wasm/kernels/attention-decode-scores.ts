/**
 * Scores of the keys of a tile in the decode kernel.
 */

import { f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { emitAhead, emitAheadStart, emitLoad, loadedUnit, loadScale, stepBytes } from "./attention-decode-elements.ts";
import {
  type DecodeLocals,
  type DecodeScratch,
  type DecodeSpec,
  emitTokenLoop,
  rowBlocks,
} from "./attention-decode-rows.ts";
import { emitSum, emitSumFour, fma } from "./vector-math.ts";

/** scores[key][head] = k[key] · q[head]; −Infinity for keys that are not seen. */
export function emitScores(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { scratch, keys, count, bits, key, into } = locals;
  emitTokenLoop(f, spec, layout, locals, { side: spec.keys, start: keys, scores: into }, (wide) =>
    emitTokens(f, spec, layout, locals, wide),
  );
  f.if(bits, () => {
    f.set(into, i32.add(scratch, layout.scores));
    f.for(key, 0, count, 1, () => {
      f.if(i32.eqz(i32.and(i32.load8u(i32.add(bits, key)), 1)), () => {
        for (let group = 0; group < layout.pitch; group += 16) f.storeVector(into, f32x4.const(-Infinity), group);
      });
      f.set(into, i32.add(into, layout.pitch));
    });
  });
}

/** Scores of `wide` tokens from `row` on, all heads, to `into`. */
function emitTokens(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  locals: DecodeLocals,
  wide: 1 | 2,
): void {
  const { scratch, key, row, head, at, other, into, scale, work } = locals;
  const { keys, keyDim, group, heads } = spec;
  const rowBytes = keyDim * 4;
  const headBytes = (keyDim / 4) * stepBytes(keys);
  if (wide === 2) emitAheadStart(f, keys, locals);
  f.set(at, row);
  f.set(other, i32.add(scratch, layout.queries));
  const scales = work.slice(8, 8 + wide);
  if (keys.scaleStride > 0) f.set(scale, i32.add(locals.keyScales, i32.mul(key, keys.scaleStride)));
  const scaled = (n: number, dots: V128): V128 => (keys.scaleStride > 0 ? f32x4.mul(dots, scales[n]) : dots);
  f.for(head, 0, heads * 4, group * 4, () => {
    if (keys.scaleStride > 0) {
      for (const [n, x] of scales.entries())
        f.set(x, f32x4.splat(loadScale(keys, scale, n * keys.scaleStride, loadedUnit(keys))));
      f.set(scale, i32.add(scale, keys.scaleHead));
    }
    for (const { first, rows } of rowBlocks(group)) {
      if (first > 0) f.set(at, i32.sub(at, headBytes));
      const dots = emitDots(f, spec, locals, rows, wide, first === 0);
      f.set(other, i32.add(other, (rows - 1) * rowBytes));
      const target = i32.add(into, head);
      for (const [n, sums] of dots.entries()) {
        const offset = n * layout.pitch + first * 4;
        const [a, b, c, d] = sums;
        if (rows === 4) {
          f.storeVector(target, scaled(n, emitSumFour(f, [a, b, c, d])), offset);
        } else {
          for (const [r, sum] of sums.entries()) {
            f.set(sum, scaled(n, sum));
            f.store("f32.store", target, emitSum(f, sum), offset + 4 * r);
          }
        }
      }
    }
  });
}

/** Dot products of `wide` tokens and `rows` queries, in four partial sums: [token][row]. Advances both pointers. */
function emitDots(
  f: FunctionBuilder,
  spec: DecodeSpec,
  locals: DecodeLocals,
  rows: number,
  wide: number,
  ahead: boolean,
): Local<"v128">[][] {
  const { at, other, end, work } = locals;
  const { keys, keyDim } = spec;
  const rowBytes = keyDim * 4;
  const bytes = stepBytes(keys);
  // Few sums are chains of few additions; more of them run side by side.
  const most = Math.max(1, Math.floor(4 / (rows * wide)));
  const steps = keyDim % (4 * most) === 0 ? most : 1;
  const sums = work.slice(0, rows * wide * steps);
  const tokens = work.slice(10, 10 + wide);
  const x = work[12];
  const sumOf = (n: number, r: number, step: number): Local<"v128"> => sums[(n * rows + r) * steps + step];
  for (const sum of sums) f.set(sum, f32x4.const(0));
  f.set(end, i32.add(other, rowBytes));
  f.doWhile(
    () => {
      if (wide === 2 && ahead) emitAhead(f, keys, locals, steps);
      for (let step = 0; step < steps; step++) {
        for (const [n, token] of tokens.entries()) {
          emitLoad(f, keys, locals, at, n * keys.stride + step * bytes, token, x);
        }
        for (let r = 0; r < rows; r++) {
          f.set(x, v128.load(other, r * rowBytes + step * 16));
          for (const [n, token] of tokens.entries()) f.set(sumOf(n, r, step), fma(spec, x, token, sumOf(n, r, step)));
        }
      }
      f.set(at, i32.add(at, steps * bytes));
      f.set(other, i32.add(other, steps * 16));
    },
    () => i32.ltU(other, end),
  );
  return tokens.map((_, n) =>
    Array.from({ length: rows }, (__, r) => {
      const sum = sumOf(n, r, 0);
      for (let step = 1; step < steps; step++) f.set(sum, f32x4.add(sum, sumOf(n, r, step)));
      return sum;
    }),
  );
}
