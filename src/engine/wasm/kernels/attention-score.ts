/**
 * What becomes of a score between scaling and softmax: soft cap, score modifier, ALiBi and bias as one expression.
 *
 * Whatever depends on the query row alone, or on the key alone, has been computed before and is read from a column:
 * rows and keys have 32-bit numbers side by side, f32 or i32 as the expression takes them.
 */

import { f32, f32x4, i32, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { emitExp, emitLog, emitTanh, type FloatingMode } from "./vector-math.ts";

/** A number of a row or of a key. */
type Column<T> = T | { readonly op: "row" | "key"; readonly column: number };

/** A real number per (row, key); plain data. */
export type ScoreCode =
  | Column<{ readonly op: "constant"; readonly value: number }>
  /** The scaled score. */
  | { readonly op: "score" }
  /** An i32 column of rows minus one of keys. */
  | { readonly op: "difference"; readonly row: number; readonly key: number }
  /** An f32 at the address in a column of rows, plus four bytes for every key before this one if `perKey`. */
  | { readonly op: "bias"; readonly column: number; readonly perKey: boolean }
  | { readonly op: "exp" | "log" | "tanh" | "abs"; readonly arg: ScoreCode }
  | {
      readonly op: "add" | "sub" | "mul" | "div" | "min" | "max";
      readonly left: ScoreCode;
      readonly right: ScoreCode;
    }
  | {
      readonly op: "select";
      readonly condition: ConditionCode;
      readonly inside: ScoreCode;
      readonly outside: ScoreCode;
    };

/** An i32 per (row, key). */
export type IntegerCode =
  | Column<{ readonly op: "constant"; readonly value: number }>
  | {
      readonly op: "add" | "sub" | "mul" | "min" | "max";
      readonly left: IntegerCode;
      readonly right: IntegerCode;
    };

/** A truth value per (row, key). */
export type ConditionCode =
  | { readonly op: "constant"; readonly value: boolean }
  | {
      readonly op: "eq" | "ne" | "lt" | "le" | "gt" | "ge";
      readonly left: IntegerCode;
      readonly right: IntegerCode;
    }
  | { readonly op: "and" | "or"; readonly args: readonly ConditionCode[] }
  | { readonly op: "not"; readonly arg: ConditionCode };

/** Where the operands of four rows and one key are. */
export type ScoreOperands = {
  readonly score: Local<"v128">;
  /** Four numbers of a row column. */
  readonly row: (column: number) => V128;
  /** The address of one of them. */
  readonly rowAt: (column: number, lane: number) => { readonly address: Local<"i32">; readonly offset: number };
  /** Address of the first column of the key. */
  readonly key: Local<"i32">;
  /** Four times the number of the key. */
  readonly keyBytes: Local<"i32">;
};

/** Emits score expressions into a function; locals are reused from one to the next. */
export class ScoreEmitter {
  readonly #f: FunctionBuilder;
  readonly #mode: FloatingMode;
  readonly #free: Local<"v128">[] = [];
  #count = 0;

  constructor(f: FunctionBuilder, mode: FloatingMode) {
    this.#f = f;
    this.#mode = mode;
  }

  /** Applies the steps to `at.score`, one after the other, for four rows and one key. */
  emit(steps: readonly ScoreCode[], at: ScoreOperands): void {
    for (const code of steps) this.#f.set(at.score, this.#real(code, at));
  }

  /** What is returned reads locals that the next call may overwrite, unless they have been taken. */
  #real(code: ScoreCode, at: ScoreOperands): V128 {
    switch (code.op) {
      case "constant":
        return this.#f.constant(code.value);
      case "score":
        return at.score;
      case "row":
        return at.row(code.column);
      case "key":
        return v128.load32Splat(at.key, 4 * code.column);
      case "difference":
        return f32x4.convertI32(i32x4.sub(at.row(code.row), v128.load32Splat(at.key, 4 * code.key)));
      case "bias":
        return this.#bias(code.column, code.perKey, at);
      case "exp":
      case "log":
      case "tanh":
      case "abs":
        return this.#unary(code.op, code.arg, at);
      case "select": {
        const parts = [this.#hold(code.inside, at), this.#hold(code.outside, at)] as const;
        const result = v128.select(parts[0], parts[1], condition(code.condition, at));
        this.#free.push(...parts);
        return result;
      }
      default: {
        const left = this.#hold(code.left, at);
        const right = this.#hold(code.right, at);
        this.#free.push(left, right);
        return f32x4[code.op](left, right);
      }
    }
  }

  /** The value of an expression in a local of its own. */
  #hold(code: ScoreCode, at: ScoreOperands): Local<"v128"> {
    const value = this.#real(code, at);
    const local = this.#take();
    this.#f.set(local, value);
    return local;
  }

  #unary(op: "exp" | "log" | "tanh" | "abs", arg: ScoreCode, at: ScoreOperands): V128 {
    const f = this.#f;
    if (op === "abs") return f32x4.abs(this.#real(arg, at));
    const x = this.#hold(arg, at);
    const [target, a, b, c] = [this.#take(), this.#take(), this.#take(), this.#take()];
    if (op === "tanh") emitTanh(f, this.#mode, target, x, [a, b, c]);
    else if (op === "log") emitLog(f, this.#mode, target, x, [a, b, c]);
    else {
      emitExp(f, this.#mode, target, f32x4.pmin(x, f.constant(88)), [a, b]);
      f.set(target, v128.select(f.constant(Infinity), target, f32x4.gt(x, f.constant(88))));
    }
    this.#free.push(x, target, a, b, c);
    return target;
  }

  #bias(column: number, perKey: boolean, at: ScoreOperands): V128 {
    const load = (lane: number) => {
      const { address, offset } = at.rowAt(column, lane);
      const first = i32.load(address, offset);
      return f32.load(perKey ? i32.add(first, at.keyBytes) : first);
    };
    let four = f32x4.splat(load(0));
    for (let lane = 1; lane < 4; lane++) four = f32x4.replaceLane(four, lane, load(lane));
    return four;
  }

  #take(): Local<"v128"> {
    return this.#free.pop() ?? this.#f.local(`value${this.#count++}`, "v128");
  }
}

function condition(code: ConditionCode, at: ScoreOperands): V128 {
  switch (code.op) {
    case "constant":
      return i32x4.const(code.value ? -1 : 0);
    case "not":
      return v128.not(condition(code.arg, at));
    case "and":
    case "or": {
      const combine = v128[code.op];
      const all = code.args.map((arg) => condition(arg, at));
      return all.reduce((a, b) => combine(a, b), i32x4.const(code.op === "and" ? -1 : 0));
    }
    default: {
      const [left, right] = [integer(code.left, at), integer(code.right, at)];
      return COMPARISONS[code.op](left, right);
    }
  }
}

const COMPARISONS = {
  eq: i32x4.eq,
  ne: i32x4.ne,
  lt: i32x4.ltS,
  le: i32x4.leS,
  gt: i32x4.gtS,
  ge: i32x4.geS,
} as const;

function integer(code: IntegerCode, at: ScoreOperands): V128 {
  switch (code.op) {
    case "constant":
      return i32x4.const(code.value);
    case "row":
      return at.row(code.column);
    case "key":
      return v128.load32Splat(at.key, 4 * code.column);
    case "min":
    case "max": {
      const [left, right] = [integer(code.left, at), integer(code.right, at)];
      const less = i32x4.ltS(left, right);
      return code.op === "min" ? v128.select(left, right, less) : v128.select(right, left, less);
    }
    default:
      return i32x4[code.op](integer(code.left, at), integer(code.right, at));
  }
}
