/**
 * Outliers among the keys stay: tokens with a large statistical leverage on a random sketch of the unrotated keys.
 *
 * @see https://arxiv.org/abs/2507.08143
 */

import { checkWhole } from "./check-options.ts";
import { choleskyFactor, choleskyInverse } from "./cholesky.ts";
import { type HeadRows, type Observation, observed } from "./observation.ts";
import { type HeadScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { addOuterProducts, meanRow, quadraticForms, rowProducts } from "./row-products.ts";
import { gaussianNumbers } from "./seeded-numbers.ts";
import { standardize } from "./vectors.ts";

/** Options of {@link leverageScore}. */
export type LeverageOptions = {
  /** Columns of the sketch; 48 unless told. */
  readonly sketchColumns?: number;
  /** Seed of the sketch, 0 to 2^32 − 1; 0 unless told. */
  readonly seed?: number;
  /** The sketch itself [D, sketchColumns], scaled by 1/√sketchColumns; drawn from the seed unless given. */
  readonly sketch?: (layer: number, kvHead: number, headDim: number) => ArrayLike<number>;
};

const RIDGE = 0.01;

/**
 * Scores a token by x(XᵀX + 0.01·I)⁻¹xᵀ of the centred, sketched keys X, standardised over the layer.
 *
 * @throws ConfigError when an option is out of range
 */
export function leverageScore(options: LeverageOptions = {}): ScorePolicy {
  checkLeverage("leverageScore", options);
  return scorePolicy({
    name: "leverageScore",
    needs: { unrotatedKeys: true },
    moments: ["prefill"],
    score: (observation) => leverageScores("leverageScore", observation, options),
  });
}

/**
 * Refuses impossible options.
 *
 * @throws ConfigError when columns or seed are not whole numbers
 */
export function checkLeverage(where: string, { sketchColumns = 48, seed = 0 }: LeverageOptions): void {
  checkWhole(where, { sketchColumns }, 1);
  checkWhole(where, { seed }, 0);
}

/** The standardised leverage of every token. */
export function leverageScores(
  where: string,
  observation: Observation,
  { sketchColumns: columns = 48, seed = 0, sketch }: LeverageOptions,
): HeadScores {
  const keys = observed(where, observation, "unrotatedKeys");
  const { layer } = observation;
  const sketchOf = (head: number): ArrayLike<number> =>
    sketch?.(layer, head, keys.dim) ??
    gaussianNumbers(seed, layer, head, keys.dim * columns).map((x) => x / Math.sqrt(columns));
  const leverages = Array.from(keys.starts, (_, head) =>
    leverage(sketched(keys, head, sketchOf(head), columns), columns),
  );
  return standardize(leverages);
}

/** The rows of a head minus their mean, times the sketch: f64 [T, columns]. */
function sketched(rows: HeadRows, head: number, sketch: ArrayLike<number>, columns: number): Float64Array {
  const { data, dim, starts, stride, lengths } = rows;
  const own = { data, start: starts[head], stride, count: lengths[head] };
  const transposed = Float64Array.from(
    { length: columns * dim },
    (_, n) => sketch[(n % dim) * columns + Math.floor(n / dim)],
  );
  const x = rowProducts(transposed, columns, dim, own);
  const mean = meanRow({ data: x, start: 0, stride: columns, count: own.count }, columns);
  for (let n = 0, c = 0; n < x.length; n++, c = c + 1 === columns ? 0 : c + 1) x[n] -= mean[c];
  return x;
}

/** Of rows [T, n]: f64 [T]. */
function leverage(x: Float64Array, n: number): Float64Array {
  const rows = { data: x, start: 0, stride: n, count: x.length / n };
  const gram = new Float64Array(n * n);
  for (let i = 0; i < n; i++) gram[i * n + i] = RIDGE;
  addOuterProducts(gram, n, rows, {});
  return quadraticForms(choleskyInverse(choleskyFactor(gram, n), n), n, rows);
}
