/**
 * The WebAssembly instructions that kernels use: name, encoding, operand and result types.
 *
 * @see https://webassembly.github.io/spec/core/binary/instructions.html
 */

/** Types of values on the stack. */
export type ValueType = "i32" | "i64" | "f32" | "f64" | "v128";

/** What follows an opcode in the binary. */
export type ImmediateKind = "none" | "memory" | "lane" | "memory-lane" | "shuffle" | "const";

/** One instruction. */
export type Instruction = {
  /** Its name in the text format. */
  readonly name: string;
  readonly opcode: readonly number[];
  readonly operands: readonly ValueType[];
  readonly result: ValueType | null;
  readonly immediate: ImmediateKind;
  /** For memory accesses: log2 of the natural alignment. */
  readonly alignment?: number;
};

const table = new Map<string, Instruction>();

function define(
  name: string,
  opcode: readonly number[],
  operands: string,
  result: ValueType | null,
  immediate: ImmediateKind = "none",
  alignment?: number,
): void {
  const types = operands === "" ? [] : (operands.split(" ") as ValueType[]);
  table.set(name, {
    name,
    opcode,
    operands: types,
    result,
    immediate,
    ...(alignment === undefined ? {} : { alignment }),
  });
}

/** SIMD opcodes are a prefix byte and a LEB128 number. */
function simd(number: number): number[] {
  return [0xfd, ...unsignedLeb(number)];
}

/** Atomic opcodes are a prefix byte and a LEB128 number. */
function atomic(number: number): number[] {
  return [0xfe, ...unsignedLeb(number)];
}

/** Unsigned LEB128. */
export function unsignedLeb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low | 0x80 : low);
  } while (rest > 0);
  return bytes;
}

/** Signed LEB128 of a 32-bit integer. */
export function signedLeb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value | 0;
  for (;;) {
    const low = rest & 0x7f;
    rest >>= 7;
    const done = (rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0);
    bytes.push(done ? low : low | 0x80);
    if (done) return bytes;
  }
}

/**
 * Looks an instruction up.
 *
 * @throws Error when the table does not have it: a mistake in an emitter, not in anyone's input
 */
export function instruction(name: string): Instruction {
  const found = table.get(name);
  if (found === undefined) throw new Error(`assembler: no instruction ${name}`);
  return found;
}

/** All instructions there are. */
export function instructions(): readonly Instruction[] {
  return [...table.values()];
}

// Memory.
define("i32.load", [0x28], "i32", "i32", "memory", 2);
define("i64.load", [0x29], "i32", "i64", "memory", 3);
define("f32.load", [0x2a], "i32", "f32", "memory", 2);
define("f64.load", [0x2b], "i32", "f64", "memory", 3);
define("i32.load8_s", [0x2c], "i32", "i32", "memory", 0);
define("i32.load8_u", [0x2d], "i32", "i32", "memory", 0);
define("i32.load16_s", [0x2e], "i32", "i32", "memory", 1);
define("i32.load16_u", [0x2f], "i32", "i32", "memory", 1);
define("i32.store", [0x36], "i32 i32", null, "memory", 2);
define("f32.store", [0x38], "i32 f32", null, "memory", 2);
define("f64.store", [0x39], "i32 f64", null, "memory", 3);
define("i32.store8", [0x3a], "i32 i32", null, "memory", 0);
define("i32.store16", [0x3b], "i32 i32", null, "memory", 1);
// In pages of 64 KiB.
define("memory.size", [0x3f, 0], "", "i32");
// (target, source, bytes), within the one memory.
define("memory.copy", [0xfc, 10, 0, 0], "i32 i32 i32", null);

// Constants.
define("i32.const", [0x41], "", "i32", "const");
define("f32.const", [0x43], "", "f32", "const");
define("f64.const", [0x44], "", "f64", "const");
define("v128.const", simd(12), "", "v128", "const");

// 32-bit integers.
for (const [name, opcode] of [
  ["eq", 0x46],
  ["ne", 0x47],
  ["lt_s", 0x48],
  ["lt_u", 0x49],
  ["gt_s", 0x4a],
  ["gt_u", 0x4b],
  ["le_s", 0x4c],
  ["le_u", 0x4d],
  ["ge_s", 0x4e],
  ["ge_u", 0x4f],
  ["add", 0x6a],
  ["sub", 0x6b],
  ["mul", 0x6c],
  ["div_s", 0x6d],
  ["div_u", 0x6e],
  ["rem_s", 0x6f],
  ["rem_u", 0x70],
  ["and", 0x71],
  ["or", 0x72],
  ["xor", 0x73],
  ["shl", 0x74],
  ["shr_s", 0x75],
  ["shr_u", 0x76],
] as const) {
  define(`i32.${name}`, [opcode], "i32 i32", "i32");
}
define("i32.eqz", [0x45], "i32", "i32");
define("i32.ctz", [0x68], "i32", "i32");
define("i32.popcnt", [0x69], "i32", "i32");

// Floating point.
for (const [type, first] of [
  ["f32", 0x91],
  ["f64", 0x9f],
] as const) {
  define(`${type}.sqrt`, [first], type, type);
  for (const [i, name] of ["add", "sub", "mul", "div", "min", "max"].entries()) {
    define(`${type}.${name}`, [first + 1 + i], `${type} ${type}`, type);
  }
}
define("f32.abs", [0x8b], "f32", "f32");
define("f32.neg", [0x8c], "f32", "f32");
for (const [i, name] of ["eq", "ne", "lt", "gt", "le", "ge"].entries()) {
  define(`f32.${name}`, [0x5b + i], "f32 f32", "i32");
}
define("f32.convert_i32_s", [0xb2], "i32", "f32");
define("f32.demote_f64", [0xb6], "f64", "f32");
define("f64.promote_f32", [0xbb], "f32", "f64");
define("i32.reinterpret_f32", [0xbc], "f32", "i32");
define("f32.reinterpret_i32", [0xbe], "i32", "f32");

// SIMD memory.
define("v128.load", simd(0), "i32", "v128", "memory", 4);
define("v128.load8x8_s", simd(1), "i32", "v128", "memory", 3);
define("v128.load8x8_u", simd(2), "i32", "v128", "memory", 3);
define("v128.load16x4_s", simd(3), "i32", "v128", "memory", 3);
define("v128.load16x4_u", simd(4), "i32", "v128", "memory", 3);
define("v128.load8_splat", simd(7), "i32", "v128", "memory", 0);
define("v128.load16_splat", simd(8), "i32", "v128", "memory", 1);
define("v128.load32_splat", simd(9), "i32", "v128", "memory", 2);
define("v128.load64_splat", simd(10), "i32", "v128", "memory", 3);
define("v128.store", simd(11), "i32 v128", null, "memory", 4);
define("v128.load32_zero", simd(92), "i32", "v128", "memory", 2);
define("v128.load64_zero", simd(93), "i32", "v128", "memory", 3);
define("v128.store32_lane", simd(90), "i32 v128", null, "memory-lane", 2);
define("v128.store64_lane", simd(91), "i32 v128", null, "memory-lane", 3);

// SIMD lanes.
define("i8x16.swizzle", simd(14), "v128 v128", "v128");
define("i8x16.shuffle", simd(13), "v128 v128", "v128", "shuffle");
define("i32x4.splat", simd(17), "i32", "v128");
define("f32x4.splat", simd(19), "f32", "v128");
define("f64x2.splat", simd(20), "f64", "v128");
define("i32x4.extract_lane", simd(27), "v128", "i32", "lane");
define("i32x4.replace_lane", simd(28), "v128 i32", "v128", "lane");
define("f32x4.extract_lane", simd(31), "v128", "f32", "lane");
define("f32x4.replace_lane", simd(32), "v128 f32", "v128", "lane");

// SIMD bits and comparisons.
define("v128.not", simd(77), "v128", "v128");
for (const [i, name] of ["and", "andnot", "or", "xor"].entries())
  define(`v128.${name}`, simd(78 + i), "v128 v128", "v128");
define("v128.bitselect", simd(82), "v128 v128 v128", "v128");
define("v128.any_true", simd(83), "v128", "i32");
for (const [i, name] of ["eq", "ne", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u"].entries()) {
  define(`i32x4.${name}`, simd(55 + i), "v128 v128", "v128");
}
for (const [i, name] of ["eq", "ne", "lt", "gt", "le", "ge"].entries()) {
  define(`f32x4.${name}`, simd(65 + i), "v128 v128", "v128");
}

// SIMD arithmetic.
define("i32x4.all_true", simd(163), "v128", "i32");
define("i32x4.extend_low_i16x8_s", simd(167), "v128", "v128");
define("i32x4.extend_high_i16x8_s", simd(168), "v128", "v128");
define("i32x4.extend_low_i16x8_u", simd(169), "v128", "v128");
define("i32x4.extend_high_i16x8_u", simd(170), "v128", "v128");
define("i16x8.extend_low_i8x16_s", simd(135), "v128", "v128");
define("i16x8.extend_high_i8x16_s", simd(136), "v128", "v128");
define("i16x8.extend_low_i8x16_u", simd(137), "v128", "v128");
define("i16x8.extend_high_i8x16_u", simd(138), "v128", "v128");
define("i8x16.shr_s", simd(108), "v128 i32", "v128");
define("i8x16.shr_u", simd(109), "v128 i32", "v128");
define("i8x16.sub", simd(113), "v128 v128", "v128");
define("i8x16.shl", simd(107), "v128 i32", "v128");
define("i32x4.shl", simd(171), "v128 i32", "v128");
define("i32x4.shr_s", simd(172), "v128 i32", "v128");
define("i32x4.shr_u", simd(173), "v128 i32", "v128");
define("i32x4.add", simd(174), "v128 v128", "v128");
define("i32x4.sub", simd(177), "v128 v128", "v128");
define("i32x4.mul", simd(181), "v128 v128", "v128");
define("i32x4.dot_i16x8_s", simd(186), "v128 v128", "v128");
define("i16x8.shr_u", simd(141), "v128 i32", "v128");
define("i32x4.abs", simd(160), "v128", "v128");
define("i32x4.min_s", simd(182), "v128 v128", "v128");
define("i8x16.narrow_i16x8_s", simd(101), "v128 v128", "v128");
define("i16x8.narrow_i32x4_s", simd(133), "v128 v128", "v128");
define("i16x8.narrow_i32x4_u", simd(134), "v128 v128", "v128");
define("f32x4.nearest", simd(106), "v128", "v128");
define("f32x4.floor", simd(104), "v128", "v128");
define("f32x4.abs", simd(224), "v128", "v128");
define("f32x4.neg", simd(225), "v128", "v128");
define("f32x4.sqrt", simd(227), "v128", "v128");
for (const [i, name] of ["add", "sub", "mul", "div", "min", "max", "pmin", "pmax"].entries()) {
  define(`f32x4.${name}`, simd(228 + i), "v128 v128", "v128");
}
define("i32x4.trunc_sat_f32x4_s", simd(248), "v128", "v128");
define("f32x4.convert_i32x4_s", simd(250), "v128", "v128");
define("f32x4.convert_i32x4_u", simd(251), "v128", "v128");
define("f64x2.mul", simd(242), "v128 v128", "v128");
define("f64x2.div", simd(243), "v128 v128", "v128");
define("f64x2.nearest", simd(148), "v128", "v128");
define("f64x2.promote_low_f32x4", simd(95), "v128", "v128");
define("i32x4.trunc_sat_f64x2_s_zero", simd(252), "v128", "v128");

// Relaxed SIMD.
define("f32x4.relaxed_madd", simd(0x105), "v128 v128 v128", "v128");
define("f32x4.relaxed_nmadd", simd(0x106), "v128 v128 v128", "v128");

// Atomics.
define("memory.atomic.notify", atomic(0x00), "i32 i32", "i32", "memory", 2);
define("memory.atomic.wait32", atomic(0x01), "i32 i32 i64", "i32", "memory", 2);
define("i32.atomic.load", atomic(0x10), "i32", "i32", "memory", 2);
define("i32.atomic.store", atomic(0x17), "i32 i32", null, "memory", 2);
define("i32.atomic.rmw.add", atomic(0x1e), "i32 i32", "i32", "memory", 2);
