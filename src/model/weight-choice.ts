/**
 * In which element type each tensor of a checkpoint is kept once it is loaded.
 */

import type { DType } from "../dtype.ts";
import { holdsWidth, storedType, WEIGHT_TYPES, type WeightType } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";

/** What can be asked for: the type of the file, or one for all matrices. */
export const WEIGHT_CHOICES = ["stored", ...WEIGHT_TYPES] as const;

/** One of them. */
export type WeightChoice = (typeof WEIGHT_CHOICES)[number];

/** How the weights of a model are kept. */
export type WeightKeeping = {
  readonly weights: WeightChoice;
  /** The name of the tensor that the output head is made of. */
  readonly headTensor: string;
};

/** Everything in the type of the file. */
export const AS_STORED: WeightKeeping = { weights: "stored", headTensor: "" };

/** How a tensor is kept. */
export type KeptType = {
  readonly type: WeightType;
  /** Whether it is a matrix that keeps the type of the file since its rows are not whole blocks of the type asked for. */
  readonly fallback: boolean;
};

/**
 * Refuses what is no choice.
 *
 * @throws ConfigError
 */
export function checkWeightChoice(where: string, weights: WeightChoice): WeightChoice {
  if (WEIGHT_CHOICES.includes(weights)) return weights;
  throw new ConfigError(where, `weights must be one of ${WEIGHT_CHOICES.join(", ")}`, { weights });
}

/**
 * The type of a loaded tensor. Vectors are f32. Where matrices are q4_0, the output head is q8_0, and so is a table that
 * serves as embedding and head: four bits there cost more quality than the bytes are worth, and GGUF files of that name
 * keep more for the head, too.
 *
 * @param keeping - what is asked for
 * @param name - the tensor's name
 * @param tensor - its element type and shape in the file
 * @see https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp the types of GGUF files, by tensor
 */
export function keptType(
  { weights, headTensor }: WeightKeeping,
  name: string,
  { dtype, shape }: { readonly dtype: DType | undefined; readonly shape: readonly number[] },
): KeptType {
  if (shape.length !== 2) return { type: "f32", fallback: false };
  const stored = dtype === undefined ? "f32" : storedType({ dtype });
  if (weights === "stored") return { type: stored, fallback: false };
  const type = weights === "q4_0" && name === headTensor ? "q8_0" : weights;
  return holdsWidth(type, shape[1]) ? { type, fallback: false } : { type: stored, fallback: true };
}
