/** The error function and its inverse, as far as random numbers need them. */

const NEAR = [
  2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
  0.246640727, 1.50140941,
];
const FAR = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
  1.00167406, 2.83297682,
];

/**
 * The inverse error function, by the polynomials that XLA uses for f32.
 *
 * @param x - an f32, −1 ≤ x ≤ 1
 * @returns erf⁻¹(x) to f32 accuracy; ±Infinity at ±1
 * @see Giles, "Approximating the erfinv function" (2010)
 */
export function inverseErrorFunction(x: number): number {
  if (Math.abs(x) === 1) return x * Infinity;
  // XLA rounds the square to f32, and near ±1 the result shows it.
  const w = -Math.log1p(-Math.fround(x * x));
  const [coefficients, t] = w < 5 ? [NEAR, w - 2.5] : [FAR, Math.sqrt(w) - 3];
  let sum = 0;
  for (const coefficient of coefficients) sum = sum * t + coefficient;
  return sum * x;
}

/** erf(x) to f64 accuracy: 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!, whose terms are all of one sign. */
export function errorFunction(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
