/** A run's losses as a picture. */

import { lineChart, type Series } from "../line-chart.ts";

/** A loss at a step. */
export type LossPoint = { readonly step: number; readonly loss: number };

/** Points of the training loss; more would not be seen. */
const POINTS = 600;

/**
 * Draws the losses of a run.
 *
 * @param training - one point a step; drawn as means over a hundredth of the run, so that the trend shows
 * @param heldOut - points of the held-out loss; may be empty
 * @param title - over the picture
 * @returns an SVG document, readable on light and dark pages
 * @throws ConfigError when there are no points
 */
export function lossCurve(training: readonly LossPoint[], heldOut: readonly LossPoint[] = [], title = "Loss"): string {
  const window = Math.max(1, Math.ceil(training.length / 100));
  const every = Math.max(1, Math.ceil(training.length / POINTS));
  const smooth = movingMeans(training, window).filter((_, n) => n % every === 0 || n === training.length - 1);
  const series: Series[] = [{ name: "training", points: smooth.map(({ step, loss }) => [step, loss]) }];
  if (heldOut.length > 0) series.push({ name: "held out", points: heldOut.map(({ step, loss }) => [step, loss]) });
  return lineChart({ title, xLabel: "step", yLabel: "loss (nats per token)", series });
}

/** Means over the last `window` points up to each. */
function movingMeans(points: readonly LossPoint[], window: number): LossPoint[] {
  let sum = 0;
  return points.map(({ step, loss }, n) => {
    sum += loss;
    if (n >= window) sum -= points[n - window].loss;
    return { step, loss: sum / Math.min(n + 1, window) };
  });
}
