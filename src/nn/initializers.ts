/**
 * What parameters start from, with JAX's numbers. An initialiser is made by one of these functions and called with a
 * key and a shape: `lecunNormal()(key, [in, out])`.
 *
 * @see https://docs.jax.dev/en/latest/jax.nn.initializers.html
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, zeros as zeroTensor } from "../tensor.ts";
import { normal as drawNormal, truncatedNormal as drawTruncated, uniform as drawUniform } from "./random.ts";
import type { RandomKey } from "./threefry.ts";

/** Makes the first values of a parameter, f32 of the given shape. */
export type Initializer = (key: RandomKey, shape: readonly number[]) => Tensor<"f32">;

/** All 0. */
export function zeros(): Initializer {
  return constant(0);
}

/** All 1. */
export function ones(): Initializer {
  return constant(1);
}

/** All the same. */
export function constant(value: number): Initializer {
  return (_key, shape) => {
    const t = zeroTensor("f32", shape);
    t.data.fill(value);
    return t;
  };
}

/** Normal numbers of this standard deviation. */
export function normal(stddev = 0.01): Initializer {
  return (key, shape) => scaled(drawNormal(key, shape), stddev);
}

/** Normal numbers between two bounds, in units of `stddev`: cut off, then multiplied. */
export function truncatedNormal(stddev = 0.01, low = -2, high = 2): Initializer {
  return (key, shape) => scaled(drawTruncated(key, shape, low, high), stddev);
}

/** Uniform numbers in [0, scale). */
export function uniform(scale = 0.01): Initializer {
  return (key, shape) => scaled(drawUniform(key, shape), scale);
}

/** Which axes of a shape are inputs and outputs; negative ones count from the end. The rest is a receptive field. */
export type FanAxes = {
  /** −2 unless told. */
  readonly inAxis?: number | readonly number[];
  /** −1 unless told. */
  readonly outAxis?: number | readonly number[];
  /** Axes that belong to neither; none unless told. */
  readonly batchAxis?: number | readonly number[];
};

/** What the variance is divided by. */
export type FanMode = "fanIn" | "fanOut" | "fanAvg" | "fanGeoAvg";

/** How numbers of one variance are spread. */
export type Distribution = "truncatedNormal" | "normal" | "uniform";

const TRUNCATED_STDDEV = 0.8796256610342398; // of a unit normal cut off at ±2

/**
 * Numbers of variance scale / fan.
 *
 * @param scale - positive
 * @throws ConfigError for an unknown mode or distribution; ShapeError (when called) for fewer than two axes
 */
export function varianceScaling(
  scale: number,
  mode: FanMode,
  distribution: Distribution,
  axes: FanAxes = {},
): Initializer {
  const fan = own(FANS, "mode", mode);
  const draw = own(DISTRIBUTIONS, "distribution", distribution);
  if (!(scale > 0)) throw new ConfigError("varianceScaling", "scale must be positive", { scale });
  return (key, shape) => {
    const { fanIn, fanOut } = fans(shape, axes);
    return draw(key, shape, Math.fround(scale / Math.max(1, fan(fanIn, fanOut))));
  };
}

const FANS: Readonly<Record<FanMode, (fanIn: number, fanOut: number) => number>> = {
  fanIn: (fanIn) => fanIn,
  fanOut: (_, fanOut) => fanOut,
  fanAvg: (fanIn, fanOut) => (fanIn + fanOut) / 2,
  fanGeoAvg: (fanIn, fanOut) => Math.sqrt(fanIn * fanOut),
};

const DISTRIBUTIONS: Readonly<
  Record<Distribution, (key: RandomKey, shape: readonly number[], variance: number) => Tensor<"f32">>
> = {
  truncatedNormal: (key, shape, variance) => {
    const stddev = Math.fround(Math.fround(Math.sqrt(variance)) / Math.fround(TRUNCATED_STDDEV));
    return scaled(drawTruncated(key, shape), stddev);
  },
  normal: (key, shape, variance) => scaled(drawNormal(key, shape), Math.sqrt(variance)),
  uniform: (key, shape, variance) => scaled(drawUniform(key, shape, -1), Math.sqrt(Math.fround(3 * variance))),
};

/** Truncated normal, variance 1 / fan in; what Flax's linear layers start from. */
export function lecunNormal(axes: FanAxes = {}): Initializer {
  return varianceScaling(1, "fanIn", "truncatedNormal", axes);
}

/** Uniform, variance 1 / fan in. */
export function lecunUniform(axes: FanAxes = {}): Initializer {
  return varianceScaling(1, "fanIn", "uniform", axes);
}

/** Truncated normal, variance 2 / (fan in + fan out); Xavier's. */
export function glorotNormal(axes: FanAxes = {}): Initializer {
  return varianceScaling(1, "fanAvg", "truncatedNormal", axes);
}

/** Uniform, variance 2 / (fan in + fan out); Xavier's. */
export function glorotUniform(axes: FanAxes = {}): Initializer {
  return varianceScaling(1, "fanAvg", "uniform", axes);
}

/** Truncated normal, variance 2 / fan in; Kaiming's. */
export function heNormal(axes: FanAxes = {}): Initializer {
  return varianceScaling(2, "fanIn", "truncatedNormal", axes);
}

/** Uniform, variance 2 / fan in; Kaiming's. */
export function heUniform(axes: FanAxes = {}): Initializer {
  return varianceScaling(2, "fanIn", "uniform", axes);
}

/**
 * A random orthogonal matrix, times `scale`: columns along `columnAxis` are orthonormal, or rows where there are fewer
 * of them.
 *
 * @throws ShapeError (when called) for fewer than two axes
 */
export function orthogonal(scale = 1, columnAxis = -1): Initializer {
  return (key, shape) => {
    const axis = axisOf("orthogonal", columnAxis, shape);
    if (shape.length < 2) throw new ShapeError("orthogonal", "a shape of at least 2 axes", { shape });
    const columns = shape[axis];
    const rows = columns === 0 ? 0 : sizeOf(shape) / columns;
    const [long, short] = rows > columns ? [rows, columns] : [columns, rows];
    const q = orthonormalColumns(drawNormal(key, [long, short]).data, long, short);
    const out = zeroTensor("f32", shape);
    const inner = sizeOf(shape.slice(axis + 1)); // elements from one column to the next
    for (let i = 0; i < out.data.length; i++) {
      const column = Math.floor(i / inner) % columns;
      const row = Math.floor(i / (inner * columns)) * inner + (i % inner);
      out.data[i] = scale * (rows < columns ? q[column * short + row] : q[row * short + column]);
    }
    return out;
  };
}

/**
 * An orthogonal matrix in the middle of a convolution's kernel and zeros elsewhere, so that the convolution keeps the
 * norm of its input.
 *
 * @throws ShapeError (when called) for other than one to three spatial axes before inputs and outputs, and for more inputs
 * than outputs
 * @see https://arxiv.org/abs/1806.05393
 */
export function deltaOrthogonal(scale = 1, columnAxis = -1): Initializer {
  return (key, shape) => {
    const [inputs, outputs] = shape.slice(-2);
    if (shape.length < 3 || shape.length > 5 || inputs > outputs) {
      const expected = "a shape of 1 to 3 spatial axes, inputs, and at least as many outputs";
      throw new ShapeError("deltaOrthogonal", expected, { shape });
    }
    const square = orthogonal(scale, columnAxis)(key, [outputs, outputs]);
    const out = zeroTensor("f32", shape);
    if (out.data.length === 0) return out;
    const middle = shape.slice(0, -2).reduce((at, extent) => at * extent + Math.floor((extent - 1) / 2), 0);
    out.data.set(square.data.subarray(0, inputs * outputs), middle * inputs * outputs);
    return out;
  };
}

/** Gram and Schmidt's columns of [rows, columns], row-major, in f64: Q of a QR with a positive diagonal. */
function orthonormalColumns(values: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const q = Float64Array.from(values);
  const dot = (a: number, b: number): number => {
    let sum = 0;
    for (let row = 0; row < rows; row++) sum += q[row * columns + a] * q[row * columns + b];
    return sum;
  };
  for (let column = 0; column < columns; column++) {
    for (let earlier = 0; earlier < column; earlier++) {
      const along = dot(earlier, column);
      for (let row = 0; row < rows; row++) q[row * columns + column] -= along * q[row * columns + earlier];
    }
    const length = Math.sqrt(dot(column, column));
    for (let row = 0; row < rows; row++) q[row * columns + column] /= length;
  }
  return q;
}

function fans(shape: readonly number[], axes: FanAxes): { fanIn: number; fanOut: number } {
  if (shape.length < 2) {
    throw new ShapeError(
      "varianceScaling",
      "a shape of at least 2 axes",
      { shape },
      "Flatten inputs and outputs to one axis each, or use normal or uniform.",
    );
  }
  const size = (axis: number | readonly number[]): number =>
    [axis].flat().reduce((product: number, one: number) => product * shape[axisOf("varianceScaling", one, shape)], 1);
  const [ins, outs] = [size(axes.inAxis ?? -2), size(axes.outAxis ?? -1)];
  const field = sizeOf(shape) / (ins * outs * size(axes.batchAxis ?? []));
  return { fanIn: ins * field, fanOut: outs * field };
}

function axisOf(where: string, axis: number, shape: readonly number[]): number {
  const at = axis < 0 ? axis + shape.length : axis;
  if (Number.isInteger(at) && at >= 0 && at < shape.length) return at;
  throw new ShapeError(where, "an axis of the shape", { axis, shape });
}

function scaled(t: Tensor<"f32">, factor: number): Tensor<"f32"> {
  const rounded = Math.fround(factor);
  return tensor(
    "f32",
    t.shape,
    t.data.map((value) => value * rounded),
  );
}

function own<K extends string, V>(choices: Readonly<Record<K, V>>, name: string, choice: K): V {
  if (Object.hasOwn(choices, choice)) return choices[choice];
  throw new ConfigError("varianceScaling", `${name} must be one of ${Object.keys(choices).join(", ")}`, {
    [name]: choice,
  });
}
