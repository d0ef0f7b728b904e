/** How phasor-mini is made: its shape, and the stages of its training. `scripts/train-mini.mjs` carries it out. */

import { type TokenizerFiles, tokenizerFiles, trainBytePairs } from "../tokenizer/index.ts";
import { type StageDocuments, stageDocuments, stageStory } from "./stage-documents.ts";
import { type StoryDocument, type StoryPart, storyDocument } from "./story-document.ts";
import type { RoleWeights } from "./story-tokens.ts";

/** One call of `phasor train`. */
export type Stage = {
  readonly name: string;
  readonly documents: StageDocuments;
  readonly weights: RoleWeights;
  readonly contextTokens: number;
  readonly batchTokens: number;
  readonly steps: number;
  readonly learningRate: number;
  readonly warmupSteps: number;
  /** Fraction of the learning rate at the end. */
  readonly floor: number;
  /** A longer context, as `phasor train --rope-scaling` takes it. */
  readonly ropeScaling?: string;
};

/** Vocabulary: the special tokens, the bytes, and what was learned. */
export const MINI_VOCABULARY = 1536;

/** Series of seeds that no stage trains on. */
const TOKENIZER_SERIES = 1000;
const HELD_OUT_SERIES = 2000;
const TOKENIZER_DOCUMENTS = 2000;
const HELD_OUT_DOCUMENTS = 64;

/** config.json of the model before its context is extended. */
export const MINI_CONFIG: Readonly<Record<string, unknown>> = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: MINI_VOCABULARY,
  hidden_size: 128,
  intermediate_size: 384,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  hidden_act: "silu",
  max_position_embeddings: 1024,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 0,
  eos_token_id: 1,
};

/**
 * How much predictions count. Answers are few, and what a question or a list names first cannot be known; with story and
 * answers at 1 : 4 looking up was not learned from lists within a million tokens.
 */
const LIST_WEIGHTS: RoleWeights = { story: 0.2, question: 0.3, answer: 4 };
const STORY_WEIGHTS: RoleWeights = { story: 0.5, question: 0.3, answer: 4 };

const TOLD_AGAIN = { repeated: 0.25, immediate: 0.2, plain: 0.5 };
const LISTS_ONLY = { lists: 1, plain: 1, piecesPerFact: [25, 45], repeated: 0, immediate: 0 } as const;

/**
 * Plain lists first: from them a model learns within a million tokens to look things up, which takes many millions from
 * stories alone. Then stories, from short ones on, because what is far away is found late.
 */
export const MINI_STAGES: readonly Stage[] = [
  {
    name: "lists",
    documents: { ...LISTS_ONLY, series: 1, count: 30_000, pieces: [30, 61] },
    weights: LIST_WEIGHTS,
    contextTokens: 64,
    batchTokens: 2048,
    steps: 800,
    learningRate: 3e-3,
    warmupSteps: 50,
    floor: 1,
  },
  {
    name: "lists-on",
    documents: { ...LISTS_ONLY, series: 7, count: 30_000, pieces: [30, 61] },
    weights: LIST_WEIGHTS,
    contextTokens: 64,
    batchTokens: 2048,
    steps: 1000,
    learningRate: 3e-3,
    warmupSteps: 50,
    floor: 1,
  },
  {
    name: "short",
    documents: { series: 2, count: 40_000, lists: 0.35, pieces: [40, 122], piecesPerFact: [25, 45], ...TOLD_AGAIN },
    weights: STORY_WEIGHTS,
    contextTokens: 128,
    batchTokens: 4096,
    steps: 900,
    learningRate: 3e-3,
    warmupSteps: 20,
    floor: 1,
  },
  {
    name: "middle",
    documents: { series: 3, count: 30_000, lists: 0.15, pieces: [40, 244], piecesPerFact: [25, 80], ...TOLD_AGAIN },
    weights: STORY_WEIGHTS,
    contextTokens: 256,
    batchTokens: 8192,
    steps: 500,
    learningRate: 3e-3,
    warmupSteps: 20,
    floor: 1,
  },
  {
    name: "long",
    documents: { series: 4, count: 18_000, lists: 0.1, pieces: [60, 500], piecesPerFact: [25, 120], ...TOLD_AGAIN },
    weights: STORY_WEIGHTS,
    contextTokens: 512,
    batchTokens: 8192,
    steps: 500,
    learningRate: 3e-3,
    warmupSteps: 20,
    floor: 1,
  },
  {
    name: "full",
    documents: { series: 5, count: 8000, lists: 0.05, pieces: [100, 1005], piecesPerFact: [25, 160], ...TOLD_AGAIN },
    weights: STORY_WEIGHTS,
    contextTokens: 1024,
    batchTokens: 8192,
    steps: 500,
    learningRate: 3e-3,
    warmupSteps: 20,
    floor: 0.03,
  },
  {
    name: "extended",
    documents: { series: 6, count: 1000, lists: 0, pieces: [200, 4040], piecesPerFact: [30, 200], ...TOLD_AGAIN },
    weights: STORY_WEIGHTS,
    contextTokens: 4096,
    batchTokens: 16_384,
    steps: 100,
    learningRate: 1e-3,
    warmupSteps: 10,
    floor: 0.03,
    ropeScaling: "yarn:4",
  },
];

/** Stories like a stage's, of other seeds and with facts that no stage has seen, each told once and asked at the end. */
export function* heldOutStories({ documents }: Stage): Generator<StoryDocument> {
  const alike = { ...documents, series: documents.series + HELD_OUT_SERIES, repeated: 0, immediate: 0 };
  for (let index = 0; index < HELD_OUT_DOCUMENTS; index++) {
    const { seed, options } = stageStory(alike, index);
    yield storyDocument(seed, { ...options, split: "held-out" });
  }
}

/** What a stage is evaluated on: held-out stories, or lists of other seeds when it has nothing else. */
export function* heldOutDocuments(stage: Stage): Generator<readonly StoryPart[]> {
  const { documents } = stage;
  if (documents.lists < 1) for (const { parts } of heldOutStories(stage)) yield parts;
  else yield* stageDocuments({ ...documents, series: documents.series + HELD_OUT_SERIES, count: HELD_OUT_DOCUMENTS });
}

/** The tokenizer's files, learned from stories. */
export function miniTokenizer(): TokenizerFiles {
  const documents: StageDocuments = {
    count: TOKENIZER_DOCUMENTS,
    series: TOKENIZER_SERIES,
    lists: 0.1,
    plain: 0,
    pieces: [500, 500],
    piecesPerFact: [40, 40],
    repeated: 0,
    immediate: 0,
  };
  const texts = Array.from(stageDocuments(documents), (parts) => parts.map(({ text }) => text).join(""));
  return tokenizerFiles(trainBytePairs(texts, MINI_VOCABULARY - 2), Number(MINI_CONFIG.max_position_embeddings));
}
