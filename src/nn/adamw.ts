/** AdamW over a tree of parameters. */

import { ConfigError } from "../errors.ts";
import { type Tensor, zeros } from "../tensor.ts";
import { checkGradient, checkNotNegative } from "./features.ts";
import { host } from "./host.ts";
import { flattenParameters, matchParameters, type ParameterTree } from "./module.ts";

/** How AdamW steps; the defaults are optax's. */
export type AdamWOptions = {
  /** 0 or more. */
  readonly learningRate: number;
  /** Decay of the mean of gradients, from 0 to below 1; 0.9 unless told. */
  readonly beta1?: number;
  /** Decay of the mean of squared gradients, from 0 to below 1; 0.999 unless told. */
  readonly beta2?: number;
  /** Above 0; 1e-8 unless told. */
  readonly epsilon?: number;
  /** Of all parameters, 0 or more; 1e-4 unless told. */
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
  readonly #options: Required<AdamWOptions>;
  readonly #moments: ReadonlyMap<string, Moments>;
  #step = 0;

  /**
   * @param parameters - what is changed: a module's, or those of several by any names
   * @throws ConfigError when an option is out of range
   */
  constructor(parameters: ParameterTree, options: AdamWOptions) {
    this.#parameters = parameters;
    this.#options = checkOptions(options);
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
   * @throws ConfigError when a name is missing or unknown, or the learning rate is out of range
   * @throws ShapeError when a gradient has another shape or is not f32; nothing is changed then
   */
  update(gradients: ParameterTree, call: { readonly learningRate?: number } = {}): void {
    const pairs = matchParameters("AdamW.update", this.#parameters, gradients);
    for (const { parameter, value } of pairs) checkGradient("AdamW.update", value as Tensor<"f32">, parameter.shape);
    const { learningRate: usual, ...constants } = this.#options;
    const learningRate = checkNotNegative("AdamW.update", "learningRate", call.learningRate ?? usual);
    this.#step++;
    for (const { name, parameter: weight, value } of pairs) {
      host.adamW({
        ...{ weight, gradient: value as Tensor<"f32">, ...(this.#moments.get(name) as Moments) },
        ...{ gradientScale: 1, learningRate, ...constants, step: this.#step },
      });
    }
  }
}

/** All options, in range. */
function checkOptions(options: AdamWOptions): Required<AdamWOptions> {
  const { learningRate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 1e-4 } = options;
  for (const [name, value] of Object.entries({ learningRate, weightDecay })) checkNotNegative("AdamW", name, value);
  for (const [name, value] of Object.entries({ beta1, beta2 })) {
    if (!(value >= 0 && value < 1)) {
      throw new ConfigError("AdamW", `${name} must be from 0 to below 1`, { [name]: value });
    }
  }
  if (!(Number.isFinite(epsilon) && epsilon > 0))
    throw new ConfigError("AdamW", "epsilon must be above 0", { epsilon });
  return { learningRate, beta1, beta2, epsilon, weightDecay };
}
