/** Attention that rotates queries and keys first. */

import { ConfigError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import {
  type AttentionFunction,
  type AttentionFunctionOptions,
  type AttentionFunctionResult,
  attentionSizes,
  dotProductAttention,
  positionRow,
} from "./attention-function.ts";
import { type RoPE, rotated } from "./rope.ts";

/** How queries and keys are rotated, and what attends then. */
export type RotaryAttentionOptions = {
  readonly rope: RoPE;
  /** `dotProductAttention` unless told. */
  readonly attention?: AttentionFunction;
};

/**
 * An attention function that rotates queries by `queryPositions` and keys by `keyPositions`, then attends, with the same
 * positions for masks. Without positions both are 0, 1, …, which takes as many queries as keys.
 *
 * Flax's dot_product_attention_with_rope (pull request 5481) always rotates by row numbers, so that a decode step's
 * single query stands at position 0.
 *
 * @throws ConfigError (when called) when lengths differ and positions are missing
 */
export function dotProductAttentionWithRope({
  rope,
  attention = dotProductAttention,
}: RotaryAttentionOptions): AttentionFunction {
  const where = "dotProductAttentionWithRope";
  return async (query, key, value, options = {}): Promise<AttentionFunctionResult> => {
    const { B, Tq, Tk } = attentionSizes(where, query, key, value);
    const { queryPositions, keyPositions } = bothPositions(where, Tq, Tk, options);
    const positions = {
      queryPositions: positionRow(where, "queryPositions", queryPositions, B, Tq),
      keyPositions: positionRow(where, "keyPositions", keyPositions, B, Tk),
    };
    let last = 0; // both sides turn by the frequencies of one length
    for (const row of Object.values(positions)) for (const position of row) last = Math.max(last, position);
    const turn = (x: Tensor<"f32">, row: Int32Array, direction: "forward" | "transpose" = "forward"): Tensor<"f32"> =>
      rotated(x, rope, row, { length: last + 1, direction });
    const result = await attention(turn(query, positions.queryPositions), turn(key, positions.keyPositions), value, {
      ...options,
      ...positions,
    });
    const { backward } = result;
    if (backward === undefined) return result;
    return {
      ...result,
      backward: async (dOut) => {
        const { dQuery, dKey, ...rest } = await backward(dOut);
        return {
          ...rest,
          dQuery: turn(dQuery, positions.queryPositions, "transpose"),
          dKey: turn(dKey, positions.keyPositions, "transpose"),
        };
      },
    };
  };
}

function bothPositions(
  where: string,
  Tq: number,
  Tk: number,
  { queryPositions, keyPositions }: AttentionFunctionOptions,
): { queryPositions: ArrayLike<number>; keyPositions: ArrayLike<number> } {
  if (queryPositions !== undefined && keyPositions !== undefined) return { queryPositions, keyPositions };
  if (Tq === Tk && queryPositions === undefined && keyPositions === undefined) {
    const range = Int32Array.from({ length: Tq }, (_, t) => t);
    return { queryPositions: range, keyPositions: range };
  }
  throw new ConfigError(
    where,
    "queryPositions and keyPositions must be given together, and must be given where lengths differ",
    { Tq, Tk, queryPositions: queryPositions !== undefined, keyPositions: keyPositions !== undefined },
    "Only the caller knows where queries stand among the keys.",
  );
}
