/**
 * The weights of a decoder, by role, and the shape-checked access to a checkpoint that fills the roles.
 */

import type { Backend, WeightMatrix } from "../engine/index.ts";
import { FormatError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { AS_STORED, type KeptType, keptType, type WeightKeeping } from "./weight-choice.ts";
import type { Checkpoint } from "./weights/index.ts";

/** A projection: y = x · weightᵀ + bias. */
export type LinearWeights = {
  /** [N, K]. */
  readonly weight: WeightMatrix;
  /** [N]. */
  readonly bias?: Tensor<"f32">;
};

/** One layer; shapes by the letters of the design: C hidden, F intermediate, D head dim. */
export type LayerWeights = {
  /** [C] gain before attention. */
  readonly attentionNorm: Tensor<"f32">;
  /** [H·D, C]. */
  readonly query: LinearWeights;
  /** [Hk·D, C]. */
  readonly key: LinearWeights;
  /** [Hk·D, C]. */
  readonly value: LinearWeights;
  /** [D] gain of every query head before rotation; absent: queries are not normalised. */
  readonly queryNorm?: Tensor<"f32">;
  /** [D] gain of every key head before rotation; absent: keys are not normalised. */
  readonly keyNorm?: Tensor<"f32">;
  /** [C, H·D]. */
  readonly output: LinearWeights;
  /** [C] gain before the feed-forward block. */
  readonly feedForwardNorm: Tensor<"f32">;
  /** [F, C]. */
  readonly gate: LinearWeights;
  /** [F, C]. */
  readonly up: LinearWeights;
  /** [C, F]. */
  readonly down: LinearWeights;
};

/** A whole decoder. */
export type DecoderWeights = {
  /** [V, C]. */
  readonly embedding: WeightMatrix;
  readonly layers: readonly LayerWeights[];
  /** [C]. */
  readonly finalNorm: Tensor<"f32">;
  /** [V, C]; the embedding itself when tied. */
  readonly head: WeightMatrix;
};

/** Reads named tensors into a backend, refusing any that has not the shape the config promises. */
export class WeightLoader {
  readonly #checkpoint: Checkpoint;
  readonly #backend: Backend;
  readonly #onTensor: (name: string, kept: KeptType) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #keeping: WeightKeeping;
  readonly #loaded: (Tensor | WeightMatrix)[] = [];

  /**
   * @param checkpoint - the weight files
   * @param backend - where weights go
   * @param onTensor - called after each tensor
   * @param signal - stops loading between tensors
   * @param keeping - the element types of matrices; as stored when absent
   */
  constructor(
    checkpoint: Checkpoint,
    backend: Backend,
    onTensor: (name: string, kept: KeptType) => void,
    signal?: AbortSignal,
    keeping: WeightKeeping = AS_STORED,
  ) {
    this.#checkpoint = checkpoint;
    this.#backend = backend;
    this.#onTensor = onTensor;
    this.#signal = signal;
    this.#keeping = keeping;
  }

  /**
   * A vector of gains or biases [N].
   *
   * @throws FormatError when it is missing or has another shape
   */
  async vector(name: string, size: number): Promise<Tensor<"f32">> {
    const vector = this.#backend.vector(await this.#read(name, [size]));
    this.#loaded.push(vector);
    this.#onTensor(name, { type: "f32", fallback: false });
    return vector;
  }

  /**
   * A matrix [N, K], converted to the type it shall be kept in.
   *
   * @throws FormatError when it is missing, has another shape, or weights that the type cannot hold
   */
  async matrix(name: string, outputs: number, inputs: number): Promise<WeightMatrix> {
    const tensor = await this.#read(name, [outputs, inputs]);
    const kept = keptType(this.#keeping, name, tensor);
    const matrix = this.#backend.matrix(tensor, kept.type, name);
    this.#loaded.push(matrix);
    this.#onTensor(name, kept);
    return matrix;
  }

  async #read(name: string, shape: readonly number[]): Promise<Tensor> {
    this.#signal?.throwIfAborted();
    const info = this.#checkpoint.info(name);
    if (info.shape.join() !== shape.join()) {
      throw new FormatError(
        "loadModel",
        `tensor ${name} must have shape [${shape.join(", ")}]`,
        { shape: info.shape },
        "config.json and the weight file do not belong together.",
      );
    }
    return this.#checkpoint.read(name);
  }

  /** The projection `name`.weight [outputs, inputs], with `name`.bias [outputs] when asked. */
  async linear(name: string, outputs: number, inputs: number, withBias = false): Promise<LinearWeights> {
    const weight = await this.matrix(`${name}.weight`, outputs, inputs);
    return withBias ? { weight, bias: await this.vector(`${name}.bias`, outputs) } : { weight };
  }

  /** Gives back all that was loaded. */
  release(): void {
    for (const weights of this.#loaded.splice(0)) this.#backend.release(weights);
  }
}
