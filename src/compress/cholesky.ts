/** Quadratic forms of a symmetric positive definite matrix, by its Cholesky factor. */

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

/** xᵀA⁻¹x = ‖L⁻¹x‖². */
export function inverseForm(lower: Float64Array, n: number, x: Float64Array): number {
  const y = new Float64Array(n);
  let total = 0;
  for (let i = 0; i < n; i++) {
    let rest = x[i];
    for (let k = 0; k < i; k++) rest -= lower[i * n + k] * y[k];
    y[i] = rest / lower[i * n + i];
    total += y[i] * y[i];
  }
  return total;
}
