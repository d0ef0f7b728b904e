/**
 * The context fed once more behind itself, to see what the model looks at when it repeats it. The repeated tokens are
 * forgotten again.
 *
 * @see https://arxiv.org/abs/2505.23416 KVzip, for the requests in words
 */

import { headMajorRows, type PolicyNeeds, type RepeatPass, tokenMajorRows } from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import type { Tensor } from "../tensor.ts";
import type { RepeatOptions } from "./cache-options.ts";
import type { Decoder, StepObserver } from "./decoder.ts";
import type { ModelCache } from "./model-cache.ts";
import { observeRows } from "./observe.ts";
import { QueryWindow } from "./query-window.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Runs tokens behind a cache, which they are appended to. */
export type RunTokens = (tokens: Int32Array, observer: StepObserver) => Promise<void>;

const CHUNK_TOKENS = 2048;
/** Tokens of the part before that a request names. */
const BEFORE_TOKENS = 8;

/**
 * Feeds the context once more.
 *
 * @param cache - holds every token of the context; the same afterwards
 * @param needs - `repeats` says in which form, `inputNorms` whether norms are wanted
 * @returns [L] passes
 */
export async function repeatContext(
  parts: { readonly decoder: Decoder; readonly backend: Backend; readonly tokenizer: Tokenizer | undefined },
  cache: ModelCache,
  needs: PolicyNeeds,
  options: RepeatOptions,
  run: RunTokens,
): Promise<RepeatPass[][]> {
  const { decoder, backend } = parts;
  const { layers } = decoder.config;
  const context = cache.tokens.slice(0, cache.tokens.length).slice();
  const chunk = needs.repeats === "whole" ? context.length : (options.chunkTokens ?? CHUNK_TOKENS);
  const passes: RepeatPass[][] = layers.map(() => []);
  for (let start = 0, index = 0; start < context.length; start += chunk, index++) {
    const end = Math.min(context.length, start + chunk);
    const part = context.subarray(start, end);
    const before = context.subarray(Math.max(0, start - BEFORE_TOKENS), start);
    const tokens =
      needs.repeats === "whole" ? part : tokensFor(parts.tokenizer, options, { index, tokens: part, before });
    const window = new QueryWindow(backend, layers);
    const inputs: Tensor<"f32">[] = [];
    window.begin(tokens.length, tokens.length);
    const mark = cache.mark();
    try {
      await run(Int32Array.from(tokens), {
        queries: (layer, queries) => window.capture(layer, queries),
        ...(needs.inputNorms && { inputs: (layer, x) => keepInputs(backend, inputs, layer, x) }),
      });
      window.end(Int32Array.from(tokens, (_, t) => mark.nextPosition + t));
      for (const [layer, config] of layers.entries()) {
        const { heads, kvHeads, headDim } = config;
        const { keys } = observeRows(cache, config, layer, layers.length);
        const repeated = new Float32Array(kvHeads * tokens.length * headDim);
        for (let head = 0; head < kvHeads; head++) {
          for (let t = 0; t < tokens.length; t++) {
            const from = keys.starts[head] + (mark.tokens + t) * keys.stride;
            repeated.set(keys.data.subarray(from, from + headDim), (head * tokens.length + t) * headDim);
          }
        }
        passes[layer].push({
          ...{ start, end },
          queries: tokenMajorRows(window.layer(layer).data.slice() as Float32Array, heads, headDim),
          keys: headMajorRows(repeated, kvHeads, headDim),
          ...(needs.inputNorms && { inputNorms: rowNorms(inputs[layer]) }),
        });
      }
    } finally {
      window.clear();
      for (const tensor of inputs) backend.release(tensor);
      cache.rollBack(mark);
    }
  }
  return passes;
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
