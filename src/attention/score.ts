/**
 * From a scaled score to the one that enters the softmax: soft cap, score modifier, ALiBi, bias, in this order.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { checkMaskInputs, Mask, type MaskInputs, maskPredicate, type RowName, requirements } from "../mask/index.ts";
import { ScoreExpression, type ScoreNode } from "./score-expression.ts";
import type { AttentionSpec } from "./spec.ts";

/** A score after its modifiers; indices of batch entry, query head, query row and key slot. */
export type ModifyScore = (scaled: number, b: number, h: number, i: number, j: number) => number;

/** The modifiers of a spec as a function of one pair. */
export function scoreModifiers(spec: AttentionSpec): ModifyScore {
  const { softcap, alibiSlopes, bias, maskInputs } = spec;
  const { queryPositions, keyPositions, queryLength, keyLength } = maskInputs;
  const custom = spec.scoreModifier && evaluateScore(spec.scoreModifier, maskInputs);
  return (scaled, b, h, i, j) => {
    let score = scaled;
    if (softcap !== undefined) score = softcap * Math.tanh(score / softcap);
    if (custom) score = checkScore(custom(score, b, h, i, j), score, b, h, i, j);
    if (alibiSlopes) {
      score -= alibiSlopes[h] * Math.abs(queryPositions[b * queryLength + i] - keyPositions[b * keyLength + j]);
    }
    if (bias) {
      const [sb, sh, si, sj] = bias.strides;
      score += bias.values[b * sb + h * sh + i * si + j * sj];
    }
    return score;
  };
}

/**
 * Refuses a modifier whose inputs are missing or whose tables do not have H entries.
 *
 * @throws ConfigError or ShapeError
 */
export function checkScoreInputs(where: string, modifier: ScoreExpression, inputs: MaskInputs): void {
  const visit = (node: ScoreNode): void => {
    if (node.op === "perHead" && node.values.length !== inputs.heads) {
      throw new ShapeError(where, "perHead must have one entry per query head", {
        length: node.values.length,
        heads: inputs.heads,
      });
    }
    if (node.op === "variable" && (node.name === "querySegment" || node.name === "keySegment")) {
      const row = `${node.name}s` as const;
      if (inputs[row] === undefined) {
        throw new ConfigError(where, `the score modifier needs ${row}`, { scoreModifier: modifier.toString() });
      }
    }
    if (node.op === "select") checkMaskInputs(where, new Mask(node.mask), inputs);
    for (const part of partsOf(node)) visit(part);
  };
  visit(modifier.node);
}

/** The rows of the inputs that a modifier reads, with repetitions. */
export function rowsOfModifier(modifier: ScoreExpression): readonly RowName[] {
  const rows = (node: ScoreNode): readonly RowName[] => {
    if (node.op === "variable" && node.name === "querySegment") return ["querySegments"];
    if (node.op === "variable" && node.name === "keySegment") return ["keySegments"];
    const own = node.op === "select" ? requirements(new Mask(node.mask)).rows : [];
    return [...own, ...partsOf(node).flatMap(rows)];
  };
  return modifier instanceof ScoreExpression ? rows(modifier.node) : [];
}

function partsOf(node: ScoreNode): readonly ScoreNode[] {
  if ("arg" in node) return [node.arg];
  if ("left" in node) return [node.left, node.right];
  return node.op === "select" ? [node.inside, node.outside] : [];
}

/** The modifier as a function of one pair, in f64. */
export function evaluateScore(modifier: ScoreExpression, inputs: MaskInputs): ModifyScore {
  const compile = (node: ScoreNode): ModifyScore => {
    switch (node.op) {
      case "constant":
        return () => node.value;
      case "perHead":
        return (_score, _b, h) => node.values[h];
      case "variable":
        return VARIABLES[node.name](inputs);
      case "select": {
        const allowed = maskPredicate(new Mask(node.mask), inputs);
        const inside = compile(node.inside);
        const outside = compile(node.outside);
        return (score, b, h, i, j) => (allowed(b, h, i, j) ? inside : outside)(score, b, h, i, j);
      }
      case "exp":
      case "log":
      case "tanh":
      case "abs": {
        const apply = Math[node.op];
        const arg = compile(node.arg);
        return (score, b, h, i, j) => apply(arg(score, b, h, i, j));
      }
      default: {
        const operate = OPERATIONS[node.op];
        const left = compile(node.left);
        const right = compile(node.right);
        return (score, b, h, i, j) => operate(left(score, b, h, i, j), right(score, b, h, i, j));
      }
    }
  };
  return compile(modifier.node);
}

const VARIABLES: Record<Extract<ScoreNode, { op: "variable" }>["name"], (inputs: MaskInputs) => ModifyScore> = {
  score: () => (score) => score,
  batch: () => (_score, b) => b,
  head: () => (_score, _b, h) => h,
  queryPosition:
    ({ queryPositions, queryLength }) =>
    (_score, b, _h, i) =>
      queryPositions[b * queryLength + i],
  keyPosition:
    ({ keyPositions, keyLength }) =>
    (_score, b, _h, _i, j) =>
      keyPositions[b * keyLength + j],
  querySegment:
    ({ querySegments, queryLength }) =>
    (_score, b, _h, i) =>
      (querySegments as Int32Array)[b * queryLength + i],
  keySegment:
    ({ keySegments, keyLength }) =>
    (_score, b, _h, _i, j) =>
      (keySegments as Int32Array)[b * keyLength + j],
};

const OPERATIONS: Record<"add" | "sub" | "mul" | "div" | "min" | "max", (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  min: Math.min,
  max: Math.max,
};

function checkScore(value: number, score: number, batch: number, head: number, query: number, key: number): number {
  if (value < Infinity || Number.isNaN(score)) return value;
  throw new ConfigError("attention", "the score modifier must give a number below Infinity", {
    value,
    score,
    batch,
    head,
    query,
    key,
  });
}
