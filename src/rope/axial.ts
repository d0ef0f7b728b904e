/**
 * Axial (2-D and n-D) rotations of images: every pair turns by one coordinate. They are ordinary layers with
 * listed frequencies and an axis per pair; only the lists differ between models.
 */

import { ConfigError } from "../errors.ts";
import type { Pairing, RotaryLayer } from "./layer.ts";

/** The vision encoders whose layout is known. */
export type VisionRotary = "qwen-vl" | "pixtral" | "llama4" | "dinov3";

/**
 * One block of dims per axis, each with the plain frequencies of its own width, adjacent pairs (Flux).
 *
 * @param axesDim - rotated dims per axis, even; they sum to the head width ([16, 56, 56] in Flux.1)
 * @param theta - base: 10000 in Flux.1, 2000 in Flux.2
 * @throws ConfigError for widths that are not even
 */
export function axialLayer(axesDim: readonly number[], theta: number): RotaryLayer {
  if (axesDim.length === 0 || !axesDim.every((dim) => Number.isSafeInteger(dim) && dim > 0 && dim % 2 === 0)) {
    throw new ConfigError("axialLayer", "axesDim must be even numbers greater than 0", { axesDim });
  }
  const lists = axesDim.map((dim) => powers(theta, dim / 2, 2 / dim));
  return layerOf("interleaved", lists);
}

/**
 * The rotation of a vision encoder, over axes (h, w), or (x, y) for Llama 4.
 *
 * Positions come from `gridPositions` (Qwen-VL, with its merge size as block, and Pixtral), `llama4GridPositions`
 * or `centeredGridPositions` (DINOv3).
 *
 * @param model - the encoder
 * @param headDim - D, a multiple of 4
 * @param theta - base; 10000 unless told, 100 for DINOv3
 * @throws ConfigError for a head width that is not a multiple of 4
 */
export function visionLayer(
  model: VisionRotary,
  headDim: number,
  theta: number = model === "dinov3" ? 100 : 10000,
): RotaryLayer {
  if (!Number.isSafeInteger(headDim) || headDim <= 0 || headDim % 4 !== 0) {
    throw new ConfigError("visionLayer", "headDim must be a multiple of 4", { headDim });
  }
  const quarter = headDim / 4;
  const perAxis = powers(theta, quarter, 4 / headDim); // the frequencies of a head of D/2
  switch (model) {
    case "qwen-vl":
      return layerOf("half", [perAxis, perAxis]);
    case "llama4":
      return layerOf("interleaved", [perAxis, perAxis]);
    case "dinov3": {
      const turns = perAxis.map((w) => 2 * Math.PI * w);
      return layerOf("half", [turns, turns]);
    }
    case "pixtral": {
      const whole = powers(theta, headDim / 2, 2 / headDim); // even frequencies for rows, odd ones for columns
      const every = (parity: number): number[] => whole.filter((_, i) => i % 2 === parity);
      return layerOf("half", [every(0), every(1)]);
    }
  }
}

/** theta^(−i·step) for i = 0 to count − 1. */
function powers(theta: number, count: number, step: number): number[] {
  if (!(Number.isFinite(theta) && theta > 0)) {
    throw new ConfigError("axial rotation", "theta must be a number greater than 0", { theta });
  }
  return Array.from({ length: count }, (_, i) => 1 / theta ** (i * step));
}

function layerOf(pairing: Pairing, lists: readonly (readonly number[])[]): RotaryLayer {
  const inverseFrequencies = lists.flat();
  const dim = 2 * inverseFrequencies.length;
  return {
    headDim: dim,
    rotaryDim: dim,
    rotaryOffset: 0,
    pairing,
    schedule: { type: "explicit", dim, inverseFrequencies },
    pairAxes: lists.flatMap((list, axis) => list.map(() => axis)),
  };
}
