/** The project's own texts with planted facts, as documents to measure retrieval on. */

import { questionPrompt, type StoryOptions, storyDocument } from "../train/stories/story-document.ts";
import type { RetrievalDocument } from "./retrieval.ts";

/** What documents are made of; facts of the held-out split unless told. */
export type StoryDocumentsOptions = StoryOptions & {
  readonly documents: number;
  /** Of the first document; the others follow it. */
  readonly seed: number;
};

/**
 * Stories with questions about the facts in them. The texts hold no questions.
 *
 * @returns as many documents; the same options give the same words
 * @throws ConfigError as `storyDocument`
 */
export function storyDocuments({ documents, seed, ...options }: StoryDocumentsOptions): RetrievalDocument[] {
  return Array.from({ length: documents }, (_, n) => {
    const { text, questions } = storyDocument(seed + n, { split: "held-out", ...options });
    return {
      text,
      questions: questions.map(({ question, answer, at }) => {
        return { prompt: questionPrompt(question), answer, depth: at / text.length };
      }),
    };
  });
}
