/** Activations and their derivatives, in f64. */

import type { Activation } from "../backend.ts";

/** The normal density φ(x). */
function density(x: number): number {
  return Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
}

/** Beyond this the series of Φ loses its last places, and the continued fraction has all of them. */
const SERIES_END = 3;

/** The normal distribution function Φ(x) = (1 + erf(x/√2))/2, within some units of the last place, also of small values. */
export function normalCdf(x: number): number {
  const size = Math.abs(x);
  if (size <= SERIES_END) {
    // Φ(x) = 1/2 + φ(x)·(x + x³/3 + x⁵/(3·5) + …)
    let term = x;
    let sum = x;
    for (let odd = 3; Math.abs(term) > 1e-17; odd += 2) {
      term *= (x * x) / odd;
      sum += term;
    }
    return 0.5 + density(x) * sum;
  }
  // 1 − Φ(|x|) = φ(x) / (|x| + 1/(|x| + 2/(|x| + 3/…)))
  let fraction = size;
  for (let n = 100; n > 0; n--) fraction = size + n / fraction;
  const tail = density(x) / fraction;
  return x < 0 ? tail : 1 - tail;
}

/** An activation and its derivative at x. */
export const ACTIVATIONS: Readonly<Record<Activation, (x: number) => { value: number; slope: number }>> = {
  silu: (x) => {
    const sigmoid = 1 / (1 + Math.exp(-x));
    return { value: x * sigmoid, slope: sigmoid * (1 + x * (1 - sigmoid)) };
  },
  gelu: (x) => {
    const share = normalCdf(x);
    return { value: x * share, slope: share + x * density(x) };
  },
  geluTanh: (x) => {
    const factor = Math.sqrt(2 / Math.PI);
    const tanh = Math.tanh(factor * (x + 0.044715 * x ** 3));
    const share = (1 + tanh) / 2;
    const steepness = factor * (1 + 3 * 0.044715 * x ** 2);
    return { value: x * share, slope: share + (x / 2) * (1 - tanh ** 2) * steepness };
  },
};
