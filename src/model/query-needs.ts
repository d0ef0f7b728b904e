/** How many queries policies look from, and how many of them are held between steps. */

import type { PolicyNeeds } from "../compress/index.ts";

/** Queries that are held while decoding, for policies that would look at all. */
export const DECODING_QUERIES = 256;

/**
 * Queries that a policy wants to see; Infinity for all there are.
 *
 * @param T - tokens of the step
 * @param questionTokens - of the question at the end of the text
 */
export function queriesWanted(needs: PolicyNeeds | undefined, T: number, questionTokens: number): number {
  if (needs === undefined) return 0;
  const { queries = 0, unrotatedQueries = 0 } = needs;
  const rotated = queries === "question" ? questionTokens : queries;
  return Math.max(rotated, unrotatedQueries, needs.attentionMass ? T : 0);
}

/** Queries of a question that a policy wants to see. */
export function questionQueries(needs: PolicyNeeds, questionTokens: number): number {
  return Math.min(questionTokens, queriesWanted(needs, 0, questionTokens));
}

/** Whether a question can make a difference to a policy. One that looks from every token of the text looks from no other. */
export function looksFromQuestion({ queries, unrotatedQueries, attentionMass, questionTokens }: PolicyNeeds): boolean {
  if (queries === Infinity && !questionTokens) return false;
  return Boolean(queries || unrotatedQueries || attentionMass || questionTokens);
}

/** Rows of a window that shows the last `count` queries while single ones come. */
export function windowRows(count: number): number {
  return count <= 1 ? count : 2 * count;
}
