/**
 * A run as a file: weights, moments and how far it has come, as safetensors with the rest in the header's metadata.
 */

import type { TrainingBackend } from "../engine/index.ts";
import { ConfigError, FormatError } from "../errors.ts";
import { createMemorySource, openSafetensors, writeSafetensors } from "../model/index.ts";
import type { Tensor } from "../tensor.ts";
import type { Parameters } from "./parameters.ts";

/** Where the last checkpoint of a run lives. */
export interface CheckpointStore {
  /** What messages call it, such as its path; "checkpoint" when absent. */
  readonly name?: string;
  /** The present checkpoint; undefined when there is none. */
  read(): Promise<Uint8Array | undefined>;
  /** Replaces the checkpoint: whoever reads, even after a crash, finds the old one or the new one, whole. */
  write(bytes: Uint8Array): Promise<void>;
}

/** All that decides what a run computes; a run resumes only with an equal one. */
export type Recipe = Readonly<Record<string, unknown>>;

/** Progress of a run. */
export type RunState = {
  /** Steps done. The next one takes the batches from `step` times the accumulated ones on. */
  readonly step: number;
  /** Tokens predicted so far. */
  readonly tokens: number;
  /** Seconds spent in steps so far. */
  readonly seconds: number;
};

const KEY = "phasor_training";
const NAME = "checkpoint";

/** The parts of a checkpoint and what they are called in it. */
function partsOf(parameters: Parameters): readonly (readonly [string, Tensor<"f32">])[] {
  return [
    ["weight", parameters.weights],
    ["mean", parameters.means],
    ["square", parameters.squares],
  ];
}

/** The file of a run as it stands; everything issued must have taken effect. */
export function encodeCheckpoint(parameters: Parameters, recipe: Recipe, state: RunState): Uint8Array {
  const tensors: [string, Tensor][] = [];
  for (const [part, whole] of partsOf(parameters)) {
    for (const [name, values] of parameters.entriesOf(whole)) tensors.push([`${part}.${name}`, values]);
  }
  return writeSafetensors(tensors, { [KEY]: JSON.stringify({ state, recipe }) });
}

/**
 * Puts a run back to where a file says it was.
 *
 * @param name - of the file, for messages
 * @returns the progress
 * @throws ConfigError naming what differs when the file is of a run with another recipe
 * @throws FormatError when it is damaged or not a checkpoint; nothing has been changed then
 */
export async function restoreCheckpoint(
  bytes: Uint8Array,
  parameters: Parameters,
  recipe: Recipe,
  name: string = NAME,
): Promise<RunState> {
  const file = await openSafetensors(createMemorySource(name, bytes));
  const state = readState(name, file.metadata.get(KEY), recipe);
  const read: [Float32Array, Float32Array][] = [];
  for (const [part, whole] of partsOf(parameters)) {
    for (const [tensor, { shape, data }] of parameters.entriesOf(whole)) {
      const stored = await file.read(`${part}.${tensor}`);
      if (stored.dtype !== "f32" || stored.shape.join() !== shape.join()) {
        const got = { dtype: stored.dtype, shape: stored.shape };
        throw new FormatError(name, `${part}.${tensor} must be f32 [${shape.join(", ")}]`, got);
      }
      read.push([data, stored.data]);
    }
  }
  for (const [into, from] of read) into.set(from);
  return state;
}

function readState(name: string, text: string | undefined, recipe: Recipe): RunState {
  const hint = "It is not a checkpoint of phasor train.";
  if (text === undefined) throw new FormatError(name, `metadata ${KEY}`, {}, hint);
  let stored: { state?: Partial<RunState>; recipe?: Recipe };
  try {
    stored = JSON.parse(text);
  } catch {
    throw new FormatError(name, `metadata ${KEY} in JSON`, {}, hint);
  }
  const { step, tokens, seconds } = stored?.state ?? {};
  if (!(Number.isSafeInteger(step) && Number(tokens) >= 0 && Number(seconds) >= 0) || !stored.recipe) {
    throw new FormatError(name, `metadata ${KEY} with step, tokens, seconds and recipe`, {
      state: stored?.state,
    });
  }
  compareRecipes(name, stored.recipe, recipe);
  return { step: Number(step), tokens: Number(tokens), seconds: Number(seconds) };
}

function compareRecipes(name: string, stored: Recipe, present: Recipe): void {
  for (const key of new Set([...Object.keys(stored), ...Object.keys(present)])) {
    const [before, now] = [JSON.stringify(stored[key]), JSON.stringify(present[key])];
    if (before === now) continue;
    const got = { [key]: present[key], checkpoint: stored[key] };
    throw new ConfigError(name, `${key} as the run began with`, got, "Repeat the same options, or begin a new run.");
  }
}

/** Writes the checkpoint of a run. */
export async function saveCheckpoint(
  store: CheckpointStore,
  backend: TrainingBackend,
  parameters: Parameters,
  recipe: Recipe,
  state: RunState,
): Promise<void> {
  await backend.flush();
  await store.write(encodeCheckpoint(parameters, recipe, state));
}
