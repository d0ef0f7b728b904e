/**
 * Conversions between f32 and the 16-bit floats, for every value: subnormals, infinities, NaN; to nearest, ties to
 * even.
 */

import { f32x4, i32, i32x4, narrow, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";

/** A conversion, from one type to the other. */
export type ConvertSpec = {
  /** Export name; `convert` unless told. */
  readonly name?: string;
} & ({ readonly from: "f32"; readonly to: "f16" | "bf16" } | { readonly from: "f16" | "bf16"; readonly to: "f32" });

/** Adds `convert(out, x, from, to)` to a module: elements [from, to); out and x do not overlap. */
export function emitConvert(module: ModuleBuilder, spec: ConvertSpec): FunctionHandle {
  return module.function(spec.name ?? "convert", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const value = f.local("value", "v128");
    const work = f.local("work", "v128");
    const narrows = spec.from === "f32";
    const convert = narrows ? (spec.to === "f16" ? toF16 : toBf16) : spec.from === "f16" ? fromF16 : fromBf16;
    const [outBytes, xBytes] = narrows ? [2, 4] : [4, 2];
    f.set(out, i32.add(out, i32.mul(from, outBytes)));
    f.set(x, i32.add(x, i32.mul(from, xBytes)));
    const run = (load: V128, store: (result: V128) => void): void => {
      f.set(value, load);
      store(convert(f, value, work));
    };
    emitRowLoop(
      f,
      {
        pointers: [
          [out, outBytes],
          [x, xBytes],
        ],
        count: i32.sub(to, from),
      },
      () => {
        if (narrows) {
          run(v128.load(x), (bits) => f.store("v128.store64_lane", out, narrow.i32ToU16(bits, bits)));
        } else run(v128.load16x4U(x), (result) => f.storeVector(out, result));
      },
      () => {
        if (narrows) run(v128.load32Zero(x), (bits) => f.store("i32.store16", out, i32x4.lane(bits, 0)));
        else run(i32x4.splat(i32.load16u(x)), (result) => f.store("f32.store", out, f32x4.lane(result, 0)));
      },
    );
  });
}

type Convert = (f: FunctionBuilder, value: Local<"v128">, work: Local<"v128">) => V128;

const MAGNITUDE = i32x4.const(0x7fffffff);
const F32_INFINITY = 0x7f800000;

/** i32 lanes with the bits of bf16 from f32. */
const toBf16: Convert = (f, value) => {
  const notANumber = i32x4.gtS(v128.and(value, MAGNITUDE), i32x4.const(F32_INFINITY));
  const odd = v128.and(i32x4.shrU(value, 16), i32x4.const(1));
  const rounded = i32x4.shrU(i32x4.add(i32x4.add(value, i32x4.const(0x7fff)), odd), 16);
  f.set(value, v128.select(i32x4.const(0x7fc0), rounded, notANumber));
  return value;
};

/** f32 from i32 lanes with the bits of bf16. */
const fromBf16: Convert = (_, value) => i32x4.shl(value, 16);

/** i32 lanes with the bits of f16 from f32. */
const toF16: Convert = (f, value, work) => {
  f.set(work, v128.and(value, MAGNITUDE));
  const sign = v128.and(i32x4.shrU(value, 16), i32x4.const(0x8000));
  const odd = v128.and(i32x4.shrU(work, 13), i32x4.const(1));
  // The exponent's bias changes from 127 to 15; a carry of the rounding moves into the exponent.
  const normal = i32x4.shrU(i32x4.add(i32x4.add(work, i32x4.const(0xfff - (112 << 23))), odd), 13);
  // Steps of f32 next to 0.5 are those of f16 next to 0: the addition rounds.
  const subnormal = i32x4.sub(f32x4.add(work, f32x4.const(0.5)), f32x4.const(0.5));
  const finite = v128.select(subnormal, normal, i32x4.ltS(work, i32x4.const(113 << 23)));
  const tooLarge = i32x4.gtS(work, i32x4.const(0x477fefff)); // from 65520 on
  const notANumber = i32x4.gtS(work, i32x4.const(F32_INFINITY));
  const special = v128.select(i32x4.const(0x7e00), i32x4.const(0x7c00), notANumber);
  f.set(value, v128.or(v128.select(special, finite, tooLarge), sign));
  return value;
};

/** f32 from i32 lanes with the bits of f16; `value` and `work` are overwritten. */
export const fromF16: Convert = (f, value, work) => {
  f.set(work, i32x4.shl(v128.and(value, i32x4.const(0x7fff)), 13));
  const sign = i32x4.shl(v128.and(value, i32x4.const(0x8000)), 16);
  const special = v128.and(i32x4.gtS(work, i32x4.const(0x0f7fffff)), i32x4.const(F32_INFINITY));
  f.set(value, v128.or(sign, special));
  // Exact for subnormals too; infinities and NaN get their exponent from `special`.
  return v128.or(f32x4.mul(work, f32x4.const(2 ** 112)), value);
};
