/** Linear layers: y = x · kernel + bias. */

import { ConfigError } from "../errors.ts";
import { f32, reshape, sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { checkCount, checkGradient, leadingAxes } from "./features.ts";
import { host } from "./host.ts";
import { type Initializer, zeros as initialZeros, lecunNormal } from "./initializers.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";
import type { Rngs } from "./rngs.ts";

/** How a linear layer starts. */
export type LinearOptions = {
  /** Keys: one of `params` for the kernel, then one for the bias where there is one. */
  readonly rngs: Rngs;
  /** Default true. */
  readonly useBias?: boolean;
  /** Called with the shape [inputs, outputs]; `lecunNormal()` unless told. */
  readonly kernelInit?: Initializer;
  /** Called with the shape [outputs]; `zeros()` unless told. */
  readonly biasInit?: Initializer;
};

/**
 * A linear map of the last axes: nnx.LinearGeneral with trailing axes and no batch axis.
 *
 * Parameters: kernel [...in, ...out], bias [...out].
 */
export class LinearGeneral extends Module {
  readonly inFeatures: readonly number[];
  readonly outFeatures: readonly number[];
  readonly kernel: Tensor<"f32">;
  readonly bias: Tensor<"f32"> | null;
  readonly #name: string;

  /**
   * @param inFeatures - sizes of the last axes of the input
   * @param outFeatures - sizes of the axes that replace them
   * @throws ConfigError when a size is not a positive integer
   */
  constructor(
    inFeatures: number | readonly number[],
    outFeatures: number | readonly number[],
    options: LinearOptions,
    name = "LinearGeneral",
  ) {
    super();
    this.#name = name;
    this.inFeatures = sizes(name, "inFeatures", inFeatures);
    this.outFeatures = sizes(name, "outFeatures", outFeatures);
    const { rngs, useBias = true, kernelInit = lecunNormal(), biasInit = initialZeros() } = options;
    const flat = [sizeOf(this.inFeatures), sizeOf(this.outFeatures)];
    const kernel = kernelInit(rngs.next("params"), flat);
    this.kernel = tensor("f32", [...this.inFeatures, ...this.outFeatures], kernel.data);
    const bias = useBias ? biasInit(rngs.next("params"), [flat[1]]) : null;
    this.bias = bias && tensor("f32", this.outFeatures, bias.data);
  }

  parameters(): ParameterTree {
    return { kernel: this.kernel, ...(this.bias === null ? {} : { bias: this.bias }) };
  }

  /**
   * @param x - f32 [..., ...in]
   * @returns f32 [..., ...out], sums in f64
   * @throws ShapeError when the last axes are others
   */
  forward(x: Tensor<"f32">): Tensor<"f32"> {
    const axes = leadingAxes(`${this.#name}.forward`, x, this.inFeatures);
    const [inputs, outputs] = [sizeOf(this.inFeatures), sizeOf(this.outFeatures)];
    const y = new Float32Array(sizeOf(axes) * outputs);
    const sums = new Float64Array(outputs);
    for (let row = 0; row < sizeOf(axes); row++) {
      if (this.bias === null) sums.fill(0);
      else sums.set(this.bias.data);
      for (let i = 0; i < inputs; i++) {
        const value = x.data[row * inputs + i];
        for (let o = 0; o < outputs; o++) sums[o] += value * this.kernel.data[i * outputs + o];
      }
      y.set(sums, row * outputs);
    }
    return tensor("f32", [...axes, ...this.outFeatures], y);
  }

  /**
   * `forward` with the way back.
   *
   * @param x - f32 [..., ...in]
   * @throws ShapeError when the last axes are others
   */
  vjp(x: Tensor<"f32">): Vjp<ModuleGradients> {
    const out = this.forward(x);
    return { out, backward: (dOut) => this.#backward(x, dOut, out.shape) };
  }

  #backward(x: Tensor<"f32">, dOut: Tensor<"f32">, shape: readonly number[]): ModuleGradients {
    checkGradient(`${this.#name}.vjp`, dOut, shape);
    const [inputs, outputs] = [sizeOf(this.inFeatures), sizeOf(this.outFeatures)];
    const rows = x.data.length / inputs;
    const [dx, kernel] = [zeros("f32", x.shape), zeros("f32", this.kernel.shape)];
    const given = reshape(dOut, [rows, outputs]);
    // dx = dOut · kernelᵀ and dkernel = xᵀ · dOut: the backend's weights are [outputs, inputs].
    host.linear(dx, given, reshape(this.kernel, [inputs, outputs]));
    host.linearWeightBackward(reshape(kernel, [inputs, outputs]), reshape(x, [rows, inputs]), given);
    if (this.bias === null) return { dx, parameters: { kernel } };
    const sums = new Float64Array(outputs);
    for (let i = 0; i < dOut.data.length; i++) sums[i % outputs] += dOut.data[i];
    return { dx, parameters: { kernel, bias: f32(this.outFeatures, sums) } };
  }
}

/** A linear map of the last axis: nnx.Linear. Parameters: kernel [in, out], bias [out]. */
export class Linear extends LinearGeneral {
  /**
   * @param inFeatures - size of the last axis of the input
   * @param outFeatures - size of the last axis of the output
   * @throws ConfigError when a size is not a positive integer
   */
  constructor(inFeatures: number, outFeatures: number, options: LinearOptions) {
    super(inFeatures, outFeatures, options, "Linear");
  }
}

function sizes(where: string, name: string, value: number | readonly number[]): readonly number[] {
  const list = [value].flat();
  if (list.length === 0) throw new ConfigError(where, `${name} must have at least one axis`, { [name]: value });
  return list.map((size: number) => checkCount(where, name, size));
}
