/**
 * The modifiers of a request as code for kernels. What depends on the query or on the key alone is computed here, in
 * f64, and handed to the kernels as columns of numbers by row and by key.
 */

import { dropoutRow, dropoutThreshold } from "../../attention/dropout.ts";
import { evaluateScore } from "../../attention/score.ts";
import { ScoreExpression, type ScoreNode } from "../../attention/score-expression.ts";
import type { AttentionSpec } from "../../attention/spec.ts";
import { CapabilityError } from "../../errors.ts";
import { Mask } from "../../mask/index.ts";
import { type CoreInteger, type CoreMask, forEachVariableOf, lowerMask } from "../../mask/lower.ts";
import { KEY_FACTOR } from "./kernels/attention-dropout.ts";
import type { ConditionCode, IntegerCode, ScoreCode } from "./kernels/attention-score.ts";
import { evaluateInteger, keyVariables, type Pair, rowVariables } from "./mask-integers.ts";

/** The modifiers of one request. */
export type LoweredScore = {
  /** What becomes of a scaled score, one step after the other; absent when nothing does. */
  readonly score?: readonly ScoreCode[];
  readonly dropout?: { readonly threshold: number; readonly kept: number };
  readonly rowColumns: number;
  readonly keyColumns: number;
  /** 32-bit numbers [B·Tq·H][rowColumns]; the first column is the hash of dropout, if there is any. */
  readonly rowTable: Int32Array;
  /** 32-bit numbers [B·Tk][keyColumns]. */
  readonly keyTable: Int32Array;
};

/** Larger modifiers would make modules that runtimes refuse. */
const MAX_OPERATIONS = 4096;

/**
 * Lowers soft cap, score modifier, ALiBi, bias and dropout.
 *
 * @param placeBias - puts the bias into the engine's memory and returns its address
 * @throws CapabilityError when the score modifier has a part that kernels cannot compute
 */
export function lowerScore(spec: AttentionSpec, placeBias: (values: Float32Array) => number): LoweredScore {
  const lowering = new Lowering(spec);
  const dropout = lowering.dropout();
  const score = [
    ...lowering.softcap(),
    ...lowering.modifier(),
    ...lowering.alibi(),
    ...(spec.bias ? lowering.bias(spec.bias, placeBias) : []),
  ];
  return {
    ...(score.length > 0 && { score }),
    ...(dropout && { dropout }),
    ...lowering.tables(),
  };
}

/** Code of the soft cap: cap · tanh(score / cap). */
export function softcapCode(cap: number): ScoreCode {
  const inner: ScoreCode = { op: "mul", left: SCORE, right: { op: "constant", value: 1 / cap } };
  return { op: "mul", left: { op: "constant", value: cap }, right: { op: "tanh", arg: inner } };
}

const SCORE: ScoreCode = { op: "score" };

/** A number that a column has for each row (batch, head, query) or each key (batch, key). */
type Column = { readonly type: "f32" | "i32"; readonly at: (pair: Pair) => number };

class Lowering {
  readonly #spec: AttentionSpec;
  readonly #rows = new Map<string, Column>();
  readonly #keys = new Map<string, Column>();
  #operations = 0;

  constructor(spec: AttentionSpec) {
    this.#spec = spec;
  }

  dropout(): LoweredScore["dropout"] {
    const { dropout, dims } = this.#spec;
    if (dropout === undefined) return undefined;
    // Kernels number the keys of all batch entries through; the difference goes into the hash of the row.
    this.#rowColumn("dropout", "i32", ({ b, h, i }) => {
      return dropoutRow(dropout.seed, b, h, i) - Math.imul(b * dims.Tk, KEY_FACTOR);
    });
    return { threshold: dropoutThreshold(dropout), kept: 1 / (1 - dropout.rate) };
  }

  softcap(): ScoreCode[] {
    const { softcap } = this.#spec;
    return softcap === undefined ? [] : [softcapCode(softcap)];
  }

  modifier(): ScoreCode[] {
    const { scoreModifier } = this.#spec;
    return scoreModifier === undefined ? [] : [this.#real(scoreModifier.node)];
  }

  alibi(): ScoreCode[] {
    const { alibiSlopes } = this.#spec;
    if (alibiSlopes === undefined) return [];
    const slope = this.#rowColumn("alibi", "f32", ({ h }) => alibiSlopes[h]);
    const distance: ScoreCode = { op: "abs", arg: this.#difference("queryPosition", "keyPosition") };
    return [{ op: "sub", left: SCORE, right: { op: "mul", left: slope, right: distance } }];
  }

  bias(bias: NonNullable<AttentionSpec["bias"]>, place: (values: Float32Array) => number): ScoreCode[] {
    const { Tk } = this.#spec.dims;
    const { values, strides } = bias;
    const address = place(values instanceof Float32Array ? values : Float32Array.from(values));
    const [sb, sh, si, sj] = strides;
    const { column } = this.#rowColumn("bias", "i32", ({ b, h, i }) => {
      return address + 4 * (b * (sb - sj * Tk) + h * sh + i * si);
    });
    return [{ op: "add", left: SCORE, right: { op: "bias", column, perKey: sj !== 0 } }];
  }

  tables(): Pick<LoweredScore, "rowColumns" | "keyColumns" | "rowTable" | "keyTable"> {
    const { B, Tq, Tk, H } = this.#spec.dims;
    const rowColumns = [...this.#rows.values()];
    const keyColumns = [...this.#keys.values()];
    const rowTable = fillTable(rowColumns, B * Tq * H, (row) => {
      const query = Math.floor(row / H);
      return { b: Math.floor(query / Tq), h: row % H, i: query % Tq, j: 0 };
    });
    const keyTable = fillTable(keyColumns, B * Tk, (key) => ({ b: Math.floor(key / Tk), h: 0, i: 0, j: key % Tk }));
    return { rowColumns: rowColumns.length, keyColumns: keyColumns.length, rowTable, keyTable };
  }

  #rowColumn(name: string, type: Column["type"], at: Column["at"]): { op: "row"; column: number } {
    return { op: "row", column: indexOf(this.#rows, name, { type, at }) };
  }

  #keyColumn(name: string, type: Column["type"], at: Column["at"]): { op: "key"; column: number } {
    return { op: "key", column: indexOf(this.#keys, name, { type, at }) };
  }

  /** Exact for positions of any size, unlike the difference of two f32. */
  #difference(row: string, key: string): ScoreCode {
    const [ofRow, ofKey] = [this.#scoreValue(row), this.#scoreValue(key)];
    const { column } = this.#rowColumn(`i32 ${row}`, "i32", ofRow);
    return { op: "difference", row: column, key: this.#keyColumn(`i32 ${key}`, "i32", ofKey).column };
  }

  #scoreValue(name: string): Column["at"] {
    return this.#evaluate({ op: "variable", name } as ScoreNode);
  }

  #evaluate(node: ScoreNode): Column["at"] {
    const value = evaluateScore(new ScoreExpression(node, { depth: 0, nodes: 0 }), this.#spec.maskInputs);
    return ({ b, h, i, j }) => value(0, b, h, i, j);
  }

  #real(node: ScoreNode): ScoreCode {
    this.#count();
    if (node.op === "constant") return node;
    if (node.op === "variable" && node.name === "score") return SCORE;
    const reads = sidesOf(node);
    if (!reads.key) return this.#rowColumn(JSON.stringify(node), "f32", this.#evaluate(node));
    if (!reads.row) return this.#keyColumn(JSON.stringify(node), "f32", this.#evaluate(node));
    switch (node.op) {
      case "exp":
      case "log":
      case "tanh":
      case "abs":
        return { op: node.op, arg: this.#real(node.arg) };
      case "select":
        return {
          op: "select",
          condition: this.#condition(lowerMask(new Mask(node.mask), this.#spec.maskInputs)),
          inside: this.#real(node.inside),
          outside: this.#real(node.outside),
        };
      case "sub": {
        const { left, right } = node;
        if (left.op === "variable" && right.op === "variable" && left.name !== "score" && right.name !== "score") {
          const [row, key] = sidesOf(left).key ? [right.name, left.name] : [left.name, right.name];
          const difference = this.#difference(row, key);
          if (row === left.name) return difference;
          return { op: "mul", left: { op: "constant", value: -1 }, right: difference };
        }
        return { op: "sub", left: this.#real(left), right: this.#real(right) };
      }
      case "variable":
      case "perHead":
        throw new Error(`a ${node.op} belongs to the row or to the key`);
      default:
        return { op: node.op, left: this.#real(node.left), right: this.#real(node.right) };
    }
  }

  #condition(node: CoreMask): ConditionCode {
    this.#count();
    switch (node.op) {
      case "constant":
        return node;
      case "compare":
        return { op: node.relation, left: this.#integer(node.left), right: this.#integer(node.right) };
      case "and":
      case "or":
        return { op: node.op, args: node.args.map((arg) => this.#condition(arg)) };
      case "not":
        return { op: "not", arg: this.#condition(node.arg) };
      case "table":
        throw refuse(`select by the table ${JSON.stringify(node.name)}`);
    }
  }

  #integer(node: CoreInteger): IntegerCode {
    this.#count();
    if (node.op === "constant") return node;
    const { maskInputs } = this.#spec;
    const name = `i32 ${JSON.stringify(node, (_, value) => (value instanceof Int32Array ? [...value] : value))}`;
    const at: Column["at"] = (pair) => evaluateInteger(node, maskInputs, pair);
    let [row, key] = [false, false];
    forEachVariableOf(node, (variable) => {
      row ||= rowVariables.has(variable);
      key ||= keyVariables.has(variable);
    });
    if (!key) return this.#rowColumn(name, "i32", at);
    if (!row) return this.#keyColumn(name, "i32", at);
    switch (node.op) {
      case "add":
      case "sub":
      case "mul":
      case "min":
      case "max":
        return { op: node.op, left: this.#integer(node.left), right: this.#integer(node.right) };
      default:
        throw refuse(`${node.op} of a number that depends on both query and key`);
    }
  }

  #count(): void {
    this.#operations++;
    if (this.#operations > MAX_OPERATIONS) throw refuse(`more than ${MAX_OPERATIONS} operations`);
  }
}

function refuse(part: string): CapabilityError {
  return new CapabilityError(
    "attention",
    'the score modifier must be one that backend "wasm" can compute',
    { part },
    'Backend "reference" can compute it.',
  );
}

function indexOf(columns: Map<string, Column>, name: string, column: Column): number {
  if (!columns.has(name)) columns.set(name, column);
  return [...columns.keys()].indexOf(name);
}

/** Whether a part of a modifier belongs to the query, to the key, or to both; the batch entry is no one's. */
function sidesOf(node: ScoreNode): { row: boolean; key: boolean } {
  switch (node.op) {
    case "constant":
      return { row: false, key: false };
    case "perHead":
      return { row: true, key: false };
    case "variable": {
      const both = node.name === "score";
      const key = node.name === "keyPosition" || node.name === "keySegment";
      return { row: both || (!key && node.name !== "batch"), key: both || key };
    }
    case "select":
      return { row: true, key: true };
    default: {
      const sides = ("arg" in node ? [node.arg] : [node.left, node.right]).map(sidesOf);
      return { row: sides.some(({ row }) => row), key: sides.some(({ key }) => key) };
    }
  }
}

function fillTable(columns: readonly Column[], length: number, pairOf: (index: number) => Pair): Int32Array {
  const width = columns.length;
  const words = new Int32Array(length * width);
  if (width === 0) return words;
  const floats = new Float32Array(words.buffer);
  for (let index = 0; index < length; index++) {
    const pair = pairOf(index);
    for (let n = 0; n < width; n++) {
      const { type, at } = columns[n];
      (type === "f32" ? floats : words)[index * width + n] = at(pair);
    }
  }
  return words;
}
