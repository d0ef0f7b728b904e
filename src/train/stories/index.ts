/** Stories with planted facts: what phasor-mini learns from, and what retrieval is measured with. */

export { type Fact, isWithheld, type Split } from "./facts.ts";
export { type ListOptions, listDocument } from "./list-document.ts";
export {
  heldOutDocuments,
  heldOutStories,
  MINI_CONFIG,
  MINI_STAGES,
  MINI_VOCABULARY,
  miniTokenizer,
  type Stage,
} from "./recipe.ts";
export { type Range, type StageDocuments, stageDocuments, stageStory } from "./stage-documents.ts";
export {
  answerText,
  countPieces,
  type PlantedFact,
  questionPrompt,
  type StoryDocument,
  type StoryOptions,
  type StoryPart,
  storyDocument,
} from "./story-document.ts";
export { type RoleWeights, storyTokens } from "./story-tokens.ts";
