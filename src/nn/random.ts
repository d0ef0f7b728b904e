/**
 * Random numbers from keys, the same as JAX's with threefry2x32 and jax_threefry_partitionable = true (its default
 * since 0.5). A key gives the same numbers each time; `split` and `foldIn` make new keys of it.
 *
 * Keys, bits, and what is compared with them are equal to the bit; normal numbers within the rounding of f32.
 *
 * @see https://docs.jax.dev/en/latest/jax.random.html
 */

import { ConfigError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { errorFunction, inverseErrorFunction } from "./inverse-error-function.ts";
import { type RandomKey, threefry2x32 } from "./threefry.ts";

const WORD = 2 ** 32;

/** How a seed becomes a key. */
export type KeyOptions = {
  /**
   * Use all 64 bits of the seed, as JAX does with jax_enable_x64. Default false, as JAX's: only the low 32 bits count,
   * so that seeds 2^32 apart give equal keys.
   */
  readonly x64?: boolean;
};

/**
 * A key from a seed.
 *
 * @param seed - an integer from −2^63 to 2^63 − 1; a number beyond 2^53 must be a bigint
 * @throws ConfigError when it is not
 */
export function key(seed: number | bigint, { x64 = false }: KeyOptions = {}): RandomKey {
  const isInteger = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!isInteger || BigInt.asIntN(64, BigInt(seed)) !== BigInt(seed)) {
    throw new ConfigError(
      "key",
      "seed must be an integer of at most 64 bits",
      { seed },
      "Pass numbers beyond 2^53 as a bigint.",
    );
  }
  const bits = BigInt.asUintN(64, BigInt(seed));
  return [x64 ? Number(bits >> 32n) : 0, Number(bits & 0xffffffffn)];
}

/**
 * Independent keys from one; do not draw from the one afterwards.
 *
 * @param count - number of keys, at least 0; JAX's split to a shape is the split to its size, row-major
 */
export function split(from: RandomKey, count = 2): RandomKey[] {
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new ConfigError("split", "count must be a non-negative integer", { count });
  }
  checkKey("split", from);
  return Array.from({ length: count }, (_, i) => threefry2x32(from, counter(i)));
}

/**
 * The key that belongs to a number: of a layer, a step, a worker. It is that of the same index in a split, as in JAX, so
 * use one of the two on a key.
 *
 * @param data - integer from 0 to 2^32 − 1
 * @throws ConfigError when it is not
 */
export function foldIn(from: RandomKey, data: number): RandomKey {
  if (!Number.isInteger(data) || data < 0 || data >= WORD) {
    throw new ConfigError("foldIn", "data must be an integer from 0 to 2^32 - 1", { data });
  }
  checkKey("foldIn", from);
  return threefry2x32(from, [0, data]);
}

/** Uniform 32-bit integers, 0 to 2^32 − 1: as many as the shape holds, row-major. */
export function bits(from: RandomKey, shape: readonly number[]): Uint32Array {
  checkKey("bits", from);
  const { length } = zeros("u8", shape).data; // refuses an impossible shape
  const out = new Uint32Array(length);
  for (let i = 0; i < length; i++) {
    const [high, low] = threefry2x32(from, counter(i));
    out[i] = high ^ low;
  }
  return out;
}

/**
 * Uniform numbers in [low, high), in steps of (high − low) / 2^23.
 *
 * @returns f32 of the given shape
 */
export function uniform(from: RandomKey, shape: readonly number[], low = 0, high = 1): Tensor<"f32"> {
  const least = Math.fround(low);
  const range = Math.fround(Math.fround(high) - least);
  const drawn = Float32Array.from(bits(from, shape), (word) => {
    return Math.max(least, Math.fround((word >>> 9) * 2 ** -23 * range + least));
  });
  return tensor("f32", shape, drawn);
}

/**
 * Normal numbers with mean 0 and variance 1.
 *
 * @returns f32 of the given shape
 */
export function normal(from: RandomKey, shape: readonly number[]): Tensor<"f32"> {
  return mapped(uniform(from, shape, 2 ** -24 - 1, 1), (u) => SQRT2 * Math.fround(inverseErrorFunction(u)));
}

const SQRT2 = Math.fround(Math.SQRT2);

/**
 * Normal numbers with mean 0 and variance 1 that lie between two bounds; the variance of what is left is smaller.
 *
 * @param low - numbers are above it
 * @param high - numbers are below it
 * @returns f32 of the given shape
 * @throws ConfigError unless low < high
 */
export function truncatedNormal(from: RandomKey, shape: readonly number[], low = -2, high = 2): Tensor<"f32"> {
  if (!(low < high)) throw new ConfigError("truncatedNormal", "low must be below high", { low, high });
  const [least, most] = [Math.fround(low), Math.fround(high)];
  const [from01, to01] = [least, most].map((bound) => Math.fround(errorFunction(Math.fround(bound / SQRT2))));
  const [floor, ceiling] = [nextF32(least, 1), nextF32(most, -1)];
  return mapped(uniform(from, shape, from01, to01), (u) => {
    return Math.min(Math.max(Math.fround(SQRT2 * Math.fround(inverseErrorFunction(u))), floor), ceiling);
  });
}

/**
 * Truth values.
 *
 * @param probability - of 1, from 0 to 1
 * @returns u8 of the given shape: 0 or 1
 * @throws ConfigError when the probability is out of range
 */
export function bernoulli(from: RandomKey, probability: number, shape: readonly number[]): Tensor<"u8"> {
  if (!(probability >= 0 && probability <= 1)) {
    throw new ConfigError("bernoulli", "probability must be from 0 to 1", { probability });
  }
  const p = Math.fround(probability);
  return tensor(
    "u8",
    shape,
    Uint8Array.from(uniform(from, shape).data, (u) => Number(u < p)),
  );
}

/**
 * Uniform integers from `low` to `high` − 1.
 *
 * @param low - 32-bit integer
 * @param high - 32-bit integer above `low`
 * @returns i32 of the given shape
 * @throws ConfigError when a bound is no such integer
 */
export function randint(from: RandomKey, shape: readonly number[], low: number, high: number): Tensor<"i32"> {
  if ((low | 0) !== low || (high | 0) !== high || low >= high) {
    throw new ConfigError("randint", "low and high must be 32-bit integers, low below high", { low, high });
  }
  const [higher, lower] = split(from).map((half) => bits(half, shape));
  const span = high - low;
  // 64 random bits modulo the span, in 32-bit arithmetic that wraps: high·2^32 + low
  const half = 2 ** 16 % span;
  const multiplier = (Math.imul(half, half) >>> 0) % span;
  const values = Int32Array.from(lower, (word, i) => {
    const offset = (Math.imul(higher[i] % span, multiplier) + (word % span)) >>> 0;
    return low + (offset % span);
  });
  return tensor("i32", shape, values);
}

/** A bare seed would be taken for a key of undefined words: other numbers than the seed's, and no error. */
function checkKey(where: string, from: RandomKey): void {
  if (Number.isInteger(from?.[0]) && Number.isInteger(from[1])) return;
  throw new ConfigError(where, "a key of two integers", { key: from }, "random.key(seed) makes one.");
}

function counter(index: number): [number, number] {
  return [Math.floor(index / WORD), index >>> 0];
}

function mapped(t: Tensor<"f32">, change: (value: number) => number): Tensor<"f32"> {
  for (let i = 0; i < sizeOf(t.shape); i++) t.data[i] = change(t.data[i]);
  return t;
}

/** The neighbouring f32, upwards (1) or downwards (−1). */
function nextF32(value: number, direction: 1 | -1): number {
  if (!Number.isFinite(value)) return value;
  const view = new DataView(new ArrayBuffer(4));
  if (value === 0) return direction * 2 ** -149;
  view.setFloat32(0, value);
  view.setInt32(0, view.getInt32(0) + (value > 0 ? direction : -direction));
  return view.getFloat32(0);
}
