/**
 * A plan as text for people.
 */

import type { AttentionPlan } from "./plan.ts";

/** The kernel and why, the tiles, the work, the cost and the bytes, a line each. */
export function explainPlan(plan: Omit<AttentionPlan, "explain">): string {
  const { dims, needs, tiles, bits, cost, merges } = plan;
  const sizes = Object.entries(dims).map(([name, size]) => `${name}=${size}`);
  const stored = needs.keys === needs.values ? needs.keys : `${needs.keys} and ${needs.values}`;
  const lines = [
    `kernel     ${plan.kernel}: ${plan.reason} (backend ${plan.backend})`,
    ...plan.passedOver.map((text) => `passed     ${text}`),
    `sizes      ${sizes.join(" ")}, ${needs.layout} keys in ${stored}`,
    `features   ${needs.features.join(", ") || "none"}`,
    `tiles      ${tiles.rowTile} rows × ${tiles.keyTile} keys: ${cost.fullTiles} full, ${cost.partialTiles} partial, ` +
      `${cost.emptyTiles} empty`,
    `bits       ${bits.offsets.length} partial tiles${tiles.planes === 1 ? ", the same for all heads," : ""} share ` +
      `${bits.bytesPerTile === 0 ? 0 : bits.data.length / bits.bytesPerTile} patterns`,
    `pairs      ${cost.pairs}: ${percent(cost.skipped)} skipped, ` +
      `${percent(cost.computedPairs === 0 ? 1 : cost.visiblePairs / cost.computedPairs)} of the computed ones visible`,
    `cost       ${quantity(cost.flops, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"])}`,
    `work       ${workLine(plan)}`,
    `merges     ${merges.starts.length} row tiles in ${merges.count} parts`,
    `holds      ${quantity(plan.bytes, 1024, ["B", "KiB", "MiB", "GiB"])}`,
  ];
  return lines.join("\n");
}

function workLine({ work }: Omit<AttentionPlan, "explain">): string {
  const { workerPointers, costs, row } = work;
  const workers = costs.length;
  const shown = Math.min(workers, 8);
  const items = Array.from({ length: shown }, (_, w) => workerPointers[w + 1] - workerPointers[w]);
  const mean = costs.reduce((sum, cost) => sum + cost, 0) / workers;
  const largest = mean === 0 ? 1 : Math.max(...costs) / mean;
  const list = `${items.join(" ")}${workers > shown ? " …" : ""}`;
  return `${row.length} items over ${workers} workers (${list}), the busiest has ${largest.toFixed(2)} of the mean`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function quantity(value: number, step: number, units: readonly string[]): string {
  let scaled = value;
  let unit = 0;
  while (scaled >= step && unit < units.length - 1) {
    scaled /= step;
    unit++;
  }
  return `${unit === 0 ? scaled : scaled.toFixed(1)} ${units[unit]}`;
}
