/**
 * Matrices of f32 whose rows lie four together, in pieces of 16 bytes:
 *
 *     row 0, columns 0–3 | row 1, columns 0–3 | row 2, columns 0–3 | row 3, columns 0–3 | row 0, columns 4–7 | …
 *
 * Whoever multiplies a vector by four rows at a time reads memory front to back, as one stream, and every piece of the
 * vector once for four rows.
 */

/** Rows that lie together. */
export const INTERLEAVED_ROWS = 4;
/** Bytes of a piece, and from one piece of a row to the next. */
export const PIECE_BYTES = 16;
export const PIECES_APART = INTERLEAVED_ROWS * PIECE_BYTES;

const PIECE = PIECE_BYTES / 4;

/** Whether a matrix [N, K] has whole groups of rows, and pieces two by two, as kernels take them. */
export function canInterleave([N, K]: readonly number[]): boolean {
  return N % INTERLEAVED_ROWS === 0 && K % (2 * PIECE) === 0;
}

/** Reads row n of a matrix [N, K]. */
export function readInterleaved(row: Float32Array, matrix: Float32Array, n: number): void {
  for (let k = 0, at = startOf(row, n); k < row.length; k += PIECE, at += INTERLEAVED_ROWS * PIECE) {
    for (let i = 0; i < PIECE; i++) row[k + i] = matrix[at + i];
  }
}

/** Writes row n of a matrix [N, K]. */
export function writeInterleaved(matrix: Float32Array, row: Float32Array, n: number): void {
  for (let k = 0, at = startOf(row, n); k < row.length; k += PIECE, at += INTERLEAVED_ROWS * PIECE) {
    for (let i = 0; i < PIECE; i++) matrix[at + i] = row[k + i];
  }
}

function startOf({ length }: Float32Array, n: number): number {
  const inGroup = n % INTERLEAVED_ROWS;
  return (n - inGroup) * length + inGroup * PIECE;
}
