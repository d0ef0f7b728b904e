/**
 * Products of many rows with a matrix, in f64. Four rows go through the matrix together, so that each of its numbers is
 * read once for all four.
 */

/** Rows of one head: row t starts at `start + t · stride`. */
export type Rows = {
  readonly data: Float32Array | Float64Array;
  readonly start: number;
  readonly stride: number;
  readonly count: number;
};

const AT_ONCE = 4;

/** Puts rows t to t + 3 side by side: [n][4]; the last one again where there are no more. */
function takeFour(four: Float64Array, n: number, { data, start, stride, count }: Rows, t: number): void {
  for (let k = 0; k < AT_ONCE; k++) {
    const at = start + Math.min(count - 1, t + k) * stride;
    for (let d = 0, to = k; d < n; d++, to += AT_ONCE) four[to] = data[at + d];
  }
}

/**
 * Dot products of every row with every row of a matrix.
 *
 * @param matrix - f64 [m, n]
 * @returns f64 [count, m]
 */
export function rowProducts(matrix: Float64Array, m: number, n: number, rows: Rows): Float64Array {
  const { count } = rows;
  const out = new Float64Array(count * m);
  const four = new Float64Array(AT_ONCE * n);
  for (let t = 0; t < count; t += AT_ONCE) {
    takeFour(four, n, rows, t);
    const inside = Math.min(AT_ONCE, count - t);
    for (let i = 0, at = 0; i < m; i++) {
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let d = 0, k = 0; d < n; d++, k += AT_ONCE, at++) {
        const x = matrix[at];
        s0 += x * four[k];
        s1 += x * four[k + 1];
        s2 += x * four[k + 2];
        s3 += x * four[k + 3];
      }
      out[t * m + i] = s0;
      if (inside > 1) out[(t + 1) * m + i] = s1;
      if (inside > 2) out[(t + 2) * m + i] = s2;
      if (inside > 3) out[(t + 3) * m + i] = s3;
    }
  }
  return out;
}

/**
 * xᵀMx for every row x.
 *
 * @param matrix - f64 [n, n], symmetric; its lower half is read
 * @returns f64 [count]
 */
export function quadraticForms(matrix: Float64Array, n: number, rows: Rows): Float64Array {
  const { count } = rows;
  const out = new Float64Array(count);
  const four = new Float64Array(AT_ONCE * n);
  for (let t = 0; t < count; t += AT_ONCE) {
    takeFour(four, n, rows, t);
    let f0 = 0;
    let f1 = 0;
    let f2 = 0;
    let f3 = 0;
    for (let i = 0, own = 0; i < n; i++, own += AT_ONCE) {
      // Half of what is on the diagonal, twice.
      const half = 0.5 * matrix[i * n + i];
      let s0 = half * four[own];
      let s1 = half * four[own + 1];
      let s2 = half * four[own + 2];
      let s3 = half * four[own + 3];
      for (let at = i * n, k = 0; k < own; at++, k += AT_ONCE) {
        const x = matrix[at];
        s0 += x * four[k];
        s1 += x * four[k + 1];
        s2 += x * four[k + 2];
        s3 += x * four[k + 3];
      }
      f0 += four[own] * s0;
      f1 += four[own + 1] * s1;
      f2 += four[own + 2] * s2;
      f3 += four[own + 3] * s3;
    }
    out[t] = 2 * f0;
    if (t + 1 < count) out[t + 1] = 2 * f1;
    if (t + 2 < count) out[t + 2] = 2 * f2;
    if (t + 3 < count) out[t + 3] = 2 * f3;
  }
  return out;
}

/**
 * Adds Σ w·xxᵀ over all rows x to the lower half of a matrix.
 *
 * @param matrix - f64 [n, n]
 * @param weights - f64 [count]; 1 for every row when absent
 * @param centre - f64 [n], taken off every row first
 */
export function addOuterProducts(
  matrix: Float64Array,
  n: number,
  rows: Rows,
  { weights, centre }: { readonly weights?: Float64Array; readonly centre?: Float64Array },
): void {
  const { count } = rows;
  const four = new Float64Array(AT_ONCE * n);
  const weighted = new Float64Array(AT_ONCE * n);
  for (let t = 0; t < count; t += AT_ONCE) {
    takeFour(four, n, rows, t);
    for (let k = 0; k < AT_ONCE; k++) {
      const weight = t + k < count ? (weights ? weights[t + k] : 1) : 0;
      for (let d = 0, at = k; d < n; d++, at += AT_ONCE) {
        if (centre) four[at] -= centre[d];
        weighted[at] = weight * four[at];
      }
    }
    for (let i = 0; i < n; i++) {
      const w = i * AT_ONCE;
      const w0 = weighted[w];
      const w1 = weighted[w + 1];
      const w2 = weighted[w + 2];
      const w3 = weighted[w + 3];
      const row = i * n;
      for (let j = 0, x = 0; j <= i; j++, x += AT_ONCE) {
        matrix[row + j] += w0 * four[x] + w1 * four[x + 1] + w2 * four[x + 2] + w3 * four[x + 3];
      }
    }
  }
}

/** Copies the lower half of a matrix [n, n] to its upper half. */
export function mirrorLower(matrix: Float64Array, n: number): void {
  for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) matrix[j * n + i] = matrix[i * n + j];
}

/** The mean of all rows, of n numbers. */
export function meanRow({ data, start, stride, count }: Rows, n: number): Float64Array {
  const mean = new Float64Array(n);
  for (let t = 0, at = start; t < count; t++, at += stride) for (let d = 0; d < n; d++) mean[d] += data[at + d];
  for (let d = 0; d < n; d++) mean[d] /= count;
  return mean;
}
