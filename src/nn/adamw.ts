/** AdamW over a tree of parameters. */

import { ConfigError } from "../errors.ts";
import { type Tensor, zeros } from "../tensor.ts";
import { host } from "./host.ts";
import { flattenParameters, matchParameters, type ParameterTree } from "./module.ts";

/** How AdamW steps; the defaults are optax's. */
export type AdamWOptions = {
  readonly learningRate: number;
  /** Decay of the mean of gradients; 0.9 unless told. */
  readonly beta1?: number;
  /** Decay of the mean of squared gradients; 0.999 unless told. */
  readonly beta2?: number;
  /** 1e-8 unless told. */
  readonly epsilon?: number;
  /** Of all parameters; 1e-4 unless told. */
  readonly weightDecay?: number;
};

type Moments = { readonly mean: Tensor<"f32">; readonly square: Tensor<"f32"> };

/**
 * Changes parameters by their gradients: nnx.Optimizer with optax.adamw.
 *
 * @see https://arxiv.org/abs/1711.05101
 */
export class AdamW {
  readonly #parameters: ParameterTree;
  readonly #options: AdamWOptions;
  readonly #moments: ReadonlyMap<string, Moments>;
  #step = 0;

  /**
   * @param parameters - what is changed: a module's, or those of several by any names
   * @throws ConfigError when the learning rate is no finite number
   */
  constructor(parameters: ParameterTree, options: AdamWOptions) {
    if (!Number.isFinite(options.learningRate)) {
      throw new ConfigError("AdamW", "learningRate must be finite", { learningRate: options.learningRate });
    }
    this.#parameters = parameters;
    this.#options = options;
    const entries = Object.entries(flattenParameters(parameters));
    this.#moments = new Map(
      entries.map(([name, { shape }]) => [name, { mean: zeros("f32", shape), square: zeros("f32", shape) }]),
    );
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#step;
  }

  /**
   * Takes a step.
   *
   * @param gradients - a tree like the parameters'
   * @param call - `learningRate`: of this step, in place of the optimiser's
   * @throws ConfigError when a name is missing or unknown; ShapeError when a shape differs; nothing is changed then
   */
  update(gradients: ParameterTree, call: { readonly learningRate?: number } = {}): void {
    const pairs = matchParameters("AdamW.update", this.#parameters, gradients);
    const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 1e-4 } = this.#options;
    const learningRate = call.learningRate ?? this.#options.learningRate;
    this.#step++;
    for (const { name, parameter: weight, value } of pairs) {
      host.adamW({
        ...{ weight, gradient: value as Tensor<"f32">, ...(this.#moments.get(name) as Moments) },
        ...{ gradientScale: 1, learningRate, beta1, beta2, epsilon, weightDecay, step: this.#step },
      });
    }
  }
}
