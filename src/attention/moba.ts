/**
 * MoBA, mixture of block attention: every query head attends to its own block of keys and to the earlier blocks
 * whose mean key fits best.
 *
 *     gate(h, i, n) = q_i · mean of the keys of block n
 *
 * Block n holds the keys at positions n·chunk to n·chunk + chunk − 1, wherever they are stored. A block that is not
 * full divides by the keys it has; slots that do not exist and padding are in no block. Keys of other segments
 * count in the mean: the mask narrows what is seen of the chosen blocks, not the choice.
 *
 * @see https://arxiv.org/abs/2502.13189 MoBA: Mixture of Block Attention for Long-Context LLMs
 */

import { ConfigError } from "../errors.ts";
import type { BlockSelection } from "./selection.ts";
import type { AttentionSpec } from "./spec.ts";
import { largestIndices } from "./top-k.ts";

/** Attend to the best blocks of keys. */
export type MobaSelect = {
  readonly kind: "moba";
  /** Positions of a block, at least 1. */
  readonly chunk: number;
  /** Blocks that a query sees, its own included, at least 1. */
  readonly topk: number;
};

/** Chooses blocks by raw q; of equal gates the earlier block wins. */
export function selectBlocks(spec: AttentionSpec, { chunk, topk }: MobaSelect): BlockSelection {
  checkCount("chunk", chunk);
  checkCount("topk", topk);
  const { B, Tq, Tk, H, Hk, D } = spec.dims;
  const { queryPositions } = spec.maskInputs;
  const entries = Array.from({ length: B }, (_, b) => groupKeys(spec, b, chunk));
  const blocks = Math.max(0, ...entries.map((groups) => groups.length));

  const blockPointers = new Int32Array(B * blocks + 1);
  const blockKeys: number[] = [];
  const rowPointers = new Int32Array(B * H * Tq + 1);
  const columns: number[] = [];
  entries.forEach((groups, b) => {
    for (let n = 0; n < blocks; n++) {
      for (const key of groups[n]?.keys ?? []) blockKeys.push(key);
      blockPointers[b * blocks + n + 1] = blockKeys.length;
    }
    for (let kvHead = 0; kvHead < Hk; kvHead++) {
      const means = groups.map(({ keys }) => meanKey(spec, b, kvHead, keys));
      for (let h = (kvHead * H) / Hk; h < ((kvHead + 1) * H) / Hk; h++) {
        for (let i = 0; i < Tq; i++) {
          const own = Math.floor(queryPositions[b * Tq + i] / chunk);
          const query = ((b * Tq + i) * H + h) * D;
          const gates: number[] = []; // of the blocks before the own one
          for (let n = 0; n < groups.length && groups[n].number < own; n++) {
            let gate = 0;
            for (let d = 0; d < D; d++) gate += spec.q.data[query + d] * means[n][d];
            gates.push(gate);
          }
          const hasOwn = groups[gates.length]?.number === own;
          for (const n of largestIndices(gates, hasOwn ? topk - 1 : topk)) columns.push(n);
          if (hasOwn) columns.push(gates.length);
          rowPointers[(b * H + h) * Tq + i + 1] = columns.length;
        }
      }
    }
  });
  return {
    kind: "blocks",
    shape: [B, H, Tq, Tk],
    blocks,
    blockPointers,
    blockKeys: Int32Array.from(blockKeys),
    rowPointers,
    columns: Int32Array.from(columns),
  };
}

/** The key slots of one batch entry by block, blocks and keys in order of position. */
function groupKeys({ maskInputs }: AttentionSpec, b: number, chunk: number): { number: number; keys: number[] }[] {
  const { keyLength, keyPositions, keySegments, lengths } = maskInputs;
  const base = b * keyLength;
  const groups = new Map<number, number[]>();
  for (let j = 0; j < Math.min(keyLength, lengths?.[b] ?? keyLength); j++) {
    if (keySegments !== undefined && keySegments[base + j] < 0) continue;
    const number = Math.floor(keyPositions[base + j] / chunk);
    const keys = groups.get(number);
    if (keys === undefined) groups.set(number, [j]);
    else keys.push(j);
  }
  // Sorted, so that sums and with them ties do not depend on where keys are stored.
  const byPosition = (i: number, j: number): number => keyPositions[base + i] - keyPositions[base + j];
  return [...groups]
    .map(([number, keys]) => ({ number, keys: keys.sort(byPosition) }))
    .sort((one, other) => one.number - other.number);
}

function meanKey(spec: AttentionSpec, b: number, kvHead: number, keys: readonly number[]): Float64Array {
  const { Tk, Hk, D } = spec.dims;
  const mean = new Float64Array(D);
  for (const j of keys) {
    const key = ((b * Tk + j) * Hk + kvHead) * D;
    for (let d = 0; d < D; d++) mean[d] += spec.k.data[key + d];
  }
  return mean.map((sum) => sum / keys.length);
}

function checkCount(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new ConfigError("moba", `${name} must be a positive integer`, { [name]: value });
  }
}
