/**
 * The context fed once more behind itself, to see what the model looks at when it repeats it. The repeated tokens are
 * forgotten again.
 *
 * @see https://arxiv.org/abs/2505.23416 KVzip, for the requests in words
 */

import { headMajorRows, type Policy, type PolicyNeeds, type RepeatPass, tokenMajorRows } from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import { BudgetError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { repeatPeaks } from "./attention-sums.ts";
import type { RepeatOptions } from "./cache-options.ts";
import type { Decoder, StepObserver } from "./decoder.ts";
import type { ModelCache } from "./model-cache.ts";
import { observeRows } from "./observe.ts";
import { QueryWindow } from "./query-window.ts";
import { PART_TOKENS, repeatBytes } from "./repeat-size.ts";
import type { Scratch } from "./scratch.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Runs tokens behind a cache, which they are appended to. */
export type RunTokens = (tokens: Int32Array, observer: StepObserver) => Promise<void>;

/** What repeating needs of a model. */
export type RepeatParts = {
  readonly decoder: Decoder;
  readonly backend: Backend;
  /** Where the backend computes for policies. */
  readonly scratch: Scratch;
  readonly tokenizer: Tokenizer | undefined;
  readonly run: RunTokens;
};

/** A part of the context, and the tokens that are fed for it. */
type Part = { readonly start: number; readonly end: number; readonly tokens: Int32Array };

/** Tokens of the part before that a request names. */
const BEFORE_TOKENS = 8;

/**
 * Feeds the context once more.
 *
 * @param cache - holds every token of the context; the same afterwards, also where it throws
 * @param policy - says in which form, and what it takes of it
 * @returns [L] passes, and the bytes that they are, which the cache was told to hold aside
 * @throws BudgetError where bytes were promised and do not hold it
 */
export async function repeatContext(
  parts: RepeatParts,
  cache: ModelCache,
  policy: Policy,
): Promise<{ readonly passes: RepeatPass[][]; readonly bytes: number }> {
  const { needs } = policy;
  const { config } = parts.decoder;
  const repeated = repeatedParts(parts.tokenizer, cache, needs);
  checkBytes(parts, cache, needs, repeated);
  const passes: RepeatPass[][] = config.layers.map(() => []);
  let bytes = 0;
  try {
    for (const part of repeated) {
      await repeatPart(parts, cache, policy, part, passes);
      const added = repeatBytes(config, needs, { repeatTokens: 0, totalTokens: part.tokens.length });
      bytes += added;
      cache.holdAside(added);
    }
  } catch (error) {
    cache.holdAside(-bytes);
    throw error;
  }
  return { passes, bytes };
}

/** The parts of the context that a cache was given. */
function repeatedParts(tokenizer: Tokenizer | undefined, cache: ModelCache, needs: PolicyNeeds): Part[] {
  const { plan, options } = cache;
  const { repeat = {} } = options;
  const context = cache.tokens.slice(0, cache.tokens.length).slice();
  const whole = needs.repeats === "whole";
  const size = whole ? context.length : (repeat.chunkTokens ?? plan.aside?.repeat.partTokens ?? PART_TOKENS);
  return Array.from({ length: Math.ceil(context.length / size) }, (_, index) => {
    const [start, end] = [index * size, Math.min(context.length, (index + 1) * size)];
    const tokens = context.subarray(start, end);
    const before = context.subarray(Math.max(0, start - BEFORE_TOKENS), start);
    return {
      ...{ start, end },
      tokens: whole ? tokens : Int32Array.from(tokensFor(tokenizer, repeat, { index, tokens, before })),
    };
  });
}

async function repeatPart(
  { decoder, backend, scratch, run }: RepeatParts,
  cache: ModelCache,
  { needs, takes }: Policy,
  { start, end, tokens }: Part,
  passes: readonly RepeatPass[][],
): Promise<void> {
  const { layers } = decoder.config;
  const window = new QueryWindow(backend, layers);
  const inputs: Tensor<"f32">[] = [];
  const mark = cache.mark();
  let held = 0;
  try {
    window.begin(tokens.length, tokens.length);
    held = repeatBytes(decoder.config, needs, { repeatTokens: tokens.length, totalTokens: 0 });
    cache.holdAside(held);
    await run(tokens, {
      queries: (layer, queries) => window.capture(layer, queries),
      ...(needs.inputNorms && { inputs: (layer, x) => keepInputs(backend, inputs, layer, x) }),
    });
    window.end(tokens.map((_, t) => mark.nextPosition + t));
    for (const [layer, config] of layers.entries()) {
      const { heads, kvHeads, headDim } = config;
      const observation = observeRows(cache, config, layer, layers.length);
      const { keys } = observation;
      const queries = tokenMajorRows(window.layer(layer).data.slice() as Float32Array, heads, headDim);
      const norms = needs.inputNorms ? rowNorms(inputs[layer]) : undefined;
      const sinks = takes?.repeatSinks ?? 0;
      const rows = await repeatPeaks(scratch, observation, queries, {
        ...{ start, end, repeatedFrom: mark.tokens, sinks, norms },
      });
      const repeated = new Float32Array(kvHeads * tokens.length * headDim);
      for (let head = 0; head < kvHeads; head++) {
        for (let t = 0; t < tokens.length; t++) {
          const from = keys.starts[head] + (mark.tokens + t) * keys.stride;
          repeated.set(keys.data.subarray(from, from + headDim), (head * tokens.length + t) * headDim);
        }
      }
      passes[layer].push({
        ...{ start, end },
        queries,
        keys: headMajorRows(repeated, kvHeads, headDim),
        ...(norms && { inputNorms: norms }),
        ...(rows && { peaks: { sinks, normalized: norms !== undefined, rows } }),
      });
    }
  } finally {
    window.clear();
    for (const tensor of inputs) if (tensor) backend.release(tensor);
    cache.rollBack(mark);
    cache.holdAside(-held);
  }
}

/** Refuses a repeat that the promised bytes do not hold. Where the requests are those in words, they were counted. */
function checkBytes({ decoder }: RepeatParts, cache: ModelCache, needs: PolicyNeeds, repeated: readonly Part[]): void {
  const { aside } = cache.plan;
  if (aside === undefined) return;
  const repeatTokens = Math.max(...repeated.map(({ tokens }) => tokens.length));
  const totalTokens = repeated.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const fitsRows = cache.length() + repeatTokens <= aside.promptTokens + aside.repeat.repeatTokens;
  const bytes = repeatBytes(decoder.config, needs, { repeatTokens, totalTokens });
  if (fitsRows && bytes <= repeatBytes(decoder.config, needs, aside.repeat)) return;
  throw new BudgetError(
    "compress",
    "the context fed once more within maxBytes",
    { tokens: cache.length(), repeatTokens, totalTokens, planned: aside.repeat, maxBytes: cache.options.maxBytes },
    "Raise repeat.requestTokens to what a request takes, or maxBytes.",
  );
}

function tokensFor(
  tokenizer: Tokenizer | undefined,
  options: RepeatOptions,
  part: { readonly index: number; readonly tokens: Int32Array; readonly before: Int32Array },
): ArrayLike<number> {
  if (options.tokensFor) return options.tokensFor(part);
  if (tokenizer === undefined) return part.tokens;
  const request =
    part.index === 0
      ? "\n\nRepeat the previous context:"
      : `\n\nRepeat the part of the previous context starting with \`${tokenizer.decode(part.before)}\`:`;
  return [...tokenizer.encode(request, { addSpecialTokens: false }), ...part.tokens];
}

function keepInputs(backend: Backend, kept: Tensor<"f32">[], layer: number, inputs: Tensor<"f32">): void {
  kept[layer] = backend.allocate(inputs.shape);
  backend.copy(kept[layer], inputs);
}

function rowNorms({ data, shape: [T, C] }: Tensor<"f32">): Float64Array {
  return Float64Array.from({ length: T }, (_, t) => {
    let squares = 0;
    for (let c = t * C; c < (t + 1) * C; c++) squares += data[c] ** 2;
    return Math.sqrt(squares);
  });
}
