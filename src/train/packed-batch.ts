/** Tokens to train on: several texts in one run, told apart by segments. */

/** T tokens with what each is to predict. */
export type PackedBatch = {
  /** i32 [T]. */
  readonly tokens: Int32Array;
  /** i32 [T], from 0 in every text. */
  readonly positions: Int32Array;
  /** i32 [T]; −1 is padding. */
  readonly segments: Int32Array;
  /** i32 [T], the token that follows; −1 where none does, or none counts. */
  readonly targets: Int32Array;
  /** f32 [T], how much each prediction counts; 0 where the target is −1. */
  readonly weights: Float32Array;
};

/** Sum of a batch's weights. */
export function totalWeight({ weights }: PackedBatch): number {
  let sum = 0;
  for (const weight of weights) sum += weight;
  return sum;
}
