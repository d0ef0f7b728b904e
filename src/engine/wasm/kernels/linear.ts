/**
 * Linear layers: out [T, N] = x [T, K] · weight [N, K]ᵀ + bias [N].
 *
 * Both operands have K innermost, so nothing is packed: vectors of four inputs are multiplied lane by lane, and
 * lanes are summed at the end.
 *
 * - One token (`linear-row.ts`): weights are read once, as a stream, converted on the way.
 * - One token and weights that are codes (`linear-row-codes.ts`): products of integers.
 * - Rows that are interleaved (`interleaved-rows.ts`) lie in memory as the loops take them, four at a time.
 * - More tokens: two tokens by four weight rows in registers (eight sums). Weights that are not f32 are unpacked,
 *   four rows at a time, into scratch memory that stays in the first cache, and used by all tokens. The order is
 *
 *       for every group of tokens whose inputs fit in the second cache
 *         for every part of K that fits in the first cache
 *           for every four weight rows
 *             for every two tokens
 */

import { PIECE_BYTES, PIECES_APART } from "../../interleaved-rows.ts";
import { type Expression, f32, f32x4, type I32, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitOneToken, emitOneTokenHalves, emitOneTokenInterleaved, hasHalves } from "./linear-row.ts";
import { codesScratchBytes, emitOneTokenCodes, hasCodes } from "./linear-row-codes.ts";
import { loadFirst } from "./row-loop.ts";
import { emitSum, emitSumFour, type FloatingMode, fma } from "./vector-math.ts";
import {
  createWeightReader,
  emitUnpackRow,
  type WeightReader,
  type WeightType,
  weightBytes,
  weightStep,
} from "./weights.ts";

/** What the generated code is specialised for. */
export type LinearSpec = FloatingMode & {
  /** Export name; `linear` unless told. */
  readonly name?: string;
  /** K; any, for q8_0 and q4_0 a multiple of 32. */
  readonly inputs: number;
  /** Bytes between the tokens of x; 4·K unless told. */
  readonly xStride?: number;
  /** Bytes between the tokens of out. */
  readonly outStride: number;
  readonly weightType: WeightType;
  readonly bias: boolean;
  /** Whether the rows of the weight, f32, are interleaved; `from` and `to` are multiples of 4 then. */
  readonly interleaved?: boolean;
};

/** Weight rows and tokens in registers; 8 sums, 2 inputs and 4 weights fit in 15 registers. */
const ROWS = 4;
const TOKENS = 2;
/** Inputs of a part: six rows of it are 24 KiB. */
const PART = 1024;
/** Inputs of a group of tokens. */
const GROUP_BYTES = 512 * 1024;

/** Bytes of scratch memory that `linear` needs, aligned to 16. */
export function linearScratchBytes(spec: Pick<LinearSpec, "inputs" | "weightType">): number {
  const rows = spec.weightType === "f32" ? 0 : ROWS * scratchStride(spec.inputs);
  if (hasCodes(spec)) return Math.max(rows, codesScratchBytes(spec));
  return hasHalves(spec) ? Math.max(rows, 4 * spec.inputs) : rows;
}

function scratchStride(inputs: number): number {
  return Math.ceil(Math.min(inputs, PART) / 4) * 16;
}

/**
 * Adds `linear(out, x, weight, scales, bias, tokens, from, to, scratch)` to a module: columns [from, to) of out.
 *
 * out f32 [tokens][outStride], x f32 [tokens][xStride], weight [N][K] in its type, scales f32 [N] (int8 only),
 * bias f32 [N] (where the spec has one), scratch `linearScratchBytes`; unused addresses may be 0.
 */
export function emitLinear(module: ModuleBuilder, spec: LinearSpec): FunctionHandle {
  return module.function(spec.name ?? "linear", (f) => {
    const parameters = {
      out: f.parameter("out", "i32"),
      x: f.parameter("x", "i32"),
      weight: f.parameter("weight", "i32"),
      scales: f.parameter("scales", "i32"),
      bias: f.parameter("bias", "i32"),
      tokens: f.parameter("tokens", "i32"),
      from: f.parameter("from", "i32"),
      to: f.parameter("to", "i32"),
      scratch: f.parameter("scratch", "i32"),
    };
    const reader = createWeightReader(f, spec.weightType);
    f.if(
      i32.eq(parameters.tokens, 1),
      () => {
        if (hasCodes(spec)) emitOneTokenCodes(f, spec, parameters);
        else if (spec.interleaved) emitOneTokenInterleaved(f, spec, parameters);
        else if (hasHalves(spec)) emitOneTokenHalves(f, spec, parameters);
        else emitOneToken(f, spec, parameters, reader);
      },
      () => emitManyTokens(f, spec, parameters, reader),
    );
  });
}

/** The parameters of `linear`. */
export type LinearParameters = Readonly<
  Record<"out" | "x" | "weight" | "scales" | "bias" | "tokens" | "from" | "to" | "scratch", Local<"i32">>
>;

function emitManyTokens(
  f: FunctionBuilder,
  spec: LinearSpec,
  parameters: LinearParameters,
  reader: WeightReader,
): void {
  const { inputs } = spec;
  const { tokens, from, to } = parameters;
  const locals = createLocals(f);
  const { group, groupEnd, part, width, n } = locals;
  const groupTokens = Math.floor(GROUP_BYTES / (4 * Math.min(inputs, PART)) / TOKENS) * TOKENS;

  f.for(group, 0, tokens, groupTokens, () => {
    setMinimum(f, groupEnd, i32.add(group, groupTokens), tokens);
    f.for(part, 0, inputs, PART, () => {
      setMinimum(f, width, i32.sub(inputs, part), PART);
      f.set(n, from);
      for (const rows of spec.interleaved ? [ROWS] : [ROWS, 1]) {
        f.while(
          () => i32.leS(i32.add(n, rows), to),
          () => {
            emitRows(f, spec, parameters, reader, locals, rows);
            f.set(n, i32.add(n, rows));
          },
        );
      }
    });
  });
}

function setMinimum(f: FunctionBuilder, local: Local<"i32">, a: Expression<"i32">, b: I32): void {
  f.set(local, a);
  f.if(i32.gtS(local, b), () => f.set(local, b));
}

type Locals = ReturnType<typeof createLocals>;

function createLocals(f: FunctionBuilder) {
  const integer = (name: string): Local<"i32"> => f.local(name, "i32");
  return {
    sums: f.vectors("sum", ROWS * TOKENS),
    inputs: f.vectors("input", TOKENS),
    four: f.local("four", "v128"),
    total: f.local("total", "f32"),
    /** Tokens [group, groupEnd), inputs [part, part + width), weight rows from n on, tokens from t on. */
    group: integer("group"),
    groupEnd: integer("groupEnd"),
    part: integer("part"),
    width: integer("width"),
    n: integer("n"),
    t: integer("t"),
    /** Addresses of the weights of row n in this part, and of what is being read and written. */
    rows: integer("rows"),
    weightAt: integer("weightAt"),
    inputAt: integer("inputAt"),
    inputEnd: integer("inputEnd"),
    outAt: integer("outAt"),
  };
}

/** `count` weight rows from `n` on, against all tokens of the group. */
function emitRows(
  f: FunctionBuilder,
  spec: LinearSpec,
  parameters: LinearParameters,
  reader: WeightReader,
  locals: Locals,
  count: number,
): void {
  const { inputs, weightType, interleaved } = spec;
  const { weight, scales, scratch } = parameters;
  const { rows, n, t, part, width, group, groupEnd, weightAt, outAt, inputEnd } = locals;
  const rowBytes = weightBytes(weightType, inputs);
  const inPlace = weightType === "f32";
  if (interleaved) {
    f.set(rows, i32.add(weight, i32.add(i32.mul(n, rowBytes), i32.shl(part, 4))));
  } else if (inPlace) {
    f.set(rows, i32.add(weight, i32.add(i32.mul(n, rowBytes), i32.shl(part, 2))));
  } else {
    // Rows n … n + count − 1 of this part into scratch.
    f.set(rows, scratch);
    f.for(t, 0, count, 1, () => {
      const start = i32.mul(i32.add(n, t), rowBytes);
      f.set(weightAt, i32.add(weight, i32.add(start, partBytes(weightType, part))));
      reader.startRow(i32.add(scales, i32.shl(i32.add(n, t), 2)));
      f.set(outAt, i32.add(scratch, i32.mul(t, scratchStride(inputs))));
      emitUnpackRow(f, weightType, reader, {
        source: weightAt,
        target: outAt,
        end: inputEnd,
        count: width,
        hasRest: inputs % weightStep(weightType) > 0,
      });
    });
  }
  const stride = interleaved ? PIECE_BYTES : inPlace ? rowBytes : scratchStride(inputs);
  f.set(t, group);
  for (const tokens of [TOKENS, 1]) {
    f.while(
      () => i32.leS(i32.add(t, tokens), groupEnd),
      () => {
        emitBlock(f, spec, parameters, locals, { tokens, count, stride });
        f.set(t, i32.add(t, tokens));
      },
    );
  }
}

/** `tokens` tokens from t on by `count` weight rows. */
function emitBlock(
  f: FunctionBuilder,
  spec: LinearSpec,
  { out, x, bias }: LinearParameters,
  { sums, inputs, four, part, width, n, t, rows, weightAt, inputAt, inputEnd, outAt, total }: Locals,
  { tokens, count, stride }: { tokens: number; count: number; stride: number },
): void {
  const { outStride, xStride = 4 * spec.inputs } = spec;
  const tail = spec.inputs % 4;
  const step = spec.interleaved ? PIECES_APART : 16;
  const accumulate = (load: (address: Local<"i32">, offset: number) => V128): void => {
    for (let a = 0; a < tokens; a++) f.set(inputs[a], load(inputAt, a * xStride));
    for (let r = 0; r < count; r++) {
      f.set(four, load(weightAt, r * stride));
      for (let a = 0; a < tokens; a++) {
        f.set(sums[a * ROWS + r], fma(spec, four, inputs[a], sums[a * ROWS + r]));
      }
    }
  };
  f.set(weightAt, rows);
  f.set(inputAt, i32.add(x, i32.add(i32.mul(t, xStride), i32.shl(part, 2))));
  f.set(inputEnd, i32.add(inputAt, i32.shl(i32.and(width, -4), 2)));
  for (let a = 0; a < tokens; a++) for (let r = 0; r < count; r++) f.set(sums[a * ROWS + r], f32x4.const(0));
  f.while(
    () => i32.ltU(inputAt, inputEnd),
    () => {
      accumulate((address, offset) => v128.load(address, offset));
      f.set(weightAt, i32.add(weightAt, step));
      f.set(inputAt, i32.add(inputAt, 16));
    },
  );
  if (tail > 0) f.if(i32.and(width, 3), () => accumulate((address, offset) => loadFirst(address, tail, offset)));

  f.set(outAt, i32.add(out, i32.add(i32.mul(t, outStride), i32.shl(n, 2))));
  const biasAt = i32.add(bias, i32.shl(n, 2));
  for (let a = 0; a < tokens; a++) {
    const offset = a * outStride;
    const [first, second, third, fourth] = sums.slice(a * ROWS);
    if (count === ROWS) {
      f.set(first, emitSumFour(f, [first, second, third, fourth]));
      const add = (address: Expression<"i32">, at = 0): void => f.set(first, f32x4.add(first, v128.load(address, at)));
      emitStart(f, spec, part, { bias: () => add(biasAt), before: () => add(outAt, offset) });
      f.storeVector(outAt, first, offset);
    } else {
      f.set(total, emitSum(f, first));
      const add = (address: Expression<"i32">, at = 0): void => f.set(total, f32.add(total, f32.load(address, at)));
      emitStart(f, spec, part, { bias: () => add(biasAt), before: () => add(outAt, offset) });
      f.store("f32.store", outAt, total, offset);
    }
  }
}

/** The first part of K is added to the bias, the others to what the parts before have left. */
function emitStart(
  f: FunctionBuilder,
  spec: LinearSpec,
  part: Local<"i32">,
  add: { bias: () => void; before: () => void },
): void {
  const first = spec.bias ? add.bias : () => {};
  if (spec.inputs <= PART) first();
  else f.if(part, add.before, first);
}

/** Bytes of `count` weights, a number known at run time that is a multiple of the block. */
function partBytes(type: WeightType, count: Expression<"i32">): Expression<"i32"> {
  const bytes = weightBytes(type, 32);
  return i32.mul(i32.shrU(count, 5), bytes);
}
