/**
 * The choice of the next token. The transforms and their order are those of Hugging Face transformers
 * (`_get_logits_processor`): repetition penalty, temperature, top-k, top-p, min-p.
 */

import { ConfigError } from "../errors.ts";
import { createRandom, randomSeed } from "./random.ts";
import { Ranking } from "./ranking.ts";

/** How the next token is chosen from the logits. */
export type SamplerOptions = {
  /**
   * Divides the logits. 0, the default, takes the token with the highest logit (the lowest id among equals); the
   * filters change nothing then.
   */
  readonly temperature?: number;
  /** Keeps the k highest logits and those equal to the k-th; 0, the default, keeps all. */
  readonly topK?: number;
  /** Keeps the fewest tokens whose probabilities add up to this or more, in (0, 1]; 1, the default, keeps all. */
  readonly topP?: number;
  /** Keeps the tokens at least this many times as probable as the most probable one, in [0, 1]; 0 keeps all. */
  readonly minP?: number;
  /**
   * Divides the positive and multiplies the negative logits of tokens that have occurred, above 0; 1, the
   * default, changes nothing.
   *
   * @see https://arxiv.org/abs/1909.05858 (CTRL, section 4.1)
   */
  readonly repetitionPenalty?: number;
  /** Integer from 0 to 2^53 − 1. Without one every sampler draws its own. */
  readonly seed?: number;
};

/** Chooses tokens; has its own stream of random numbers. */
export type Sampler = {
  /** The seed in use, so that a run can be repeated. */
  readonly seed: number;
  /**
   * Chooses a token.
   *
   * @param logits - f32 [V], left as they are
   * @param previous - ids that have occurred, for the repetition penalty
   * @returns an id from 0 to V − 1
   * @throws ConfigError when a logit is NaN or +Infinity, or when all are −Infinity
   */
  sample(logits: Float32Array, previous?: ArrayLike<number>): number;
};

/**
 * Creates a sampler. With a seed and the same logits it makes the same choices on every runtime whose `Math.exp`
 * agrees.
 *
 * @returns the sampler; it allocates when the vocabulary size changes, never per token
 * @throws ConfigError when an option is out of its range
 * @see https://github.com/huggingface/transformers/blob/main/src/transformers/generation/logits_process.py
 */
export function createSampler(options: SamplerOptions = {}): Sampler {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = randomSeed() } = options;
  const refuse = (name: keyof SamplerOptions, rule: string): never => {
    throw new ConfigError("createSampler", `${name} must be ${rule}`, { [name]: options[name] });
  };
  if (!(Number.isFinite(temperature) && temperature >= 0)) refuse("temperature", "a number of at least 0");
  if (!(Number.isSafeInteger(topK) && topK >= 0)) refuse("topK", "an integer of at least 0 (0 keeps all)");
  if (!(Number.isFinite(topP) && topP > 0 && topP <= 1)) refuse("topP", "a number above 0 and at most 1");
  if (!(Number.isFinite(minP) && minP >= 0 && minP <= 1)) refuse("minP", "a number from 0 to 1");
  if (!(Number.isFinite(repetitionPenalty) && repetitionPenalty > 0)) refuse("repetitionPenalty", "a number above 0");
  const random = createRandom(seed);

  let scores = new Float64Array(0); // [V] penalised logits
  let weights = new Float64Array(0); // [V] probabilities relative to the highest
  let ranking = new Ranking(0);
  let seen = new Uint32Array(0); // [V] the draw in which a token was last penalised
  let draw = 0;

  const sample = (logits: Float32Array, previous: ArrayLike<number> = []): number => {
    const size = logits.length;
    if (scores.length !== size) {
      scores = new Float64Array(size);
      weights = new Float64Array(size);
      ranking = new Ranking(size);
      seen = new Uint32Array(size);
      draw = 0;
    }
    scores.set(logits);
    if (repetitionPenalty !== 1) penalise(scores, previous, repetitionPenalty, seen, ++draw);
    const best = indexOfHighest(scores);
    if (temperature === 0) return best;

    const highest = scores[best];
    let total = 0;
    for (let id = 0; id < size; id++) {
      const weight = Math.exp((scores[id] - highest) / temperature);
      weights[id] = weight;
      total += weight;
    }
    ranking.rank(scores);

    // Every filter keeps the head of the ranking, so the kept tokens are ranks 0 to kept − 1.
    let kept = size;
    if (topK > 0 && topK < size) {
      const least = scores[ranking.at(topK - 1)];
      total = 0;
      for (kept = 0; kept < size && scores[ranking.at(kept)] >= least; kept++) total += weights[ranking.at(kept)];
    }
    let mass = total;
    if (topP < 1 || minP > 0) {
      const limit = kept;
      mass = 0;
      for (kept = 0; kept < limit; kept++) {
        const weight = weights[ranking.at(kept)];
        if ((topP < 1 && mass >= topP * total) || weight < minP) break;
        mass += weight;
      }
    }

    let rest = random.next() * mass;
    let chosen = best;
    for (let rank = 0; rank < kept && rest >= 0; rank++) {
      const weight = weights[ranking.at(rank)];
      if (weight === 0) break; // only rounding leads here
      chosen = ranking.at(rank);
      rest -= weight;
    }
    return chosen;
  };
  return { seed, sample };
}

/**
 * The natural logarithm of the probability that the softmax of the logits gives to one token.
 *
 * @param logits - f32 [V], as the model gave them
 * @param id - the token
 */
export function logProbability(logits: Float32Array, id: number): number {
  const highest = logits[indexOfHighest(logits)];
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - highest);
  return logits[id] - highest - Math.log(sum);
}

function penalise(
  scores: Float64Array,
  previous: ArrayLike<number>,
  penalty: number,
  seen: Uint32Array,
  draw: number,
): void {
  for (let i = 0; i < previous.length; i++) {
    const id = previous[i];
    if (seen[id] === draw) continue;
    seen[id] = draw;
    scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
  }
}

/** The first index of the highest value; refuses what no softmax can take. */
function indexOfHighest(values: Float64Array | Float32Array): number {
  let best = -1;
  let highest = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value > highest) {
      best = i;
      highest = value;
    } else if (Number.isNaN(value)) {
      throw badLogits("every logit must be a number", { token: i, logit: value });
    }
  }
  if (best < 0) throw badLogits("at least one logit must be above -Infinity", { logits: values.length });
  if (highest === Infinity) throw badLogits("every logit must be below Infinity", { token: best, logit: highest });
  return best;
}

function badLogits(expected: string, got: Record<string, number>): ConfigError {
  return new ConfigError("sample", expected, got, "Check the model's weights and its configuration.");
}
