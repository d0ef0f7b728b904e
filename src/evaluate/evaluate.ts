/** What a policy costs in quality: every policy × budget × re-rotation × element type, measured the same way. */

import type { CacheElements } from "../cache/index.ts";
import { type Policy, parsePolicy } from "../compress/index.ts";
import { BudgetError, CapabilityError, ConfigError } from "../errors.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";
import { type Agreement, measureAgreement } from "./agreement.ts";
import { checkPrefix, FullPredictions, type PredictedText } from "./full-predictions.ts";
import { measureRetrieval, type RetrievalDocument, type RetrievalResult } from "./retrieval.ts";

/** One way to keep a cache. */
export type EvaluationSetting = {
  /** Text for {@link parsePolicy}; null keeps everything. */
  readonly policy: string | null;
  /** Tokens kept per head; null where the policy's own parameters decide, and for the full cache. */
  readonly budget: number | null;
  readonly rerotate: boolean;
  readonly elements: CacheElements;
  /** Whether the policy knows the question when the text is read. */
  readonly questionAware: boolean;
};

/** What is measured. */
export type EvaluationRequest = {
  readonly settings: readonly EvaluationSetting[];
  /** For perplexity and agreement. */
  readonly agreement?: PredictedText;
  /** For retrieval. */
  readonly documents?: readonly RetrievalDocument[];
  /** Prompt tokens per forward. */
  readonly prefillChunk?: number;
  readonly signal?: AbortSignal;
  /** Called before each setting, and after each answer. */
  readonly onProgress?: (progress: EvaluationProgress) => void;
};

/** How far an evaluation has come. */
export type EvaluationProgress = {
  readonly setting: EvaluationSetting;
  readonly done: number;
  readonly total: number;
  readonly answered: number;
};

/** One setting, measured, or why it cannot be. */
export type EvaluationRow = EvaluationSetting & {
  readonly agreement?: Agreement;
  readonly retrieval?: RetrievalResult;
  /** The most bytes of rows that a cache held. */
  readonly peakBytes?: number;
  /** The message of whoever refused the combination. */
  readonly refused?: string;
};

/** What settings are made from. */
export type EvaluationGrid = {
  readonly policies: readonly string[];
  readonly budgets: readonly number[];
  readonly rerotate: readonly boolean[];
  readonly elements: readonly CacheElements[];
  readonly questionAware: readonly boolean[];
};

/**
 * Every combination, the full cache of each element type first. Policies whose own parameters decide how much stays
 * appear once per budget list, with a budget of null.
 *
 * @throws ConfigError as {@link parsePolicy}
 */
export function evaluationSettings(grid: EvaluationGrid): EvaluationSetting[] {
  const full = grid.elements.map((elements): EvaluationSetting => {
    return { policy: null, budget: null, rerotate: false, elements, questionAware: false };
  });
  const rest = grid.policies.flatMap((policy) => {
    const budgets = parsePolicy(policy).amount === "own" ? [null] : grid.budgets;
    return budgets.flatMap((budget) =>
      grid.elements.flatMap((elements) =>
        grid.questionAware.flatMap((questionAware) =>
          grid.rerotate.map((rerotate) => ({ policy, budget, rerotate, elements, questionAware })),
        ),
      ),
    );
  });
  return [...full, ...rest];
}

/**
 * Measures settings one after the other; what the full cache predicts is computed once. A combination that is refused becomes a row that says why. A policy that looks
 * from a question has no agreement where documents are given too: the text of the agreement asks nothing.
 *
 * @param model - with a tokenizer, where documents are given
 * @returns one row per setting, in order
 * @throws ConfigError when there is nothing to measure, or the prefix leaves nothing to predict
 */
export async function evaluate(model: DecoderModel, request: EvaluationRequest): Promise<EvaluationRow[]> {
  const { settings, agreement, documents, signal, onProgress } = request;
  if (settings.length === 0 || (agreement === undefined && documents === undefined)) {
    throw new ConfigError("evaluate", "settings, and a text or documents to measure them on", {
      settings: settings.length,
    });
  }
  if (agreement) checkPrefix(agreement);
  const rows: EvaluationRow[] = [];
  let full: FullPredictions | undefined;
  const agreementOf = async (text: PredictedText, createCache: () => ModelCache): Promise<Agreement> => {
    full ??= await FullPredictions.create(model, text, pass(signal));
    return measureAgreement(model, { text: full, createCache, ...pass(signal) });
  };
  try {
    for (const setting of settings) {
      let answered = 0;
      const report = (): void => onProgress?.({ setting, done: rows.length, total: settings.length, answered });
      report();
      const createCache = (): ModelCache => createSettingCache(model, setting, request.prefillChunk);
      try {
        const asks = documents !== undefined && setting.questionAware && needsQuestion(setting);
        const measured = agreement && !asks ? await agreementOf(agreement, createCache) : undefined;
        const retrieval =
          documents &&
          (await measureRetrieval(model, documents, {
            createCache,
            questionAware: setting.questionAware,
            ...pass(signal),
            onAnswer: () => {
              answered++;
              report();
            },
          }));
        rows.push({
          ...setting,
          ...(measured && { agreement: measured }),
          ...(retrieval && { retrieval }),
          peakBytes: Math.max(measured?.peakBytes ?? 0, retrieval?.peakBytes ?? 0),
        });
      } catch (error) {
        if (!isRefusal(error)) throw error;
        rows.push({ ...setting, refused: error.message });
      }
    }
  } finally {
    full?.dispose();
  }
  return rows;
}

/** An empty cache as a setting wants it. */
export function createSettingCache(
  model: DecoderModel,
  { policy, budget, rerotate, elements }: EvaluationSetting,
  prefillChunk?: number,
): ModelCache {
  const parsed: Policy | undefined = policy === null ? undefined : parsePolicy(policy);
  return model.createCache({
    elements,
    ...(prefillChunk !== undefined && { prefillChunk }),
    ...(parsed && { policy: parsed, rerotate }),
    ...(budget !== null && { budget }),
  });
}

function needsQuestion({ policy }: EvaluationSetting): boolean {
  const { queries, questionTokens } = policy === null ? {} : parsePolicy(policy).needs;
  return queries === "question" || questionTokens === true;
}

function isRefusal(error: unknown): error is Error {
  return error instanceof ConfigError || error instanceof CapabilityError || error instanceof BudgetError;
}

function pass(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal ? { signal } : {};
}
