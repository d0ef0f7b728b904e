/**
 * Options that say how a model's cache is kept, the same for every command that makes one.
 */

import { type Command, Option } from "commander";
import { parsePolicy } from "../compress/index.ts";
import { ConfigError } from "../errors.ts";
import type { CacheReport, ModelCacheOptions } from "../model/index.ts";
import { parseByteOption, parseFraction, parsePolicies, wholeNumber } from "./options.ts";
import { formatBytes } from "./parse-bytes.ts";

const FREQUENCY_CHANGES = ["pin", "rerotate", "reprefill"] as const;

/** What the command line says about the cache. */
export type CacheSettings = {
  readonly policy?: string;
  readonly budget?: number;
  readonly compressionRatio?: number;
  readonly rerotate?: boolean;
  readonly maxCacheBytes?: number;
  readonly cacheDtype?: "f32" | "int8" | "int4";
  readonly cacheLayout?: "contiguous" | "ring" | "paged";
  readonly onFrequencyChange?: (typeof FREQUENCY_CHANGES)[number];
};

/** Adds the options to a command. */
export function addCacheOptions(command: Command): Command {
  return command
    .optionsGroup("Cache options:")
    .option("--budget <n>", "tokens kept per head (default: all)", wholeNumber(1))
    .option("--max-cache-bytes <bytes>", "bytes that the cache never passes, such as 64MiB", parseByteOption)
    .addOption(
      new Option("--compression-ratio <r>", "fraction of the prompt that goes, from 0 to below 1, in place of a budget")
        .argParser(parseFraction)
        .conflicts(["budget", "maxCacheBytes"]),
    )
    .option(
      "--policy <policy>",
      "what goes, as in snapkv or adaptiveheads(snapkv(window=32)) (default: the oldest but the first 4)",
      parseOnePolicy,
    )
    .option(
      "--rerotate",
      "move what stays together, so that texts may be longer than the model's context (default: only without --policy)",
    )
    .option("--no-rerotate", "leave what stays where it was")
    .addOption(
      new Option("--cache-dtype <type>", "element type of the cache (default: f32)").choices(["f32", "int8", "int4"]),
    )
    .addOption(
      new Option(
        "--cache-layout <layout>",
        "where rows lie (default: contiguous; ring in layers with a sliding window; paged where heads share bytes)",
      ).choices(["contiguous", "ring", "paged"]),
    )
    .addOption(
      new Option(
        "--on-frequency-change <choice>",
        "what to do with cached keys when the text outgrows the frequencies they were rotated with (default: refuse)",
      ).choices(FREQUENCY_CHANGES),
    );
}

/** The same as the model takes it. */
export function cacheOptions(settings: CacheSettings): ModelCacheOptions {
  const { policy, budget, compressionRatio, rerotate, maxCacheBytes, onFrequencyChange } = settings;
  const { cacheDtype, cacheLayout } = settings;
  return {
    ...(policy !== undefined && { policy: parsePolicy(policy) }),
    ...(budget !== undefined && { budget }),
    ...(compressionRatio !== undefined && { compressionRatio }),
    ...(rerotate !== undefined && { rerotate }),
    ...(maxCacheBytes !== undefined && { maxBytes: maxCacheBytes }),
    ...(cacheDtype !== undefined && { elements: cacheDtype }),
    ...(cacheLayout !== undefined && { layout: cacheLayout }),
    ...(onFrequencyChange !== undefined && { onFrequencyChange }),
  };
}

/**
 * Refuses options that are of no use alone, in the command line's words, before anything is loaded.
 *
 * @throws ConfigError
 */
export function checkCacheSettings(where: string, settings: CacheSettings): void {
  const { policy, budget, compressionRatio, maxCacheBytes, rerotate } = settings;
  const isBounded = [budget, compressionRatio, maxCacheBytes].some((one) => one !== undefined);
  if (policy !== undefined && parsePolicy(policy).amount === "given" && !isBounded) {
    const hint = "Give --budget, --max-cache-bytes or --compression-ratio.";
    throw new ConfigError(where, "how much of the text a policy keeps", { policy }, hint);
  }
  if (rerotate !== undefined && !forgets(settings)) {
    const hint = "Give --budget, --max-cache-bytes, --compression-ratio or --policy, too.";
    throw new ConfigError(where, `--${rerotate ? "" : "no-"}rerotate with a cache that forgets`, {}, hint);
  }
}

/** Whether the cache may forget. */
export function forgets({ policy, budget, compressionRatio, maxCacheBytes }: CacheSettings): boolean {
  return [policy, budget, compressionRatio, maxCacheBytes].some((one) => one !== undefined);
}

/** What a cache kept, in a line. */
export function describeCache({ tokensSeen, bytes, peakBytes, layers }: CacheReport): string {
  const lengths = layers.flatMap((layer) => layer.map(({ rows }) => rows));
  const [least, most] = [Math.min(...lengths), Math.max(...lengths)];
  const kept = least === most ? `${most}` : `${least} to ${most}`;
  return (
    `${tokensSeen} tokens read, ${kept} kept per head, ` +
    `cache ${formatBytes(bytes)}, at most ${formatBytes(peakBytes)} on the way`
  );
}

function parseOnePolicy(text: string): string {
  parsePolicies(text);
  return text;
}
