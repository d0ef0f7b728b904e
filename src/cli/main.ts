#!/usr/bin/env node
/**
 * The program: commands, usage errors (exit code 2) and refusals (exit code 1).
 */

import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { checkArguments } from "./arguments.ts";
import { addEvalCommand } from "./eval.ts";
import { addGenerateCommand } from "./generate.ts";
import { addInspectCommand } from "./inspect.ts";
import { INTERRUPTED } from "./interrupt.ts";
import { endWithOutput, note, reportError } from "./output.ts";
import { addStartCommand } from "./start.ts";
import { addTrainCommand } from "./train.ts";

const USAGE_ERROR = 2;

async function main(): Promise<void> {
  endWithOutput();
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  const program = new Command("phasor")
    .description("Rotary attention for TypeScript: run and examine decoder models.")
    .version(manifest.version)
    .addHelpText(
      "after",
      `
Every command has --help. "phasor start" is what "npm start" runs; it needs no options.
Results go to stdout, everything else to stderr. PHASOR_DEBUG=1 adds the stack to an error. Exit codes: 0 done, 1 refused
or failed, 2 a mistake in the options, 130 interrupted.`,
    )
    .exitOverride();
  addGenerateCommand(program);
  addEvalCommand(program);
  addInspectCommand(program);
  addStartCommand(program);
  addTrainCommand(program);

  try {
    checkArguments(program, process.argv.slice(2));
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : USAGE_ERROR; // commander has printed it
    } else if (process.exitCode === INTERRUPTED) {
      note("phasor: interrupted");
    } else {
      process.exitCode = 1;
      reportError(error, process.argv[2]);
    }
  }
}

await main();
