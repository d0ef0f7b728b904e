/** Texts for the tiny Llama of the tests. */

import type { DecoderModel, ModelCache } from "../../src/model/index.ts";

/** Tokens of the tiny Llama. */
export const VOCABULARY = 37;

/** Token ids that look like chance, the same everywhere. */
export function text(length: number, seed = 1): number[] {
  let state = seed;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % VOCABULARY;
  });
}

/** Greedy continuation; all of it ends in the cache. */
export async function continueText(
  model: DecoderModel,
  cache: ModelCache,
  prompt: readonly number[],
  count: number,
): Promise<number[]> {
  const made: number[] = [];
  let { data } = await model.forward({ tokens: prompt, cache });
  while (made.length < count) {
    const best = data.indexOf(Math.max(...data));
    made.push(best);
    data = (await model.forward({ tokens: [best], cache })).data;
  }
  return made;
}
