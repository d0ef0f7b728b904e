/**
 * Error budgets of the WASM engine against the reference, which sums in f64: |got − want| ≤ budget·(1 + |want|) for
 * every value. docs/runtimes.md states them.
 */

/** Sums, copies and lookups: one rounding, as the reference has. */
export const EXACT = 0;

/** Scaled rows, rotation and gates: a few f32 operations a value. */
export const ELEMENTWISE = 1e-6;

/** RMS norm over up to some thousand values. */
export const NORM = 2e-6;

/** Linear layers of up to some thousand inputs between −3 and 3, with weights up to 1/√inputs. */
export const LINEAR = 2e-6;

/** The same for one token where weights are codes of 8 or 4 bits: inputs are rounded to 16 bits, in blocks of 32. */
export const LINEAR_CODES = 1e-4;

/** Sums of up to 64 rows' probabilities, over up to some thousand columns. */
export const COLUMN_MASS = 2e-6;

/** Attention over up to some thousand keys. */
export const ATTENTION = 2e-6;

/** Logits of a decoder of a few layers. */
export const LOGITS = 1e-5;

/** Losses of a decoder of a few layers in training, from step to step. */
export const LOSSES = 1e-5;

/** Gradients of its weights, and of single operations over some hundred rows. */
export const GRADIENTS = 1e-5;
