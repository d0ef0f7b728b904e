/**
 * Pictures of a mask: one sign or square per tile. Queries go down, keys go right.
 */

import { ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import type { MaskInputs } from "./inputs.ts";
import { FULL, PARTIAL } from "./interval.ts";
import { checkInteger } from "./node.ts";
import { planTiles } from "./tile-plan.ts";

/** What to draw. */
export type PictureOptions = {
  /** Queries and keys per tile, at least 1; the picture may have at most 256 × 256 tiles. */
  readonly tile: number;
  /** Batch entry; 0 when absent. */
  readonly batch?: number | undefined;
  /** Query head; 0 when absent. */
  readonly head?: number | undefined;
};

const MAX_TILES = 256;
/** By verdict: empty, full, partial. */
const SIGNS: readonly string[] = ["·", "█", "▒"];
const COLOURS: readonly string[] = ["#f2f2f2", "#20639b", "#9cc3e0"];

/**
 * The tiles of a mask as text: █ every pair, ▒ some pairs, · none.
 *
 * @param inputs - what the mask needs
 * @returns a line per row of tiles, without a line end after the last
 * @throws ConfigError, ShapeError when inputs do not fit or the picture is too large
 */
export function maskPicture(mask: Mask, inputs: MaskInputs, options: PictureOptions): string {
  const rows = tileVerdicts("maskPicture", mask, inputs, options);
  return rows.map((row) => Array.from(row, (verdict) => SIGNS[verdict]).join("")).join("\n");
}

/**
 * The tiles of a mask as an SVG image with the mask in words as its title.
 *
 * @param inputs - what the mask needs
 * @returns a complete SVG document, 8 units per tile
 * @throws ConfigError, ShapeError when inputs do not fit or the picture is too large
 */
export function maskPictureSvg(mask: Mask, inputs: MaskInputs, options: PictureOptions): string {
  const rows = tileVerdicts("maskPictureSvg", mask, inputs, options);
  const width = (rows[0]?.length ?? 0) * 8;
  const height = rows.length * 8;
  const squares = rows.flatMap((row, y) =>
    Array.from(row, (verdict, x) => {
      const fill = COLOURS[verdict];
      return `<rect x="${x * 8}" y="${y * 8}" width="7" height="7" fill="${fill}"/>`;
    }),
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`,
    `<title>${escapeXml(mask.describe())}</title>`,
    ...squares,
    "</svg>",
  ].join("\n");
}

/** The true verdict of every tile of one head, row by row. */
function tileVerdicts(where: string, mask: Mask, inputs: MaskInputs, options: PictureOptions): Uint8Array[] {
  const { tile, batch = 0, head = 0 } = options;
  const { queryLength, keyLength } = inputs;
  if (!(Math.max(queryLength, keyLength) <= tile * MAX_TILES)) {
    throw new ConfigError(
      where,
      `at most ${MAX_TILES} × ${MAX_TILES} tiles`,
      { queryLength, keyLength, tile },
      "Use larger tiles.",
    );
  }
  checkInteger(where, "batch", batch, 0, inputs.batch - 1);
  checkInteger(where, "head", head, 0, inputs.heads - 1);
  const plan = planTiles(mask, inputs, { rowTile: tile, keyTile: tile, exact: true });
  const plane = plan.planes === 1 ? 0 : head;
  const firstRow = (batch * plan.planes + plane) * plan.rowTiles;
  return Array.from({ length: plan.rowTiles }, (_, i) => {
    const verdicts = new Uint8Array(plan.keyTiles);
    const row = firstRow + i;
    for (let entry = plan.rowPointers[row] as number; entry < (plan.rowPointers[row + 1] as number); entry++) {
      const isFull = entry < (plan.firstPartial[row] as number);
      verdicts[plan.columns[entry] as number] = isFull ? FULL : PARTIAL;
    }
    return verdicts;
  });
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
