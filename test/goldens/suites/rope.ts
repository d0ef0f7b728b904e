/** Rotary schedules and rotations, from Hugging Face transformers. */

import { frequencies, positionsFromConfig, rotaryTable, rotateInto, temperatureScales } from "phasor/rope";
import type { GoldenTensor, SuiteRunner, Values } from "../case.ts";

/** Parameters of a rope case. */
type RopeParams = {
  config: unknown;
  head_dim: number;
  seqLen: number;
  rotary_dim: number;
  rotary_offset: number;
  pairing: "half" | "interleaved";
  layerType?: string;
  layerIndex?: number;
  nope?: boolean;
  /** Width of the whole query head, for the softmax scale; head_dim is only its rotary part in MLA. */
  qk_head_dim?: number;
};

/** Computes every tensor a rope case may expect. */
export const rope: SuiteRunner = async ({ params, tensor, has }) => {
  const {
    config,
    head_dim: headDim,
    seqLen,
    layerType,
    layerIndex,
    qk_head_dim: queryDim,
    ...expected
  } = params as RopeParams;
  const layer = positionsFromConfig(config, {
    headDim,
    ...(layerType === undefined ? {} : { layerType }),
    ...(layerIndex === undefined ? {} : { layerIndex }),
  });
  const positions = tensor("positions");
  const [T, heads] = tensor("x").shape;
  const x = Float32Array.from(tensor("x").data);
  const rotated = new Float32Array(x.length);
  const outputs: Record<string, Values> = { rotated };

  const { rotary } = layer;
  if (rotary === null) {
    if (expected.nope !== true) throw new Error("the config was read as having no rotation");
    const pairs = expected.rotary_dim / 2;
    rotated.set(x);
    outputs.inv_freq = new Float64Array(pairs);
    outputs.attention_factor = [1];
    outputs.cos = new Float64Array(T * pairs).fill(1);
    outputs.sin = new Float64Array(T * pairs);
  } else {
    const layout = [rotary.rotaryDim, rotary.rotaryOffset, rotary.pairing].join();
    const wanted = [expected.rotary_dim, expected.rotary_offset, expected.pairing].join();
    if (layout !== wanted) throw new Error(`layout is ${layout}, expected ${wanted}`);
    const table = rotaryTable(rotary, positionRows(positions), { length: seqLen });
    const { inverseFrequencies, attentionFactor } = frequencies(rotary.schedule, seqLen);
    rotateInto(rotated, x, table, { heads, headDim });
    outputs.inv_freq = inverseFrequencies;
    outputs.attention_factor = [attentionFactor];
    outputs.cos = table.cos;
    outputs.sin = table.sin;
  }
  if (has("query_scale")) {
    if (layer.queryTemperature === null) throw new Error("the config was read as having no query temperature");
    const scales = temperatureScales(layer.queryTemperature, Int32Array.from(positions.data));
    outputs.query_scale = scales;
    outputs.rotated_q = rotated.map((value, i) => value * scales[Math.floor(i / (heads * headDim))]);
  } else if (layer.queryTemperature !== null) {
    throw new Error("the config was read as having a query temperature");
  }
  if (has("softmax_scale")) {
    outputs.softmax_scale = [layer.softmaxScaleFactor / Math.sqrt(queryDim ?? headDim)];
  }
  return outputs;
};

/** One row of positions, or one per axis (M-RoPE). */
function positionRows({ shape, data }: GoldenTensor): Int32Array | Int32Array[] {
  const all = Int32Array.from(data);
  if (shape.length === 1) return all;
  const [axes, T] = shape;
  return Array.from({ length: axes }, (_, axis) => all.subarray(axis * T, (axis + 1) * T));
}
