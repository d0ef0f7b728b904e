/**
 * KVzip: what the model needs to repeat the context stays, whatever will be asked.
 *
 * @see https://arxiv.org/abs/2505.23416
 */

import { ConfigError } from "../errors.ts";
import { type Amount, keptCount } from "./amount.ts";
import { checkWhole } from "./check-options.ts";
import { bestOfAll } from "./compete.ts";
import { groupOf, type Observation, observed, type RepeatPass } from "./observation.ts";
import { givenAmount, type HeadScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { projectedNorms } from "./projected-values.ts";
import { repeatPeaks } from "./repeat-attention.ts";

/** Options of {@link kvzip}. */
export type KVzipOptions = {
  /** First tokens that join every chunk's softmax; 4 unless told. */
  readonly sinks?: number;
  /** Give every layer the same number of tokens; false unless told. */
  readonly layerwise?: boolean;
  /** KVzip+: multiply by ‖W_o·v‖ and divide by the norm of the repeating token's input; false unless told. */
  readonly normalize?: boolean;
};

/**
 * Scores a token by the largest attention that any repeated token of any query head pays to it. All heads of all
 * layers compete, so heads may keep different numbers of tokens, even none. Sinks are kept for sure only where they
 * lie before the first repeated part, in a chat prefix.
 *
 * @throws ConfigError when an option is out of range
 */
export function kvzip({ sinks = 4, layerwise = false, normalize = false }: KVzipOptions = {}): ScorePolicy {
  checkWhole("kvzip", { sinks }, 0);
  const base = scorePolicy({
    name: "kvzip",
    needs: { repeats: "chunks", ...(normalize ? { outputProjection: true, inputNorms: true } : {}) },
    takes: { repeatSinks: sinks, ...(normalize ? { projectedNorms: 2 } : {}) },
    moments: ["prefill"],
    score: (observation) => repeatScores(observation, sinks, normalize),
  });
  return {
    ...base,
    scope: layerwise ? "layer" : "model",
    ragged: true,
    plan: (layers, amount) => {
      const given = givenAmount("kvzip", amount);
      const scores = layers.map((observation) => base.score(observation, given));
      if (layerwise) return scores.map((rows) => ({ kept: bestOfAll(rows, stay(rows, given)) }));
      const flat = scores.flat();
      const kept = bestOfAll(flat, stay(flat, given));
      return scores.map((rows) => ({ kept: kept.splice(0, rows.length) }));
    },
  };
}

/** Slots that stay of all: what is removed is rounded down. */
function stay(rows: readonly Float64Array[], amount: Amount): number {
  const total = rows.reduce((sum, row) => sum + row.length, 0);
  if (amount.budget !== undefined) return rows.reduce((sum, row) => sum + keptCount(amount, row.length), 0);
  keptCount(amount, total); // refuses an impossible ratio
  return total - Math.floor(total * amount.compressionRatio);
}

function repeatScores(observation: Observation, sinks: number, normalize: boolean): HeadScores {
  const { keys } = observation;
  const group = groupOf(observation);
  const weights = normalize ? projectedNorms("kvzip", observation, 2) : undefined;
  const scores = Array.from(keys.lengths, (T) => new Float64Array(T).fill(1, 0, sinks));
  for (const pass of observed("kvzip", observation, "repeats")) {
    for (const row of scores) row.fill(0, pass.start, pass.end);
    const norms = normalize ? inputNorms(pass, observation.layer) : undefined;
    for (const [head, peaks] of repeatPeaks(observation, pass, sinks, norms).entries()) {
      const row = scores[Math.floor(head / group)];
      for (let n = 0; n < peaks.length; n++) {
        const slot = pass.start + n;
        row[slot] = Math.max(row[slot], weights ? peaks[n] * weights[head][slot] : peaks[n]);
      }
    }
  }
  return scores;
}

/** The norms of a pass, which only KVzip+ asks for. */
function inputNorms({ inputNorms: norms }: RepeatPass, layer: number): Float64Array {
  if (norms === undefined) {
    throw new ConfigError("kvzip", "repeats must hold inputNorms", { layer }, "See policy.needs.");
  }
  return norms;
}
