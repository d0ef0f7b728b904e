/** Numbers that every contender makes for itself, the same in all of them. */

/**
 * Evenly spread over −1 to 1.
 *
 * @param {number} length
 * @param {number} seed
 */
export function numbers(length, seed) {
  const out = new Float32Array(length);
  let state = (seed * 0x9e3779b9) | 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[i] = state * 2 ** -31;
  }
  return out;
}

/**
 * Queries, keys and values of an attention, token-major: [T, heads, D].
 *
 * @param {import("./work.mjs").AttentionDims} dims
 */
export function attentionInputs({ Tq, Tk, H, Hk, D }) {
  const key = [Tq, Tk, H, Hk, D].join();
  if (latest.key !== key) {
    latest = { key, q: numbers(Tq * H * D, 1), k: numbers(Tk * Hk * D, 2), v: numbers(Tk * Hk * D, 3) };
  }
  return latest;
}

/** Formulations of the same work share their inputs. */
let latest = { key: "" };
/** What `headMajor` has made of an input. @type {WeakMap<Float32Array, Float32Array>} */
const headMajorOf = new WeakMap();

/** [first, second, width] to [second, first, width]. */
function swapAxes(x, first, second, width) {
  const out = new Float32Array(x.length);
  for (let a = 0; a < first; a++) {
    for (let b = 0; b < second; b++) {
      const from = (a * second + b) * width;
      out.set(x.subarray(from, from + width), (b * first + a) * width);
    }
  }
  return out;
}

/**
 * [T, heads, D] to [heads, T, D], of an input that does not change.
 *
 * @param {Float32Array} x
 * @param {number} T
 * @param {number} heads
 * @param {number} D
 */
export function headMajor(x, T, heads, D) {
  const out = headMajorOf.get(x) ?? swapAxes(x, T, heads, D);
  headMajorOf.set(x, out);
  return out;
}

/**
 * [heads, T, D] to [T, heads, D].
 *
 * @param {Float32Array} x
 * @param {number} T
 * @param {number} heads
 * @param {number} D
 */
export function tokenMajor(x, T, heads, D) {
  return swapAxes(x, heads, T, D);
}

/**
 * [count, rows, columns] to [count, columns, rows].
 *
 * @param {Float32Array} x
 * @param {number} rows
 * @param {number} columns
 */
export function transposed(x, rows, columns) {
  const out = new Float32Array(x.length);
  for (let base = 0; base < x.length; base += rows * columns) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) out[base + c * rows + r] = x[base + r * columns + c];
    }
  }
  return out;
}

/**
 * Whether query row i sees key j.
 *
 * @param {import("./work.mjs").AttentionDims} dims
 * @returns {(i: number, j: number) => boolean}
 */
export function visibility({ Tq, Tk, window = Infinity, document = Infinity }) {
  return (i, j) => {
    const at = i + Tk - Tq;
    return (
      j <= at && at - j < window && (document === Infinity || Math.floor(at / document) === Math.floor(j / document))
    );
  };
}

/**
 * The mask as numbers to add to scores: 0 where a query sees a key, −∞ stands for elsewhere. [Tq, Tk].
 *
 * @param {import("./work.mjs").AttentionDims} dims
 */
export function denseMask(dims) {
  const { Tq, Tk } = dims;
  const visible = visibility(dims);
  const out = new Float32Array(Tq * Tk).fill(-1e30);
  for (let i = 0; i < Tq; i++) {
    for (let j = 0; j < Tk; j++) if (visible(i, j)) out[i * Tk + j] = 0;
  }
  return out;
}

/**
 * Half-width tables of positions 0 to T − 1, base 10000: [T, D/2].
 *
 * @param {number} T
 * @param {number} D
 */
export function rotationTables(T, D) {
  const half = D / 2;
  const cos = new Float32Array(T * half);
  const sin = new Float32Array(T * half);
  for (let t = 0; t < T; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * 10000 ** (-i / half);
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

/**
 * Arrays one after the other.
 *
 * @param {Float32Array[]} parts
 */
export function joined(parts) {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
