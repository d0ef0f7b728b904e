/** Vectors by token. */

import { ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { checkCount, checkFilled, checkGradient, leadingAxes } from "./features.ts";
import { host } from "./host.ts";
import { type Initializer, varianceScaling } from "./initializers.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";
import type { Rngs } from "./rngs.ts";

/** How an embedding starts. */
export type EmbeddingOptions = {
  /** Keys: one of `params`. */
  readonly rngs: Rngs;
  /** Normal numbers of variance 1 / features unless told. */
  readonly embeddingInit?: Initializer;
};

/** A table of vectors: nnx.Embed. Parameter: embedding [numEmbeddings, features]. */
export class Embedding extends Module {
  readonly numEmbeddings: number;
  readonly features: number;
  readonly embedding: Tensor<"f32">;

  /**
   * @param numEmbeddings - number of tokens
   * @param features - size of a vector
   * @throws ConfigError when a size is not a positive integer
   */
  constructor(numEmbeddings: number, features: number, options: EmbeddingOptions) {
    super();
    this.numEmbeddings = checkCount("Embedding", "numEmbeddings", numEmbeddings);
    this.features = checkCount("Embedding", "features", features);
    const { rngs, embeddingInit = varianceScaling(1, "fanIn", "normal", { outAxis: 0 }) } = options;
    this.embedding = embeddingInit(rngs.next("params"), [numEmbeddings, features]);
  }

  parameters(): ParameterTree {
    return { embedding: this.embedding };
  }

  /**
   * The vectors of tokens.
   *
   * @param tokens - i32 of any shape, 0 to numEmbeddings − 1
   * @returns f32 [..., features]
   * @throws ShapeError when a token has no vector, or the tensor is not i32
   */
  forward(tokens: Tensor<"i32">): Tensor<"f32"> {
    const { features, numEmbeddings } = this;
    if (tokens.dtype !== "i32") {
      throw new ShapeError("Embedding.forward", "an i32 tensor", { dtype: (tokens as Tensor).dtype });
    }
    checkFilled("Embedding.forward", tokens);
    const out = new Float32Array(sizeOf(tokens.shape) * features);
    tokens.data.forEach((token, i) => {
      if (token < 0 || token >= numEmbeddings) {
        throw new ShapeError("Embedding.forward", `tokens must be from 0 to ${numEmbeddings - 1}`, { token, index: i });
      }
      out.set(this.embedding.data.subarray(token * features, (token + 1) * features), i * features);
    });
    return tensor("f32", [...tokens.shape, features], out);
  }

  /**
   * `forward` with the way back.
   *
   * @param tokens - i32 of any shape, 0 to numEmbeddings − 1
   * @throws ShapeError when a token has no vector, or the tensor is not i32
   */
  vjp(tokens: Tensor<"i32">): Vjp<Pick<ModuleGradients, "parameters">> {
    const out = this.forward(tokens);
    const backward = (dOut: Tensor<"f32">): Pick<ModuleGradients, "parameters"> => {
      checkGradient("Embedding.vjp", dOut, out.shape);
      const embedding = zeros("f32", this.embedding.shape);
      host.embedBackward(embedding, dOut, tokens.data);
      return { parameters: { embedding } };
    };
    return { out, backward };
  }

  /**
   * The dot product of each vector with each token's: logits of a head that shares its weights.
   *
   * @param x - f32 [..., features]
   * @returns f32 [..., numEmbeddings], sums in f64
   * @throws ShapeError when the last axis has another size
   */
  attend(x: Tensor<"f32">): Tensor<"f32"> {
    const { features, numEmbeddings } = this;
    const axes = leadingAxes("Embedding.attend", x, [features]);
    const out = new Float32Array(sizeOf(axes) * numEmbeddings);
    for (let i = 0; i < out.length; i++) {
      const row = Math.floor(i / numEmbeddings) * features;
      const token = (i % numEmbeddings) * features;
      let sum = 0;
      for (let f = 0; f < features; f++) sum += x.data[row + f] * this.embedding.data[token + f];
      out[i] = sum;
    }
    return tensor("f32", [...axes, numEmbeddings], out);
  }

  /**
   * `attend` with the way back.
   *
   * @param x - f32 [..., features]
   * @throws ShapeError when the last axis has another size
   */
  attendVjp(x: Tensor<"f32">): Vjp<ModuleGradients> {
    const out = this.attend(x);
    const backward = (dOut: Tensor<"f32">): ModuleGradients => {
      checkGradient("Embedding.attendVjp", dOut, out.shape);
      const [dx, embedding] = [zeros("f32", x.shape), zeros("f32", this.embedding.shape)];
      host.linearInputBackward(dx, dOut, this.embedding, false);
      host.linearWeightBackward(embedding, dOut, x);
      return { dx, parameters: { embedding } };
    };
    return { out, backward };
  }
}
