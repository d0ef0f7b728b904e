/** Dropout of activations. */

import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor } from "../tensor.ts";
import { checkGradient } from "./features.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";
import { bernoulli } from "./random.ts";
import type { RngStream, Rngs } from "./rngs.ts";

/** How a Dropout works. */
export type DropoutOptions = {
  /** Where its keys come from: a stream forked from `dropout`. Without it each call must bring its own. */
  readonly rngs?: Rngs;
  /** Axes along which the same numbers are dropped; negative ones count from the end. */
  readonly broadcastAxes?: readonly number[];
  /** Whether calls that do not say pass their input on unchanged; default false. */
  readonly deterministic?: boolean;
};

/** What one call of Dropout may say. */
export type DropoutCall = {
  /** In place of the module's. */
  readonly deterministic?: boolean;
  /** In place of the module's; the next key of `dropout` is drawn. */
  readonly rngs?: Rngs;
};

/** Sets numbers to 0 at random and divides the others by 1 − rate: nnx.Dropout, with the same draws. */
export class Dropout extends Module {
  readonly rate: number;
  readonly deterministic: boolean;
  readonly #broadcastAxes: readonly number[];
  readonly #stream: RngStream | undefined;

  /**
   * @param rate - share of numbers that are dropped, 0 to 1
   * @throws ConfigError when the rate is out of range
   */
  constructor(rate: number, options: DropoutOptions = {}) {
    super();
    if (!(rate >= 0 && rate <= 1)) throw new ConfigError("Dropout", "rate must be from 0 to 1", { rate });
    this.rate = rate;
    this.deterministic = options.deterministic ?? false;
    this.#broadcastAxes = options.broadcastAxes ?? [];
    this.#stream = options.rngs?.stream("dropout").fork();
  }

  parameters(): ParameterTree {
    return {};
  }

  /**
   * @param x - f32 of any shape
   * @returns f32 of the same shape; `x` itself where nothing is dropped
   * @throws ConfigError when numbers are to be dropped and there are no keys
   * @throws ShapeError when `x` lacks an axis to broadcast along
   */
  forward(x: Tensor<"f32">, call: DropoutCall = {}): Tensor<"f32"> {
    return this.vjp(x, call).out;
  }

  /**
   * `forward` with the way back, which drops what the call has dropped.
   *
   * @param x - f32 of any shape
   * @throws ConfigError or ShapeError as `forward`
   */
  vjp(x: Tensor<"f32">, call: DropoutCall = {}): Vjp<Pick<ModuleGradients, "dx">> {
    const drop = this.#draw(x.shape, call);
    const backward = (dOut: Tensor<"f32">): Pick<ModuleGradients, "dx"> => {
      checkGradient("Dropout.vjp", dOut, x.shape);
      return { dx: tensor("f32", x.shape, drop(dOut.data.slice())) };
    };
    const out = drop(x.data);
    return { out: out === x.data ? x : tensor("f32", x.shape, out), backward };
  }

  /** What is done to the numbers of a tensor of this shape. */
  #draw(shape: readonly number[], call: DropoutCall): (numbers: Float32Array) => Float32Array {
    if (this.rate === 0 || (call.deterministic ?? this.deterministic)) return (numbers) => numbers;
    if (this.rate === 1) return (numbers) => new Float32Array(numbers.length);
    const key = call.rngs?.next("dropout") ?? this.#stream?.next();
    if (key === undefined) {
      throw new ConfigError(
        "Dropout.forward",
        "rngs, of the module or of the call",
        { rate: this.rate },
        "Pass deterministic: true to drop nothing.",
      );
    }
    const drawn = this.#drawnShape(shape);
    const keep = bernoulli(key, 1 - this.rate, drawn).data;
    const kept = Math.fround(1 - this.rate);
    const at = broadcastIndex(drawn, shape);
    return (numbers) => numbers.map((value, i) => (keep[at(i)] === 1 ? value / kept : 0));
  }

  #drawnShape(shape: readonly number[]): readonly number[] {
    const drawn = [...shape];
    for (const axis of this.#broadcastAxes) {
      const at = axis < 0 ? axis + shape.length : axis;
      if (!Number.isInteger(at) || at < 0 || at >= shape.length) {
        throw new ShapeError("Dropout.forward", "broadcastAxes must be axes of the input", { axis, shape });
      }
      drawn[at] = 1;
    }
    return drawn;
  }
}

/**
 * Where an element of `shape` lies in the smaller tensor that is broadcast to it.
 *
 * @param from - as many axes as `shape`, each of the same size or 1
 */
export function broadcastIndex(from: readonly number[], shape: readonly number[]): (index: number) => number {
  const strides = from.map((extent, axis) => (extent === 1 ? 0 : sizeOf(from.slice(axis + 1))));
  return (index) => {
    let rest = index;
    let at = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += (rest % shape[axis]) * strides[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    return at;
  };
}
