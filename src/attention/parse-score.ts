/**
 * Score modifiers from JSON. The text is not trusted: everything is rebuilt through the builders, which bound
 * nesting and size, and unknown operations and keys are refused.
 */

import { ConfigError } from "../errors.ts";
import { parseMask } from "../mask/index.ts";
import {
  applyScore,
  MAX_SCORE_DEPTH,
  operateScore,
  perHead,
  SCORE_BINARIES,
  SCORE_UNARIES,
  SCORE_VARIABLES,
  type ScoreBinary,
  type ScoreExpression,
  type ScoreUnary,
  type ScoreVariable,
  scoreVariable,
  selectScore,
  toScore,
} from "./score-expression.ts";

const WHERE = "parseScore";

/** Keys that each operation has beside `op`. */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  constant: ["value"],
  variable: ["name"],
  perHead: ["values"],
  select: ["mask", "inside", "outside"],
  ...Object.fromEntries(SCORE_UNARIES.map((op) => [op, ["arg"]])),
  ...Object.fromEntries(SCORE_BINARIES.map((op) => [op, ["left", "right"]])),
};

/**
 * Reads a score modifier from its JSON form.
 *
 * @param json - what `modifier.toJSON()` gives, or its text
 * @returns the same modifier, with the same hash
 * @throws ConfigError when the value is malformed, too deep, too large, or has an unknown operation
 */
export function parseScore(json: unknown): ScoreExpression {
  return read(typeof json === "string" ? parseText(json) : json, 1);
}

function parseText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ConfigError(WHERE, "text must be JSON", { text });
  }
}

function read(json: unknown, depth: number): ScoreExpression {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new ConfigError(WHERE, "every node must be an object with an op", { node: json });
  }
  if (depth > MAX_SCORE_DEPTH) {
    throw new ConfigError(WHERE, `a score expression may nest at most ${MAX_SCORE_DEPTH} deep`, { depth });
  }
  const node = json as Readonly<Record<string, unknown>>;
  const { op } = node;
  if (typeof op !== "string" || !Object.hasOwn(KEYS, op)) {
    throw new ConfigError(WHERE, `op must be one of ${Object.keys(KEYS).join(", ")}`, { op });
  }
  for (const key of Object.keys(node)) {
    if (key !== "op" && !KEYS[op].includes(key)) throw new ConfigError(WHERE, `${op} has no such key`, { key });
  }
  switch (op) {
    case "constant":
      return toScore(WHERE, node.value);
    case "variable":
      return scoreVariable(readVariable(node.name));
    case "perHead":
      if (!Array.isArray(node.values)) {
        throw new ConfigError(WHERE, "values must be a list", { values: node.values });
      }
      return perHead(node.values);
    case "select":
      return selectScore(parseMask(node.mask), read(node.inside, depth + 1), read(node.outside, depth + 1));
  }
  if (SCORE_UNARIES.includes(op as ScoreUnary)) return applyScore(op as ScoreUnary, read(node.arg, depth + 1));
  return operateScore(op as ScoreBinary, read(node.left, depth + 1), read(node.right, depth + 1));
}

function readVariable(name: unknown): ScoreVariable {
  if (!SCORE_VARIABLES.includes(name as ScoreVariable)) {
    throw new ConfigError(WHERE, `name must be one of ${SCORE_VARIABLES.join(", ")}`, { name });
  }
  return name as ScoreVariable;
}
