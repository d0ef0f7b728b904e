/**
 * What one attention layer does about positions: which dims rotate, in which pairing, by which schedule.
 */

import type { RopeSchedule } from "./schedule.ts";

/**
 * Which features make a pair: `half` is (i, i + R/2), as in Hugging Face's rotate_half and GPT-NeoX;
 * `interleaved` is (2i, 2i + 1), as in GPT-J, Meta's Llama and llama2.c.
 */
export type Pairing = "half" | "interleaved";

/** A scale of the query that grows with its position p: 1 + beta·ln(1 + floor((p + offset) / length)). */
export type QueryTemperature = {
  readonly beta: number;
  readonly length: number;
  /** 1 in Llama 4, 0 in Ministral 3. */
  readonly offset: 0 | 1;
};

/** The rotation of one layer's queries and keys. Plain data: it can be stored, compared and printed. */
export type RotaryLayer = {
  /** Width of a head. */
  readonly headDim: number;
  /** Number of rotated dims R, even. */
  readonly rotaryDim: number;
  /** First rotated dim; the dims outside [offset, offset + R) pass through. */
  readonly rotaryOffset: number;
  readonly pairing: Pairing;
  readonly schedule: RopeSchedule;
  /** [R/2] the position row each pair turns by, for multi-axis positions (M-RoPE); absent for one axis. */
  readonly pairAxes?: readonly number[];
};

/** Everything about positions that one attention layer needs. */
export type LayerPositions = {
  /** `null`: the layer has no rotation (NoPE). */
  readonly rotary: RotaryLayer | null;
  /** `null`: queries are not scaled by position. */
  readonly queryTemperature: QueryTemperature | null;
  /** Factor of the softmax scale that comes with the schedule (DeepSeek's YaRN); 1 otherwise. */
  readonly softmaxScaleFactor: number;
};
