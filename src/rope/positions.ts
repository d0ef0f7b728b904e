/**
 * Positions of tokens: ranges, packed and left-padded sequences, and one row per axis where text mixes with images.
 */

import { ShapeError } from "../errors.ts";

/** Most positions built at once; a guard against sizes from untrusted input. */
const MAX_POSITIONS = 2 ** 27;

/**
 * Positions start, start + 1, ...
 *
 * @param count - number of tokens
 * @param start - the first position; 0 unless told
 * @returns i32 [count]
 */
export function positionRange(count: number, start = 0): Int32Array {
  checkCounts("positionRange", { count });
  return Int32Array.from({ length: count }, (_, t) => start + t);
}

/**
 * Positions of packed sequences: they start at 0 wherever the segment changes.
 *
 * @param segments - i32 [T], one number per token; −1 is padding
 * @returns i32 [T]; 0 for padding
 */
export function packedPositions(segments: ArrayLike<number>): Int32Array {
  const positions = new Int32Array(segments.length);
  for (let t = 1; t < positions.length; t++) {
    const goesOn = segments[t] === segments[t - 1] && segments[t] !== -1;
    positions[t] = goesOn ? positions[t - 1] + 1 : 0;
  }
  return positions;
}

/**
 * A sequence with padding before it: its first token is at position 0, as without padding.
 *
 * @param padding - tokens of padding
 * @param count - tokens of the sequence
 * @returns i32 [padding + count] positions, and segments (−1 for padding, else 0)
 */
export function leftPadded(padding: number, count: number): { positions: Int32Array; segments: Int32Array } {
  checkCounts("leftPadded", { padding, count });
  const segments = new Int32Array(padding + count).fill(-1, 0, padding);
  return { positions: packedPositions(segments), segments };
}

/** A run of text tokens, or an image or video of t·h·w tokens (after merging patches). */
export type MropeSpan =
  | { readonly text: number }
  | { readonly grid: { readonly t: number; readonly h: number; readonly w: number } };

/**
 * Positions of text and images for M-RoPE, as Qwen2-VL counts them: text takes the same position on all axes; an
 * image starts where the text ends and counts frames, rows and columns; what follows starts after its largest.
 *
 * @param spans - text and images in order
 * @param start - the first position; 0 unless told
 * @returns rows t, h and w, each i32 [T], and the position that follows
 * @throws ShapeError for sizes that are not counts
 * @see https://arxiv.org/abs/2409.12191
 */
export function mropePositions(
  spans: readonly MropeSpan[],
  start = 0,
): { rows: [t: Int32Array, h: Int32Array, w: Int32Array]; next: number } {
  let total = 0;
  for (const span of spans) {
    if ("text" in span) checkCounts("mropePositions", { text: span.text });
    else checkCounts("mropePositions", span.grid);
    total += "text" in span ? span.text : span.grid.t * span.grid.h * span.grid.w;
  }
  checkCounts("mropePositions", { total });
  const rows: [Int32Array, Int32Array, Int32Array] = [
    new Int32Array(total),
    new Int32Array(total),
    new Int32Array(total),
  ];
  let token = 0;
  let next = start;
  for (const span of spans) {
    if ("text" in span) {
      for (let i = 0; i < span.text; i++, token++) for (const row of rows) row[token] = next + i;
      next += span.text;
      continue;
    }
    const { t, h, w } = span.grid;
    for (let i = 0; i < t * h * w; i++, token++) {
      rows[0][token] = next + Math.floor(i / (h * w));
      rows[1][token] = next + (Math.floor(i / w) % h);
      rows[2][token] = next + (i % w);
    }
    if (t * h * w > 0) next += Math.max(t, h, w);
  }
  return { rows, next };
}

/**
 * Row and column of every patch of an image.
 *
 * @param height - rows of patches
 * @param width - columns of patches
 * @param block - patches come in blocks of block × block (Qwen-VL merges them so), each row by row; 1 unless told
 * @returns rows of i32 [height·width]: first the patch rows, then the patch columns
 * @throws ShapeError when the block does not divide the sizes
 */
export function gridPositions(height: number, width: number, block = 1): [h: Int32Array, w: Int32Array] {
  checkCounts("gridPositions", { height, width, patches: height * width });
  if (!(Number.isSafeInteger(block) && block > 0) || height % block !== 0 || width % block !== 0) {
    throw new ShapeError("gridPositions", "block must divide height and width", { height, width, block });
  }
  const h = new Int32Array(height * width);
  const w = new Int32Array(height * width);
  const blocksPerRow = width / block;
  for (let i = 0; i < h.length; i++) {
    const inBlock = i % (block * block);
    const blockIndex = Math.floor(i / (block * block));
    h[i] = Math.floor(blockIndex / blocksPerRow) * block + Math.floor(inBlock / block);
    w[i] = (blockIndex % blocksPerRow) * block + (inBlock % block);
  }
  return [h, w];
}

/**
 * Centres of patches on a scale from −1 to 1 on each axis, as DINOv3 measures them.
 *
 * @param height - rows of patches
 * @param width - columns of patches
 * @returns rows of f64 [height·width]: vertical and horizontal coordinate 2·(j + 0.5)/n − 1
 */
export function centeredGridPositions(height: number, width: number): [h: Float64Array, w: Float64Array] {
  const [h, w] = gridPositions(height, width);
  return [
    Float64Array.from(h, (j) => (2 * (j + 0.5)) / height - 1),
    Float64Array.from(w, (j) => (2 * (j + 0.5)) / width - 1),
  ];
}

/**
 * Positions of Llama 4's vision encoder: column and row counted from 1, and a class token at the end that does not
 * turn.
 *
 * @param height - rows of patches
 * @param width - columns of patches
 * @returns rows of i32 [height·width + 1]: first columns (x), then rows (y)
 */
export function llama4GridPositions(height: number, width: number): [x: Int32Array, y: Int32Array] {
  const [h, w] = gridPositions(height, width);
  const withClass = (row: Int32Array): Int32Array => Int32Array.from([...row.map((j) => j + 1), 0]);
  return [withClass(w), withClass(h)];
}

function checkCounts(where: string, counts: Record<string, number>): void {
  for (const [name, count] of Object.entries(counts)) {
    if (!Number.isSafeInteger(count) || count < 0 || count > MAX_POSITIONS) {
      throw new ShapeError(where, `${name} must be a count of at most ${MAX_POSITIONS}`, { [name]: count });
    }
  }
}
