/**
 * Rotation of queries and keys by tables of cosines and sines, in place or on the way to another place (an append to
 * a cache). Reads and writes every number once: memory sets the pace.
 */

import { apply, f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { type FloatingMode, fma } from "./vector-math.ts";

/** Where a token's heads lie, in bytes. */
export type HeadLayout = { readonly tokenStride: number; readonly headStride: number };

/** What the generated code is specialised for. */
export type RotateSpec = FloatingMode & {
  /** Export name; `rotate` unless told. */
  readonly name?: string;
  /** H. */
  readonly heads: number;
  /** D. */
  readonly headDim: number;
  /** R, rotated dims; even. */
  readonly rotaryDim: number;
  /** First rotated dim. */
  readonly rotaryOffset: number;
  readonly pairing: "half" | "interleaved";
  /** Turns the other way, by (cos, −sin): gradients. */
  readonly transpose?: boolean;
  /** [T, H, D] unless told. */
  readonly x?: HeadLayout;
  /** Where results go; x itself unless told. The dims that are not rotated are copied there. */
  readonly out?: HeadLayout;
};

/**
 * Adds `rotate(out, x, cos, sin, from, to)` to a module: tokens [from, to) of x f32 [T, H, D] by tables
 * f32 [T, R/2]. Without an `out` layout in the spec, out must be x.
 */
export function emitRotate(module: ModuleBuilder, spec: RotateSpec): FunctionHandle {
  const { heads, headDim, rotaryDim, rotaryOffset } = spec;
  const input = spec.x ?? { tokenStride: 4 * heads * headDim, headStride: 4 * headDim };
  const output = spec.out ?? input;
  return module.function(spec.name ?? "rotate", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const cos = f.parameter("cos", "i32");
    const sin = f.parameter("sin", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const token = f.local("token", "i32");
    const head = f.local("head", "i32");
    const xAt = f.local("xAt", "i32");
    const outAt = f.local("outAt", "i32");
    const copyDims = createCopy(f, outAt, xAt);
    const rotateHead = createRotation(f, spec, { outAt, xAt });
    const place = (base: Local<"i32">, { tokenStride, headStride }: HeadLayout, dim: number) =>
      i32.add(base, i32.add(i32.mul(token, tokenStride), i32.add(i32.mul(head, headStride), 4 * dim)));
    const start = (dim: number): void => {
      f.set(xAt, place(x, input, dim));
      f.set(outAt, place(out, output, dim));
    };
    const one = (): void => {
      if (spec.out) {
        start(0);
        copyDims(rotaryOffset);
        start(rotaryOffset + rotaryDim);
        copyDims(headDim - rotaryOffset - rotaryDim);
      }
      start(rotaryOffset);
      const row = i32.mul(token, 2 * rotaryDim);
      rotateHead(i32.add(cos, row), i32.add(sin, row));
    };
    // In the order in which x lies in memory.
    if (input.headStride > input.tokenStride) f.for(head, 0, heads, 1, () => f.for(token, from, to, 1, one));
    else f.for(token, from, to, 1, () => f.for(head, 0, heads, 1, one));
  });
}

function createCopy(f: FunctionBuilder, outAt: Local<"i32">, xAt: Local<"i32">): (dims: number) => void {
  return (dims) => {
    if (dims === 0) return;
    emitRowLoop(
      f,
      {
        pointers: [
          [xAt, 4],
          [outAt, 4],
        ],
        count: dims,
      },
      () => f.storeVector(outAt, v128.load(xAt)),
      () => f.store("f32.store", outAt, f32.load(xAt)),
    );
  };
}

/** Rotates the R dims at `xAt` into `outAt`; four pairs at a time, then one at a time. */
function createRotation(
  f: FunctionBuilder,
  spec: RotateSpec,
  { outAt, xAt }: Record<"outAt" | "xAt", Local<"i32">>,
): (cos: ReturnType<typeof i32.add>, sin: ReturnType<typeof i32.add>) => void {
  const pairs = spec.rotaryDim / 2;
  const isHalf = spec.pairing === "half";
  const partner = isHalf ? 4 * pairs : 4; // bytes from the first dim of a pair to its second
  const cosAt = f.local("cosAt", "i32");
  const sinAt = f.local("sinAt", "i32");
  const [c, s, first, second, a, b] = ["c", "s", "first", "second", "a", "b"].map((name) => f.local(name, "v128"));
  const one = f.local("one", "f32");
  const other = f.local("other", "f32");

  return (cos, sin) => {
    f.set(cosAt, cos);
    f.set(sinAt, sin);
    const dimsBytes = isHalf ? 4 : 8;
    emitRowLoop(
      f,
      {
        pointers: [
          [cosAt, 4],
          [sinAt, 4],
          [xAt, dimsBytes],
          [outAt, dimsBytes],
        ],
        count: pairs,
      },
      () => {
        f.set(c, v128.load(cosAt));
        f.set(s, spec.transpose ? f32x4.neg(v128.load(sinAt)) : v128.load(sinAt));
        f.set(a, v128.load(xAt));
        f.set(b, v128.load(xAt, isHalf ? partner : 16));
        f.set(first, isHalf ? a : f32x4.shuffle(a, b, 0, 2, 4, 6));
        f.set(second, isHalf ? b : f32x4.shuffle(a, b, 1, 3, 5, 7));
        f.set(a, minusProduct(spec, f32x4.mul(first, c), second, s));
        f.set(b, fma(spec, first, s, f32x4.mul(second, c)));
        f.storeVector(outAt, isHalf ? a : f32x4.shuffle(a, b, 0, 4, 1, 5));
        f.storeVector(outAt, isHalf ? b : f32x4.shuffle(a, b, 2, 6, 3, 7), isHalf ? partner : 16);
      },
      () => {
        f.set(one, f32.load(xAt));
        f.set(other, f32.load(xAt, partner));
        const [cosine, sine] = [f32.load(cosAt), spec.transpose ? f32.neg(f32.load(sinAt)) : f32.load(sinAt)];
        f.store("f32.store", outAt, f32.sub(f32.mul(one, cosine), f32.mul(other, sine)));
        f.store("f32.store", outAt, f32.add(f32.mul(other, cosine), f32.mul(one, sine)), partner);
      },
    );
  };
}

/** c − a·b. */
function minusProduct({ relaxed }: FloatingMode, c: V128, a: V128, b: V128): V128 {
  return relaxed ? apply("f32x4.relaxed_nmadd", [a, b, c]) : f32x4.sub(c, f32x4.mul(a, b));
}
