/**
 * Typed WebAssembly expressions. An expression is a tree of instructions; numbers stand for constants.
 */

import { type Instruction, instruction, type ValueType } from "./instructions.ts";

/** A value of a known type. */
export type Expression<T extends ValueType = ValueType> = {
  readonly type: T;
  readonly node: ExpressionNode;
};

/** What an expression does. */
export type ExpressionNode =
  | { readonly kind: "local"; readonly index: number; readonly name: string }
  | { readonly kind: "call"; readonly index: number; readonly name: string; readonly args: readonly Expression[] }
  | {
      readonly kind: "instruction";
      readonly instruction: Instruction;
      readonly args: readonly Expression[];
      /** Constant value, lane, shuffle lanes, or [offset, lane] of a memory access. */
      readonly immediate: readonly number[];
    };

/** An i32, or a number that becomes a constant. */
export type I32 = Expression<"i32"> | number;
/** An f32, or a number that becomes a constant. */
export type F32 = Expression<"f32"> | number;
/** A 128-bit vector. */
export type V128 = Expression<"v128">;

/**
 * An instruction applied to operands.
 *
 * @throws Error when the operands do not fit: a mistake in an emitter
 */
export function apply<T extends ValueType>(
  name: string,
  args: readonly (Expression | number)[],
  immediate: readonly number[] = [],
): Expression<T> {
  const found = instruction(name);
  const lifted = args.map((arg, i) => lift(found.operands[i], arg));
  const types = lifted.map((arg) => arg.type).join(" ");
  if (types !== found.operands.join(" ")) {
    throw new Error(`assembler: ${name} takes (${found.operands.join(" ")}); got (${types})`);
  }
  return { type: found.result as T, node: { kind: "instruction", instruction: found, args: lifted, immediate } };
}

function lift(type: ValueType | undefined, value: Expression | number): Expression {
  if (typeof value !== "number") return value;
  if (type === "f32") return apply("f32.const", [], [value]);
  if (type === "f64") return apply("f64.const", [], [value]);
  return apply("i32.const", [], [value]);
}

type Binary<A, T extends ValueType> = (a: A, b: A) => Expression<T>;
type Unary<A, T extends ValueType> = (a: A) => Expression<T>;
/** An access at address + offset; the offset is a constant of the instruction. */
type Load<T extends ValueType> = (address: I32, offset?: number) => Expression<T>;

const binary =
  <A extends Expression | number, T extends ValueType>(name: string): Binary<A, T> =>
  (a, b) =>
    apply(name, [a, b]);
const unary =
  <A extends Expression | number, T extends ValueType>(name: string): Unary<A, T> =>
  (a) =>
    apply(name, [a]);
const load =
  <T extends ValueType>(name: string): Load<T> =>
  (address, offset = 0) =>
    apply(name, [address], [offset]);

const i32Binary = (name: string): Binary<I32, "i32"> => binary(`i32.${name}`);
const f32Binary = (name: string): Binary<F32, "f32"> => binary(`f32.${name}`);
const vector = (name: string): Binary<V128, "v128"> => binary(name);

/** 32-bit integers, and comparisons as 0 or 1. Sums and products of constants are constants. */
export const i32 = {
  const: (value: number): Expression<"i32"> => apply("i32.const", [], [value]),
  load: load<"i32">("i32.load"),
  load8u: load<"i32">("i32.load8_u"),
  load8s: load<"i32">("i32.load8_s"),
  load16s: load<"i32">("i32.load16_s"),
  load16u: load<"i32">("i32.load16_u"),
  add: (a: I32, b: I32): Expression<"i32"> => {
    if (typeof a === "number" && typeof b === "number") return i32.const(a + b);
    return b === 0 && typeof a !== "number" ? a : apply("i32.add", [a, b]);
  },
  sub: i32Binary("sub"),
  mul: (a: I32, b: I32): Expression<"i32"> => {
    if (typeof a === "number" && typeof b === "number") return i32.const(Math.imul(a, b));
    return apply("i32.mul", [a, b]);
  },
  divS: i32Binary("div_s"),
  divU: i32Binary("div_u"),
  remU: i32Binary("rem_u"),
  and: i32Binary("and"),
  or: i32Binary("or"),
  xor: i32Binary("xor"),
  shl: i32Binary("shl"),
  shrU: i32Binary("shr_u"),
  shrS: i32Binary("shr_s"),
  eq: i32Binary("eq"),
  ne: i32Binary("ne"),
  ltS: i32Binary("lt_s"),
  ltU: i32Binary("lt_u"),
  gtS: i32Binary("gt_s"),
  gtU: i32Binary("gt_u"),
  leS: i32Binary("le_s"),
  geS: i32Binary("ge_s"),
  eqz: unary<I32, "i32">("i32.eqz"),
  reinterpretF32: unary<F32, "i32">("i32.reinterpret_f32"),
  atomicLoad: load<"i32">("i32.atomic.load"),
  atomicAdd: (address: I32, value: I32, offset = 0): Expression<"i32"> =>
    apply("i32.atomic.rmw.add", [address, value], [offset]),
} as const;

/** 32-bit floats. */
export const f32 = {
  const: (value: number): Expression<"f32"> => apply("f32.const", [], [value]),
  load: load<"f32">("f32.load"),
  add: f32Binary("add"),
  sub: f32Binary("sub"),
  mul: f32Binary("mul"),
  div: f32Binary("div"),
  min: f32Binary("min"),
  max: f32Binary("max"),
  sqrt: unary<F32, "f32">("f32.sqrt"),
  neg: unary<F32, "f32">("f32.neg"),
  abs: unary<F32, "f32">("f32.abs"),
  eq: binary<F32, "i32">("f32.eq"),
  lt: binary<F32, "i32">("f32.lt"),
  gt: binary<F32, "i32">("f32.gt"),
  convertI32: unary<I32, "f32">("f32.convert_i32_s"),
  reinterpretI32: unary<I32, "f32">("f32.reinterpret_i32"),
} as const;

/** Vectors as bits, and their loads. */
export const v128 = {
  load: load<"v128">("v128.load"),
  load32Splat: load<"v128">("v128.load32_splat"),
  load16Splat: load<"v128">("v128.load16_splat"),
  load8Splat: load<"v128">("v128.load8_splat"),
  load32Zero: load<"v128">("v128.load32_zero"),
  load64Zero: load<"v128">("v128.load64_zero"),
  load8x8S: load<"v128">("v128.load8x8_s"),
  load16x4S: load<"v128">("v128.load16x4_s"),
  load16x4U: load<"v128">("v128.load16x4_u"),
  and: vector("v128.and"),
  /** a & ~b. */
  andNot: vector("v128.andnot"),
  or: vector("v128.or"),
  xor: vector("v128.xor"),
  not: unary<V128, "v128">("v128.not"),
  anyTrue: unary<V128, "i32">("v128.any_true"),
  /** Bits of a where the mask is 1, of b where it is 0. */
  select: (a: V128, b: V128, mask: V128): V128 => apply("v128.bitselect", [a, b, mask]),
  /** Four 32-bit constants, given as unsigned or signed words. */
  words: (a: number, b: number, c: number, d: number): V128 => apply("v128.const", [], [a, b, c, d]),
} as const;

/** Four 32-bit integers. */
export const i32x4 = {
  splat: unary<I32, "v128">("i32x4.splat"),
  add: vector("i32x4.add"),
  sub: vector("i32x4.sub"),
  mul: vector("i32x4.mul"),
  eq: vector("i32x4.eq"),
  ne: vector("i32x4.ne"),
  gtS: vector("i32x4.gt_s"),
  geS: vector("i32x4.ge_s"),
  ltS: vector("i32x4.lt_s"),
  leS: vector("i32x4.le_s"),
  minS: vector("i32x4.min_s"),
  /** Eight products of i16, added two by two. */
  dotI16: vector("i32x4.dot_i16x8_s"),
  abs: unary<V128, "v128">("i32x4.abs"),
  shl: (a: V128, bits: I32): V128 => apply("i32x4.shl", [a, bits]),
  shrS: (a: V128, bits: I32): V128 => apply("i32x4.shr_s", [a, bits]),
  shrU: (a: V128, bits: I32): V128 => apply("i32x4.shr_u", [a, bits]),
  truncSatF32: unary<V128, "v128">("i32x4.trunc_sat_f32x4_s"),
  extendLowI16S: unary<V128, "v128">("i32x4.extend_low_i16x8_s"),
  extendHighI16S: unary<V128, "v128">("i32x4.extend_high_i16x8_s"),
  extendLowI16U: unary<V128, "v128">("i32x4.extend_low_i16x8_u"),
  extendHighI16U: unary<V128, "v128">("i32x4.extend_high_i16x8_u"),
  lane: (a: V128, lane: number): Expression<"i32"> => apply("i32x4.extract_lane", [a], [lane]),
  replaceLane: (a: V128, lane: number, value: I32): V128 => apply("i32x4.replace_lane", [a, value], [lane]),
  /** The same constant in all four lanes. */
  const: (value: number): V128 => v128.words(value, value, value, value),
} as const;

/** Eight 16-bit integers. */
export const i16x8 = {
  shrU: (a: V128, bits: I32): V128 => apply("i16x8.shr_u", [a, bits]),
} as const;

/** Four 32-bit floats. */
export const f32x4 = {
  splat: unary<F32, "v128">("f32x4.splat"),
  add: vector("f32x4.add"),
  sub: vector("f32x4.sub"),
  mul: vector("f32x4.mul"),
  div: vector("f32x4.div"),
  min: vector("f32x4.min"),
  max: vector("f32x4.max"),
  /** b < a ? b : a. */
  pmin: vector("f32x4.pmin"),
  /** a < b ? b : a; one instruction on x86, unlike max. */
  pmax: vector("f32x4.pmax"),
  eq: vector("f32x4.eq"),
  lt: vector("f32x4.lt"),
  gt: vector("f32x4.gt"),
  ge: vector("f32x4.ge"),
  abs: unary<V128, "v128">("f32x4.abs"),
  neg: unary<V128, "v128">("f32x4.neg"),
  sqrt: unary<V128, "v128">("f32x4.sqrt"),
  nearest: unary<V128, "v128">("f32x4.nearest"),
  floor: unary<V128, "v128">("f32x4.floor"),
  convertI32: unary<V128, "v128">("f32x4.convert_i32x4_s"),
  lane: (a: V128, lane: number): Expression<"f32"> => apply("f32x4.extract_lane", [a], [lane]),
  replaceLane: (a: V128, lane: number, value: F32): V128 => apply("f32x4.replace_lane", [a, value], [lane]),
  /** The same constant in all four lanes. */
  const: (value: number): V128 => {
    const word = wordOf(value);
    return v128.words(word, word, word, word);
  },
  /** 32-bit lanes picked from a (0–3) and b (4–7). */
  shuffle: (a: V128, b: V128, ...lanes: readonly [number, number, number, number]): V128 =>
    apply(
      "i8x16.shuffle",
      [a, b],
      lanes.flatMap((lane) => [0, 1, 2, 3].map((byte) => lane * 4 + byte)),
    ),
} as const;

/** Two 64-bit floats. */
export const f64x2 = {
  splat: unary<Expression<"f64"> | number, "v128">("f64x2.splat"),
  mul: vector("f64x2.mul"),
  div: vector("f64x2.div"),
  nearest: unary<V128, "v128">("f64x2.nearest"),
  /** Two i32, then zeros. */
  truncSatI32: unary<V128, "v128">("i32x4.trunc_sat_f64x2_s_zero"),
  /** The first two f32 lanes as f64. */
  promoteLowF32: unary<V128, "v128">("f64x2.promote_low_f32x4"),
} as const;

/** Numbers made narrower; those that do not fit become the nearest that does. */
export const narrow = {
  /** Eight i16 from two times four i32. */
  i32ToI16: vector("i16x8.narrow_i32x4_s"),
  /** Eight unsigned 16-bit numbers from two times four i32. */
  i32ToU16: vector("i16x8.narrow_i32x4_u"),
  /** Sixteen i8 from two times eight i16. */
  i16ToI8: vector("i8x16.narrow_i16x8_s"),
} as const;

/** Bytes picked from a (0–15) and b (16–31). */
export function shuffleBytes(a: V128, b: V128, lanes: readonly number[]): V128 {
  return apply("i8x16.shuffle", [a, b], lanes);
}

const float = new Float32Array(1);
const word = new Int32Array(float.buffer);

/** The bits of an f32. */
export function wordOf(value: number): number {
  float[0] = value;
  return word[0];
}
