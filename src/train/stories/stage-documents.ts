/** The documents of a training stage. */

import { createDraw } from "./draw.ts";
import { listDocument } from "./list-document.ts";
import { type StoryOptions, type StoryPart, storyDocument } from "./story-document.ts";

/** The lowest and the highest value of a range. */
export type Range = readonly [number, number];

/** Documents of a stage. */
export type StageDocuments = {
  readonly count: number;
  /** Seeds of documents begin at this number times 2^32; every stage has its own. */
  readonly series: number;
  /** Fraction of documents that are lists of pairs instead of stories. */
  readonly lists: number;
  /** Fraction of lists that are plain. */
  readonly plain: number;
  /** Length, drawn evenly. */
  readonly pieces: Range;
  /** Pieces of a document for each of its facts, drawn evenly on a logarithmic scale. */
  readonly piecesPerFact: Range;
  /** As in {@link StoryOptions}. */
  readonly repeated: number;
  /** As in {@link StoryOptions}. */
  readonly immediate: number;
};

/** The documents, one after another, as their parts. */
export function* stageDocuments(documents: StageDocuments): Generator<readonly StoryPart[]> {
  for (let index = 0; index < documents.count; index++) {
    const { seed, draw, pieces } = common(documents, index);
    if (draw.chance(documents.lists))
      yield listDocument(seed, { pieces, rounds: 2 + draw.below(3), plain: draw.chance(documents.plain) });
    else {
      const { options } = stageStory(documents, index);
      yield storyDocument(seed, options).parts;
    }
  }
}

/** Seed and options of the story that stands at an index, unless a list does. */
export function stageStory(documents: StageDocuments, index: number): { seed: number; options: StoryOptions } {
  const { piecesPerFact, repeated, immediate } = documents;
  const { seed, pieces } = common(documents, index);
  const draw = createDraw(seed, "stage story");
  const perFact = piecesPerFact[0] * (piecesPerFact[1] / piecesPerFact[0]) ** draw.fraction();
  const facts = Math.max(1, Math.round(pieces / perFact));
  return { seed, options: { pieces, facts, kinds: 1 + draw.below(facts), repeated, immediate } };
}

function common({ series, pieces: [shortest, longest] }: StageDocuments, index: number) {
  const seed = series * 2 ** 32 + index;
  const draw = createDraw(seed, "stage");
  return { seed, draw, pieces: Math.round(shortest + (longest - shortest) * draw.fraction()) };
}
