/**
 * Documents packed into rows of the context's length.
 *
 * Every epoch shuffles the documents and puts each whole into the fullest of the open rows that holds it; only documents
 * longer than a row are cut. What a batch holds depends on the seed and its number alone, so a run that was stopped
 * goes on with the batches it would have had.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import type { PackedBatch } from "./packed-batch.ts";
import { permutation, randomStream } from "./random-stream.ts";

/** One text. */
export type TokenDocument = {
  /** [n] token ids. */
  readonly tokens: ArrayLike<number>;
  /** [n] how much it counts to predict each token, 0 or more; all 1 when absent. The first token is never predicted. */
  readonly weights?: ArrayLike<number>;
};

/** What a run trains on. */
export type TrainingData = {
  /** Longest text of a batch; positions are below. */
  readonly contextTokens: number;
  /** T, tokens of a batch, padding included. */
  readonly batchTokens: number;
  /** Tells this data from other data; a run resumes only with equal values. */
  readonly identity: Readonly<Record<string, string | number>>;
  /** The batch of this number, from 0 without end; the same whenever asked. */
  batch(number: number): PackedBatch;
};

/** How documents are packed. */
export type PackingOptions = {
  /** Tokens of a row: the longest text, and where positions end. */
  readonly contextTokens: number;
  /** Tokens of a batch: a multiple of `contextTokens`. */
  readonly batchTokens: number;
  /** An integer from 0 to 2^53 − 1; 0 when absent. */
  readonly seed?: number;
};

/** A run of a document's tokens. */
type Piece = { readonly document: number; readonly from: number; readonly to: number };

/** Pieces that share a row, in order. */
type Row = readonly Piece[];

/** Rows that wait for a document that fits. */
const OPEN_ROWS = 32;
/** A text of fewer tokens predicts nothing. */
const SHORTEST = 2;

/**
 * Training data from documents in memory.
 *
 * @param documents - at least one of two tokens or more
 * @throws ConfigError for sizes that do not fit together, token ids that are none, and documents that hold nothing
 * to predict
 * @throws ShapeError when weights and tokens differ in length
 */
export function packDocuments(documents: readonly TokenDocument[], options: PackingOptions): TrainingData {
  const { contextTokens, batchTokens, seed = 0 } = options;
  const rowsPerBatch = checkSizes(documents, options);
  const epochs = new Epochs(documents, contextTokens, seed);
  return {
    contextTokens,
    batchTokens,
    identity: { seed, contextTokens, batchTokens, documents: documents.length, hash: hashTokens(documents) },
    batch: (number) => {
      const rows = Array.from({ length: rowsPerBatch }, (_, r) => epochs.row(number * rowsPerBatch + r));
      return fillBatch(documents, rows, contextTokens, batchTokens);
    },
  };
}

/**
 * Every document once, in their order, as batches; the last is filled with padding.
 *
 * @throws as `packDocuments`
 */
export function packOnce(documents: readonly TokenDocument[], options: PackingOptions): PackedBatch[] {
  const { contextTokens, batchTokens } = options;
  const rowsPerBatch = checkSizes(documents, options);
  const rows = packRows(documents, documents.keys(), contextTokens);
  return Array.from({ length: Math.ceil(rows.length / rowsPerBatch) }, (_, n) => {
    const part = rows.slice(n * rowsPerBatch, (n + 1) * rowsPerBatch);
    return fillBatch(documents, part, contextTokens, batchTokens);
  });
}

/** The rows of one epoch after another; those of the last one asked for are kept. */
class Epochs {
  readonly #documents: readonly TokenDocument[];
  readonly #contextTokens: number;
  readonly #seed: number;
  /** First row of every epoch seen so far, and of the next. */
  readonly #starts = [0];
  #kept: { readonly epoch: number; readonly rows: readonly Row[] } | undefined;

  constructor(documents: readonly TokenDocument[], contextTokens: number, seed: number) {
    this.#documents = documents;
    this.#contextTokens = contextTokens;
    this.#seed = seed;
  }

  row(index: number): Row {
    while (this.#starts[this.#starts.length - 1] <= index) {
      const epoch = this.#starts.length - 1;
      this.#starts.push(this.#starts[epoch] + this.#rows(epoch).length);
    }
    const epoch = this.#starts.findLastIndex((start) => start <= index);
    return this.#rows(epoch)[index - this.#starts[epoch]];
  }

  #rows(epoch: number): readonly Row[] {
    if (this.#kept?.epoch !== epoch) {
      const order = permutation(randomStream(this.#seed, `epoch ${epoch}`), this.#documents.length);
      this.#kept = { epoch, rows: packRows(this.#documents, order, this.#contextTokens) };
    }
    return this.#kept.rows;
  }
}

/** Puts documents into rows, best fit among a few open rows. */
function packRows(documents: readonly TokenDocument[], order: Iterable<number>, contextTokens: number): Row[] {
  const full: Row[] = [];
  let open: { pieces: Piece[]; room: number }[] = [];
  for (const document of order) {
    for (const piece of piecesOf(document, documents[document].tokens.length, contextTokens)) {
      const length = piece.to - piece.from;
      let best: (typeof open)[number] | undefined;
      for (const row of open) if (row.room >= length && (best === undefined || row.room < best.room)) best = row;
      if (best === undefined) {
        if (open.length === OPEN_ROWS) {
          const fullest = open.reduce((a, b) => (b.room < a.room ? b : a));
          full.push(fullest.pieces);
          open = open.filter((row) => row !== fullest);
        }
        best = { pieces: [], room: contextTokens };
        open.push(best);
      }
      best.pieces.push(piece);
      best.room -= length;
      if (best.room < SHORTEST) {
        full.push(best.pieces);
        open = open.filter((row) => row !== best);
      }
    }
  }
  return [...full, ...open.map((row) => row.pieces)];
}

/** A document as runs of at most a row; each begins with the last token of the one before, which predicts its second. */
function* piecesOf(document: number, length: number, contextTokens: number): Generator<Piece> {
  for (let from = 0; from + SHORTEST <= length; from += contextTokens - 1) {
    yield { document, from, to: Math.min(length, from + contextTokens) };
  }
}

function fillBatch(
  documents: readonly TokenDocument[],
  rows: readonly Row[],
  contextTokens: number,
  batchTokens: number,
): PackedBatch {
  const tokens = new Int32Array(batchTokens);
  const positions = new Int32Array(batchTokens);
  const segments = new Int32Array(batchTokens).fill(-1);
  const targets = new Int32Array(batchTokens).fill(-1);
  const weights = new Float32Array(batchTokens);
  let segment = 0;
  for (const [r, row] of rows.entries()) {
    let at = r * contextTokens;
    for (const { document, from, to } of row) {
      const { tokens: ids, weights: counts } = documents[document];
      for (let i = from; i < to; i++, at++) {
        tokens[at] = ids[i];
        positions[at] = i - from;
        segments[at] = segment;
        const weight = i + 1 < to ? (counts?.[i + 1] ?? 1) : 0;
        if (weight === 0) continue;
        targets[at] = ids[i + 1];
        weights[at] = weight;
      }
      segment++;
    }
  }
  return { tokens, positions, segments, targets, weights };
}

/** @returns rows of a batch */
function checkSizes(documents: readonly TokenDocument[], { contextTokens, batchTokens }: PackingOptions): number {
  const rowsPerBatch = batchTokens / contextTokens;
  const whole = Number.isSafeInteger(contextTokens) && contextTokens >= SHORTEST;
  if (!whole || !Number.isSafeInteger(rowsPerBatch) || rowsPerBatch < 1) {
    throw new ConfigError("packDocuments", "batchTokens must be a multiple of contextTokens, which is at least 2", {
      contextTokens,
      batchTokens,
    });
  }
  let predictions = false;
  for (const [document, { tokens, weights }] of documents.entries()) {
    if (weights !== undefined && weights.length !== tokens.length) {
      const got = { document, weights: weights.length, tokens: tokens.length };
      throw new ShapeError("packDocuments", "weights must have one entry per token", got);
    }
    for (let i = 0; weights !== undefined && i < weights.length; i++) {
      if (Number.isFinite(weights[i]) && weights[i] >= 0) continue;
      throw new ConfigError("packDocuments", "weights must be 0 or more", { document, index: i, weight: weights[i] });
    }
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i];
      if (token >= 0 && (token | 0) === token) continue;
      const got = { document, index: i, token };
      throw new ConfigError("packDocuments", "token ids must be integers from 0 to 2^31 - 1", got);
    }
    predictions ||= tokens.length >= SHORTEST;
  }
  if (!predictions) {
    throw new ConfigError("packDocuments", "a document of two tokens or more", { documents: documents.length });
  }
  return rowsPerBatch;
}

/** FNV-1a over lengths, tokens and weights. */
function hashTokens(documents: readonly TokenDocument[]): string {
  const single = new Float32Array(1);
  const bits = new Int32Array(single.buffer);
  let hash = 0x811c9dc5;
  const add = (value: number): void => {
    hash = Math.imul(hash ^ value, 0x01000193);
    hash ^= hash >>> 15;
  };
  for (const { tokens, weights } of documents) {
    add(tokens.length);
    for (let i = 0; i < tokens.length; i++) add(tokens[i]);
    for (let i = 0; weights !== undefined && i < weights.length; i++) {
      single[0] = weights[i];
      add(bits[0]);
    }
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}
