/** The inverse of a symmetric positive definite matrix, by its Cholesky factor. */

/**
 * The lower factor L of A = L·Lᵀ.
 *
 * @param matrix - f64 [n, n], symmetric and positive definite; its lower half is read
 * @returns f64 [n, n], zeros above the diagonal
 */
export function choleskyFactor(matrix: Float64Array, n: number): Float64Array {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = matrix[i * n + j];
      for (let k = 0; k < j; k++) rest -= lower[i * n + k] * lower[j * n + k];
      lower[i * n + j] = i === j ? Math.sqrt(rest) : rest / lower[j * n + j];
    }
  }
  return lower;
}

/**
 * A⁻¹ = L⁻ᵀ·L⁻¹.
 *
 * @param lower - f64 [n, n], the lower factor of A
 * @returns f64 [n, n], the lower half of the inverse
 */
export function choleskyInverse(lower: Float64Array, n: number): Float64Array {
  const inverse = new Float64Array(n * n); // of L
  for (let j = 0; j < n; j++) {
    inverse[j * n + j] = 1 / lower[j * n + j];
    for (let i = j + 1; i < n; i++) {
      let rest = 0;
      for (let k = j; k < i; k++) rest -= lower[i * n + k] * inverse[k * n + j];
      inverse[i * n + j] = rest / lower[i * n + i];
    }
  }
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      for (let k = i; k < n; k++) out[i * n + j] += inverse[k * n + i] * inverse[k * n + j];
    }
  }
  return out;
}
