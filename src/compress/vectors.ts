/** Rows of numbers, in f64. */

type Numbers = Float32Array | Float64Array;

/** Σ a·b over `length` numbers from two offsets. */
export function dot(a: Numbers, aStart: number, b: Numbers, bStart: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[aStart + i] * b[bStart + i];
  return sum;
}

/** Euclidean norm of `length` numbers. */
export function norm(a: Numbers, start: number, length: number): number {
  return Math.sqrt(dot(a, start, a, start, length));
}

/** Sum of all. */
export function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

/** The largest of all rows; −Infinity when there is none. */
export function largest(rows: readonly Float64Array[]): number {
  let best = -Infinity;
  for (const row of rows) for (let t = 0; t < row.length; t++) best = Math.max(best, row[t]);
  return best;
}

/** Turns values into their softmax. */
export function softmaxInPlace(values: Float64Array): void {
  const max = largest([values]);
  let total = 0;
  for (let i = 0; i < values.length; i++) {
    values[i] = Math.exp(values[i] - max);
    total += values[i];
  }
  for (let i = 0; i < values.length; i++) values[i] /= total;
}

/** The mean over windows of `kernel` neighbours; outside counts as 0 and the divisor is always `kernel`. */
export function averagePool(values: Float64Array, kernel: number): Float64Array {
  const reach = kernel >> 1;
  const pooled = new Float64Array(values.length);
  for (let i = 0; i < pooled.length; i++) {
    const end = Math.min(values.length, i + reach + 1);
    let total = 0;
    for (let j = Math.max(0, i - reach); j < end; j++) total += values[j];
    pooled[i] = total / kernel;
  }
  return pooled;
}

/** All rows minus their common mean, over their common standard deviation (n − 1), which is at least 1e-6. */
export function standardize(rows: readonly Float64Array[]): Float64Array[] {
  const count = rows.reduce((n, row) => n + row.length, 0);
  const mean = rows.reduce((total, row) => total + sum(row), 0) / count;
  const squares = rows.reduce((total, row) => total + sum(row.map((x) => (x - mean) ** 2)), 0);
  const deviation = Math.max(1e-6, count > 1 ? Math.sqrt(squares / (count - 1)) : 0);
  return rows.map((row) => row.map((x) => (x - mean) / deviation));
}
