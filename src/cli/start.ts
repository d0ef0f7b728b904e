/**
 * phasor start: what `npm start` runs.
 */

import type { Command } from "commander";
import { generateText } from "./generate.ts";
import { print } from "./output.ts";

/** Adds the command to the program. */
export function addStartCommand(program: Command): void {
  program
    .command("start")
    .description("show what Phasor does: a short text from a model")
    .option("-m, --model <folder>", "a Hugging Face folder")
    .action(async ({ model }: { model?: string }) => {
      if (model !== undefined) return generateText({ model, prompt: "Once upon a time", maxNewTokens: 200 });
      await print(
        "Phasor needs a model: npm start -- --model test/fixtures/stories260K runs the tiny real one of the tests.\n" +
          "Any Hugging Face folder of the Llama family does as well; npx phasor --help lists the commands.\n",
      );
    });
}
