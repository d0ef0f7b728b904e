/** Elementwise functions as modules. */

import type { Activation as ActivationName } from "../engine/index.ts";
import { ACTIVATIONS } from "../engine/reference/activations.ts";
import { ConfigError } from "../errors.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { checkFilled, checkGradient } from "./features.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";

/** "silu" is nnx.silu, "geluTanh" nnx.gelu as it is called without more, "gelu" nnx.gelu with approximate=False. */
export class Activation extends Module {
  readonly activation: ActivationName;

  /** @throws ConfigError when there is none of that name */
  constructor(activation: ActivationName) {
    super();
    if (!Object.hasOwn(ACTIVATIONS, activation)) {
      const names = Object.keys(ACTIVATIONS).join(", ");
      throw new ConfigError("Activation", `activation must be one of ${names}`, { activation });
    }
    this.activation = activation;
  }

  parameters(): ParameterTree {
    return {};
  }

  /**
   * @param x - f32 of any shape
   * @returns f32 of the same shape, computed in f64
   * @throws ShapeError when the data do not fill the shape
   */
  forward(x: Tensor<"f32">): Tensor<"f32"> {
    checkFilled("Activation.forward", x);
    const f = ACTIVATIONS[this.activation];
    return tensor(
      "f32",
      x.shape,
      x.data.map((value) => f(value).value),
    );
  }

  /**
   * `forward` with the way back.
   *
   * @param x - f32 of any shape
   * @throws ShapeError when the data do not fill the shape
   */
  vjp(x: Tensor<"f32">): Vjp<Pick<ModuleGradients, "dx">> {
    const f = ACTIVATIONS[this.activation];
    const backward = (dOut: Tensor<"f32">): Pick<ModuleGradients, "dx"> => {
      checkGradient("Activation.vjp", dOut, x.shape);
      const dx = dOut.data.map((gradient, i) => gradient * f(x.data[i]).slope);
      return { dx: tensor("f32", x.shape, dx) };
    };
    return { out: this.forward(x), backward };
  }
}
