/**
 * Options that say how a model is loaded and where it runs, the same for every command that runs one.
 */

import { type Command, Option } from "commander";
import { DECODER_BACKENDS } from "../engine/index.ts";
import { WEIGHT_CHOICES } from "../model/index.ts";
import { wholeNumber } from "./options.ts";

/** Most worker threads of the wasm backend. */
const MAX_THREADS = 256;

/** Adds `--weights`, `--backend` and `--threads`. */
export function addBackendOptions(command: Command): Command {
  command.optionsGroup("Where it runs:").addOption(weightsOption("element type the matrices are loaded as"));
  return addThreadOptions(command);
}

/** Adds `--backend` and `--threads`. */
export function addThreadOptions(command: Command): Command {
  return command
    .optionsGroup("Where it runs:")
    .addOption(new Option("--backend <name>", "where the model runs").choices(DECODER_BACKENDS).default("wasm"))
    .addOption(threadsOption());
}

/** `--threads` alone. */
export function threadsOption(): Option {
  return new Option("--threads <n>", "worker threads of the wasm backend; 0 for none (default: one a core)").argParser(
    wholeNumber(0, MAX_THREADS),
  );
}

/** `--weights`. */
export function weightsOption(description: string): Option {
  return new Option("--weights <type>", description).choices(WEIGHT_CHOICES).default("stored");
}
