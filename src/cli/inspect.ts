/**
 * phasor inspect: a model in words and numbers.
 */

import type { Command } from "commander";
import {
  inspectModel,
  type LayerGroup,
  type ModelReport,
  type RotaryReport,
  type StoredParameters,
  type WeightChoice,
} from "../model/index.ts";
import { weightsOption } from "./model-options.ts";
import { parseByteOption, parseText } from "./options.ts";
import { print } from "./output.ts";
import { formatBytes } from "./parse-bytes.ts";

/** What the command line asks for. */
type InspectSettings = { readonly weights: WeightChoice; readonly memory?: number; readonly json?: boolean };

/** Adds the command to the program. */
export function addInspectCommand(program: Command): void {
  program
    .command("inspect")
    .description("explain a model: architecture, parameters, rotary positions, cache")
    .argument("<folder>", "a Hugging Face folder: config.json, safetensors", parseText)
    .addOption(weightsOption("element type the matrices would be loaded as"))
    .option("--memory <bytes>", "tell how many tokens fit into this much, such as 2GiB", parseByteOption)
    .option("--json", "print one JSON object instead of the text")
    .action(async (folder: string, { weights, memory, json }: InspectSettings) => {
      const report = await inspectModel(folder, { weights });
      if (json) {
        const fit = memory !== undefined && { memory: { bytes: memory, tokens: tokensThatFit(report, memory) } };
        await print(`${JSON.stringify({ ...report, ...fit }, null, 2)}\n`);
      } else {
        await print(`${formatReport(report, memory).join("\n")}\n`);
      }
    });
}

/**
 * How many tokens of cache fit beside the loaded weights; the working memory of a step is not counted.
 *
 * @param memory - bytes for weights and cache together
 * @returns whole tokens; 0 when the weights alone need more
 */
export function tokensThatFit(report: ModelReport, memory: number): number {
  return Math.max(0, Math.floor((memory - report.loadedBytes) / report.cacheBytesPerToken));
}

/** The report as lines of text. */
export function formatReport(report: ModelReport, memory?: number): string[] {
  const { modelType, layers, parameters, storedBytes, stored, loadedBytes, loaded, maxPositions } = report;
  const names = (types: readonly StoredParameters[]): string => types.map(({ dtype }) => dtype).join(", ");
  const head = report.tiedEmbeddings ? "tied to the output head" : "separate output head";
  const stops = report.stopTokenIds.length > 0 ? `, stop at ${report.stopTokenIds.join(", ")}` : "";
  const perToken = report.cacheBytesPerToken;
  const lines = [
    `${modelType}: ${count(layers, "layer")}, ${group(parameters)} parameters`,
    row(
      "weights",
      `${formatBytes(storedBytes)} stored as ${names(stored)}, ${formatBytes(loadedBytes)} loaded as ${names(loaded)}`,
    ),
    ...formatFallback(report.fallbackMatrices),
    row("vocabulary", `${group(report.vocabSize)} tokens, ${head}${stops}`),
    row("width", `${group(report.hiddenSize)}`),
    row("context", `${group(maxPositions)} tokens`),
    row("cache", `${formatBytes(perToken)} per token as f32, ${formatBytes(perToken * maxPositions)} for the context`),
  ];
  if (memory !== undefined) lines.push(row("memory", describeFit(report, memory)));
  for (const layerGroup of report.layerGroups) lines.push("", ...formatGroup(layerGroup));
  return lines;
}

function formatFallback(matrices: number): string[] {
  if (matrices === 0) return [];
  const which = matrices === 1 ? "1 matrix stays as stored: its" : `${group(matrices)} matrices stay as stored: their`;
  return [row("fallback", `${which} rows are not whole blocks of 32`)];
}

function describeFit(report: ModelReport, memory: number): string {
  if (memory < report.loadedBytes) {
    return `${formatBytes(memory)} cannot hold the weights (${formatBytes(report.loadedBytes)})`;
  }
  const tokens = tokensThatFit(report, memory);
  const beyond = tokens > report.maxPositions ? ", more than the context" : "";
  return `${formatBytes(memory)} holds the weights and ${group(tokens)} tokens of cache${beyond}`;
}

function formatGroup(layers: LayerGroup): string[] {
  const { heads, kvHeads, headDim, intermediateSize, activation, mask, rotary, queryTemperature } = layers;
  const lines = [
    formatIndices(layers.layers),
    row("attention", `${count(heads, "head")}, ${count(kvHeads, "key-value head")}, ${headDim} wide, ${mask}`),
    row("feedforward", `${group(intermediateSize)} wide, ${activation}`),
    ...(rotary ? formatRotary(rotary, headDim) : [row("rotary", "none")]),
  ];
  if (queryTemperature) {
    const { beta, length } = queryTemperature;
    lines.push(row("queries", `scaled with their position, beta ${beta}, every ${group(length)} tokens`));
  }
  return lines;
}

function formatRotary(rotary: RotaryReport, headDim: number): string[] {
  const { schedule, pairing, rotaryDim, rotaryOffset, attentionFactor, pairs, standingPairs } = rotary;
  const { shortestWavelength, longestWavelength, pairsBeyondContext, length } = rotary;
  const { type, dim: _, ...parameters } = schedule;
  const details = Object.entries(parameters).map(([name, value]) => `${name} ${formatValue(value)}`);
  const slice = rotaryDim === headDim ? "all dims" : `dims ${rotaryOffset} to ${rotaryOffset + rotaryDim - 1}`;
  const factor = attentionFactor === 1 ? [] : [`attention factor ${round(attentionFactor)}`];
  const lines = [row("rotary", [type, ...details, `${slice} in ${pairing} pairs`, ...factor].join(", "))];
  if (shortestWavelength !== null && longestWavelength !== null) {
    const range = `${round(shortestWavelength)} to ${round(longestWavelength)} tokens`;
    const beyond = `${pairsBeyondContext} of ${pairs} pairs longer than ${group(length)}`;
    lines.push(row("wavelengths", `${range}, ${beyond}`));
  }
  if (standingPairs > 0) lines.push(row("", `${standingPairs} of ${pairs} pairs do not turn`));
  return lines;
}

function formatValue(value: unknown): string {
  if (Array.isArray(value)) return `[${value.length} values]`;
  return typeof value === "number" ? round(value) : String(value);
}

/** "layers 0-3, 5": runs of indices that follow one another are joined. */
function formatIndices(indices: readonly number[]): string {
  const runs: string[] = [];
  for (let start = 0; start < indices.length; ) {
    let end = start;
    while (indices[end + 1] === indices[end] + 1) end++;
    runs.push(end === start ? `${indices[start]}` : `${indices[start]}-${indices[end]}`);
    start = end + 1;
  }
  return `${indices.length === 1 ? "layer" : "layers"} ${runs.join(", ")}`;
}

function row(name: string, text: string): string {
  return `  ${name.padEnd(13)}${text}`;
}

function count(number: number, noun: string): string {
  return `${group(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** 1234567 as "1,234,567". */
function group(number: number): string {
  return number.toLocaleString("en-US");
}

/** Four significant digits below 1000, whole numbers above. */
function round(value: number): string {
  return value >= 1000 ? group(Math.round(value)) : String(Number(value.toPrecision(4)));
}
