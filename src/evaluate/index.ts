/** Quality: what a cache that forgets costs in answers, perplexity and agreement with the full one. */

export { type Agreement, type AgreementOptions, measureAgreement } from "./agreement.ts";
export { type Answer, type AskOptions, ask, isExactAnswer } from "./ask.ts";
export { addComparison, type DistributionSums, lossOf, noSums } from "./distributions.ts";
export {
  createSettingCache,
  type EvaluationGrid,
  type EvaluationProgress,
  type EvaluationRequest,
  type EvaluationRow,
  type EvaluationSetting,
  evaluate,
  evaluationSettings,
} from "./evaluate.ts";
export {
  FullPredictions,
  type FullPredictionsOptions,
  type PredictedStep,
  type PredictedText,
} from "./full-predictions.ts";
export { evaluationCharts, evaluationTable, retrievalTables, settingName } from "./report.ts";
export {
  type AnswerPart,
  accuracyBy,
  answersByDepth,
  answersByDistance,
  measureRetrieval,
  type RetrievalAnswer,
  type RetrievalDocument,
  type RetrievalOptions,
  type RetrievalQuestion,
  type RetrievalResult,
} from "./retrieval.ts";
export { type StoryDocumentsOptions, storyDocuments } from "./story-documents.ts";
