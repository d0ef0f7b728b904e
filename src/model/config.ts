/**
 * A decoder as data: what the block loop needs to know, whatever the checkpoint called it.
 */

import type { Activation } from "../engine/index.ts";
import type { Mask } from "../mask/index.ts";
import type { LayerPositions } from "../rope/index.ts";

/** One decoder layer. */
export type LayerConfig = {
  /** H, query heads. */
  readonly heads: number;
  /** Hk, key-value heads. */
  readonly kvHeads: number;
  /** D, width of a head. */
  readonly headDim: number;
  /** Rotation, query temperature and softmax factor of this layer. */
  readonly positions: LayerPositions;
  /** Who may attend to whom, beside the segments, which always apply. */
  readonly mask: Mask;
  /** Where the mask is nothing but causal within a window: the keys it shows a query, its own included. */
  readonly slidingWindow?: number;
  /** Softmax scale, the schedule's factor included. */
  readonly scale: number;
  /** F, width of the feed-forward block. */
  readonly intermediateSize: number;
  readonly activation: Activation;
};

/** A whole decoder. */
export type DecoderConfig = {
  /** Its `model_type` in config.json. */
  readonly modelType: string;
  /** V. */
  readonly vocabSize: number;
  /** C, width of the residual stream. */
  readonly hiddenSize: number;
  /** Longest context the checkpoint was made for, in tokens. */
  readonly maxPositions: number;
  readonly normEps: number;
  /** Whether the output head is the embedding table. */
  readonly tiedEmbeddings: boolean;
  readonly layers: readonly LayerConfig[];
};
