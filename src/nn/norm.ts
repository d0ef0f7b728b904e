/** Normalisation over the last axis. */

import { f32, type Tensor, zeros } from "../tensor.ts";
import { checkCount, checkGradient, checkNotNegative, leadingAxes } from "./features.ts";
import { host } from "./host.ts";
import { type Initializer, zeros as initialZeros, ones } from "./initializers.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";
import type { Rngs } from "./rngs.ts";

/** How an RMSNorm starts. */
export type RMSNormOptions = {
  /** Keys: one of `params` for each parameter. */
  readonly rngs: Rngs;
  /** Added to the variance; 1e-6 unless told. */
  readonly epsilon?: number;
  /** Default true. */
  readonly useScale?: boolean;
  /** `ones()` unless told. */
  readonly scaleInit?: Initializer;
};

/** How a LayerNorm starts. */
export type LayerNormOptions = RMSNormOptions & {
  /** Default true. */
  readonly useBias?: boolean;
  /** `zeros()` unless told. */
  readonly biasInit?: Initializer;
};

/**
 * (x − mean) / sqrt(variance + ε) · scale + bias: nnx.LayerNorm. Parameters: scale [features], bias [features].
 *
 * @see https://arxiv.org/abs/1607.06450
 */
export class LayerNorm extends Module {
  readonly numFeatures: number;
  readonly epsilon: number;
  readonly scale: Tensor<"f32"> | null;
  readonly bias: Tensor<"f32"> | null;

  /**
   * @param numFeatures - size of the last axis
   * @throws ConfigError when it is not a positive integer, or epsilon is negative
   */
  constructor(numFeatures: number, options: LayerNormOptions) {
    super();
    const {
      rngs,
      epsilon = 1e-6,
      useScale = true,
      scaleInit = ones(),
      useBias = true,
      biasInit = initialZeros(),
    } = options;
    this.numFeatures = checkCount("LayerNorm", "numFeatures", numFeatures);
    this.epsilon = checkNotNegative("LayerNorm", "epsilon", epsilon);
    this.scale = useScale ? scaleInit(rngs.next("params"), [numFeatures]) : null;
    this.bias = useBias ? biasInit(rngs.next("params"), [numFeatures]) : null;
  }

  parameters(): ParameterTree {
    return present({ scale: this.scale, bias: this.bias });
  }

  /**
   * @param x - f32 [..., features]
   * @returns f32 of the same shape, computed in f64
   * @throws ShapeError when the last axis has another size
   */
  forward(x: Tensor<"f32">): Tensor<"f32"> {
    leadingAxes("LayerNorm.forward", x, [this.numFeatures]);
    const out = zeros("f32", x.shape);
    host.layerNorm(out, x, gainOf(this), this.epsilon, this.bias ?? undefined);
    return out;
  }

  /**
   * `forward` with the way back.
   *
   * @param x - f32 [..., features]
   * @throws ShapeError when the last axis has another size
   */
  vjp(x: Tensor<"f32">): Vjp<ModuleGradients> {
    const out = this.forward(x);
    const backward = (dOut: Tensor<"f32">): ModuleGradients => {
      checkGradient("LayerNorm.vjp", dOut, out.shape);
      const dx = zeros("f32", x.shape);
      const [scale, bias] = [0, 1].map(() => zeros("f32", [this.numFeatures]));
      host.layerNormBackward(dx, scale, dOut, x, gainOf(this), this.epsilon, false, bias);
      return { dx, parameters: present({ scale: this.scale && scale, bias: this.bias && bias }) };
    };
    return { out, backward };
  }
}

/**
 * x / sqrt(mean of squares + ε) · scale: nnx.RMSNorm. Parameter: scale [features].
 *
 * @see https://arxiv.org/abs/1910.07467
 */
export class RMSNorm extends Module {
  readonly numFeatures: number;
  readonly epsilon: number;
  readonly scale: Tensor<"f32"> | null;

  /**
   * @param numFeatures - size of the last axis
   * @throws ConfigError when it is not a positive integer, or epsilon is negative
   */
  constructor(numFeatures: number, options: RMSNormOptions) {
    super();
    const { rngs, epsilon = 1e-6, useScale = true, scaleInit = ones() } = options;
    this.numFeatures = checkCount("RMSNorm", "numFeatures", numFeatures);
    this.epsilon = checkNotNegative("RMSNorm", "epsilon", epsilon);
    this.scale = useScale ? scaleInit(rngs.next("params"), [numFeatures]) : null;
  }

  parameters(): ParameterTree {
    return present({ scale: this.scale });
  }

  /**
   * @param x - f32 [..., features]
   * @returns f32 of the same shape, computed in f64
   * @throws ShapeError when the last axis has another size
   */
  forward(x: Tensor<"f32">): Tensor<"f32"> {
    leadingAxes("RMSNorm.forward", x, [this.numFeatures]);
    const out = zeros("f32", x.shape);
    host.rmsNorm(out, x, gainOf(this), this.epsilon);
    return out;
  }

  /**
   * `forward` with the way back.
   *
   * @param x - f32 [..., features]
   * @throws ShapeError when the last axis has another size
   */
  vjp(x: Tensor<"f32">): Vjp<ModuleGradients> {
    const out = this.forward(x);
    const backward = (dOut: Tensor<"f32">): ModuleGradients => {
      checkGradient("RMSNorm.vjp", dOut, out.shape);
      const [dx, scale] = [zeros("f32", x.shape), zeros("f32", [this.numFeatures])];
      host.rmsNormBackward(dx, scale, dOut, x, gainOf(this), this.epsilon, false);
      return { dx, parameters: present({ scale: this.scale && scale }) };
    };
    return { out, backward };
  }
}

function gainOf({ scale, numFeatures }: Pick<RMSNorm, "scale" | "numFeatures">): Tensor<"f32"> {
  return scale ?? f32([numFeatures], new Array(numFeatures).fill(1));
}

function present(parameters: Readonly<Record<string, Tensor<"f32"> | null>>): ParameterTree {
  return Object.fromEntries(
    Object.entries(parameters).filter((entry): entry is [string, Tensor<"f32">] => entry[1] !== null),
  );
}
