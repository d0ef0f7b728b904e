/**
 * Policies from text, as command lines and configuration files have them: `snapkv(window=32)`,
 * `adaptiveheads(snapkv)`, `composed(tova, think(channelRatio=0.5))`.
 */

import { ConfigError } from "../errors.ts";
import { adaptiveHeads } from "./adaptive-heads.ts";
import { blockwise } from "./blockwise.ts";
import { capKV } from "./cap-kv.ts";
import { chunkKV } from "./chunk-kv.ts";
import { chunkwise } from "./chunkwise.ts";
import { compactor } from "./compactor.ts";
import { composed } from "./composed.ts";
import { criticalAdaptiveHeads, criticalKV } from "./critical-kv.ts";
import { cur } from "./cur.ts";
import { dms } from "./dms.ts";
import { dropKV } from "./drop-kv.ts";
import { duoAttention } from "./duo-attention.ts";
import { expectedAttention } from "./expected-attention.ts";
import { finch } from "./finch.ts";
import { keyDiff } from "./key-diff.ts";
import { knorm } from "./knorm.ts";
import { kvCompose } from "./kv-compose.ts";
import { kvzip } from "./kvzip.ts";
import { lagKV } from "./lag-kv.ts";
import { leverageScore } from "./leverage-score.ts";
import { merging } from "./merging.ts";
import { nonCausalAttention } from "./non-causal-attention.ts";
import { observedAttention } from "./observed-attention.ts";
import type { Policy } from "./policy.ts";
import { pyramidKV } from "./pyramid-kv.ts";
import { randomTokens } from "./random-tokens.ts";
import { rerotated } from "./rerotated.ts";
import { simLayerKV } from "./sim-layer-kv.ts";
import { snapKV } from "./snap-kv.ts";
import { streamingLLM } from "./streaming-llm.ts";
import { think } from "./think.ts";
import { tova } from "./tova.ts";

const WHERE = "parsePolicy";
/** Wrappers in wrappers, at most. */
const MAX_DEPTH = 8;

type OptionValue = number | boolean | string;
type Options = Readonly<Record<string, OptionValue>>;

/** How a policy is made from what stands between its parentheses. */
type Definition = {
  /** Policies it wraps. */
  readonly wraps: 0 | 1 | 2;
  readonly options: readonly string[];
  /** Values have the right type; the makers refuse what is out of range. */
  readonly create: (options: never, inner: readonly Policy[]) => Policy;
};

/** A policy that wraps none. */
function plain<O>(create: (options: O) => Policy, ...options: readonly (keyof NonNullable<O> & string)[]): Definition {
  return { wraps: 0, options, create: create as Definition["create"] };
}

/** A policy around another one. */
function wrapper<O>(
  create: (inner: Policy, options: O) => Policy,
  ...options: readonly (keyof NonNullable<O> & string)[]
): Definition {
  return { wraps: 1, options, create: (given: O, [inner]: readonly Policy[]) => create(inner, given) } as Definition;
}

const DEFINITIONS: Readonly<Record<string, Definition>> = {
  random: plain(randomTokens, "seed"),
  knorm: plain(knorm),
  keydiff: plain(keyDiff),
  streamingllm: plain(streamingLLM, "sinks"),
  snapkv: plain(snapKV, "window", "kernel"),
  tova: plain(tova),
  pyramidkv: plain(pyramidKV, "window", "kernel", "beta"),
  observedattention: plain(observedAttention),
  expectedattention: plain(expectedAttention, "futurePositions", "sinks", "covariance", "valueNorm", "epsilon"),
  lagkv: plain(lagKV, "sinks", "lagTokens", "crossScoring"),
  cur: plain(cur, "sinks", "leverage", "localWindow"),
  leveragescore: plain(leverageScore, "sketchColumns", "seed"),
  noncausalattention: plain(nonCausalAttention, "chunkTokens"),
  compactor: plain(compactor, "sinks", "recent", "blending", "chunkTokens", "sketchColumns", "seed"),
  capkv: plain(capKV, "tau", "futurePositions", "sinks", "epsilon"),
  dropkv: plain(dropKV, "window", "kernel", "epsilon"),
  finch: plain(finch, "chunkTokens", "normalize"),
  kvzip: plain(kvzip, "sinks", "layerwise", "normalize"),
  kvcompose: plain(kvCompose, "structured", "leastTokens", "valueNorm", "addHeadMean"),
  think: plain(think, "channelRatio", "window"),
  simlayerkv: plain(simLayerKV, "threshold", "lastQueries", "recent", "sinks"),
  duoattention: plain(duoAttention, "streamingRatio", "sinks", "recent", "distances"),
  rerotated: wrapper((inner: Policy) => rerotated(inner)),
  adaptiveheads: wrapper(adaptiveHeads, "safeguard"),
  criticalkv: wrapper(criticalKV, "epsilon", "firstStage"),
  criticaladaptiveheads: wrapper(criticalAdaptiveHeads, "safeguard", "epsilon", "firstStage"),
  chunkwise: wrapper(chunkwise, "chunkTokens"),
  chunkkv: wrapper(chunkKV, "chunkTokens"),
  blockwise: wrapper(blockwise, "blockTokens"),
  merging: wrapper(merging, "similarity", "fraction"),
  dms: wrapper(dms, "threshold", "window"),
  composed: { wraps: 2, options: [], create: (_options, [first, second]) => composed(first, second) },
};

/** Options without which a policy cannot be. */
const REQUIRED: Readonly<Record<string, string>> = { simlayerkv: "threshold", dms: "threshold" };

/** Options that are not numbers. */
const TEXT_OPTIONS = ["leverage"];
const FLAG_OPTIONS = [
  ...["covariance", "valueNorm", "crossScoring", "normalize", "layerwise"],
  ...["structured", "addHeadMean"],
];

/** Names that {@link parsePolicy} knows, those of single policies first. */
export const POLICY_NAMES: readonly string[] = Object.keys(DEFINITIONS);

/**
 * Reads a policy: its name, and in parentheses the policies it wraps and its options by name. Upper and lower case,
 * `-` and `_` in policy names make no difference. Not there: `perLayer`, whose amounts are lists, and what depends on
 * the time (`decodingCompression`, `prefillDecoding`).
 *
 * @param text - for example `adaptiveheads(snapkv(window=32), safeguard=0.1)`
 * @throws ConfigError when the text is malformed or names what is not known, and as the policy itself
 */
export function parsePolicy(text: string): Policy {
  const reader = new PolicyReader(text);
  const policy = reader.policy(1);
  reader.end();
  return policy;
}

class PolicyReader {
  readonly #text: string;
  readonly #tokens: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#tokens = text.match(/[A-Za-z][\w-]*|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[(),=]|\S/g) ?? [];
  }

  policy(depth: number): Policy {
    if (depth > MAX_DEPTH) throw this.#error(`at most ${MAX_DEPTH} policies in each other`);
    const word = this.#next();
    const name = word.toLowerCase().replaceAll(/[-_]/g, "");
    if (!Object.hasOwn(DEFINITIONS, name)) {
      throw new ConfigError(WHERE, "the name of a policy", { name: word }, `There are ${POLICY_NAMES.join(", ")}.`);
    }
    const definition = DEFINITIONS[name];
    const inner: Policy[] = [];
    const options: Record<string, OptionValue> = {};
    if (this.#tokens[this.#at] === "(") {
      do {
        this.#at++;
        if (this.#tokens[this.#at] === ")" && inner.length === 0) break;
        if (this.#tokens[this.#at + 1] === "=") this.#option(name, definition, options);
        else inner.push(this.policy(depth + 1));
      } while (this.#tokens[this.#at] === ",");
      this.#expect(")");
    }
    this.#check(name, definition, options, inner);
    return definition.create(options as never, inner);
  }

  end(): void {
    if (this.#at < this.#tokens.length) throw this.#error("one policy and nothing behind it");
  }

  #option(policy: string, definition: Definition, options: Record<string, OptionValue>): void {
    const key = this.#next();
    if (!definition.options.includes(key)) {
      const known = definition.options.length > 0 ? `It has ${definition.options.join(", ")}.` : "It has none.";
      throw new ConfigError(WHERE, `an option of ${policy}`, { option: key }, known);
    }
    if (key in options) throw new ConfigError(WHERE, "each option once", { option: key });
    this.#expect("=");
    options[key] = readValue(key, this.#next());
  }

  #check(name: string, { wraps }: Definition, options: Options, inner: readonly Policy[]): void {
    if (inner.length !== wraps) {
      const wanted = ["no policy", "one policy", "two policies"][wraps];
      throw new ConfigError(WHERE, `${wanted} inside ${name}`, { policies: inner.map((one) => one.name) });
    }
    const required = REQUIRED[name];
    if (required !== undefined && !(required in options)) {
      throw new ConfigError(WHERE, `${name} with its ${required}`, { options }, `Write ${required}=NUMBER.`);
    }
  }

  #next(): string {
    if (this.#at >= this.#tokens.length) throw this.#error("more of it");
    return this.#tokens[this.#at++];
  }

  #expect(token: string): void {
    if (this.#tokens[this.#at] !== token) throw this.#error(`"${token}"`);
    this.#at++;
  }

  #error(expected: string): ConfigError {
    const found = this.#tokens[this.#at] ?? "the end";
    return new ConfigError(WHERE, expected, { found, text: this.#text }, "Write NAME(INNER, option=value).");
  }
}

function readValue(key: string, word: string): OptionValue {
  if (TEXT_OPTIONS.includes(key)) return word;
  if (FLAG_OPTIONS.includes(key)) {
    if (word === "true" || word === "false") return word === "true";
    throw new ConfigError(WHERE, `${key} must be true or false`, { [key]: word });
  }
  const value = Number(word);
  if (Number.isFinite(value)) return value;
  throw new ConfigError(WHERE, `${key} must be a number`, { [key]: word });
}
