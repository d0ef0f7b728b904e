/**
 * What the commands write: results to stdout, everything else to stderr.
 */

import { once } from "node:events";
import ora from "ora";
import { PhasorError } from "../errors.ts";
import { messageInOptions } from "./option-words.ts";

/** Writes to stdout and waits while the reader is slower. */
export async function print(text: string): Promise<void> {
  if (text !== "" && !process.stdout.write(text)) await once(process.stdout, "drain");
}

/** Writes a line to stderr. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** A reader that goes away (`phasor ... | head`) ends the program without a word; a full disk ends it with one. */
export function endWithOutput(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    reportError(error);
    process.exit(1);
  });
  process.stderr.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? 0 : 1); // there is nowhere to tell it
  });
}

/** A line that tells how far something has come. */
export type Progress = {
  /** Whether somebody sees it. */
  readonly isShown: boolean;
  update(text: string): void;
  /** Takes the line away. */
  end(): void;
};

/** Shows progress on stderr where a person reads it; elsewhere nothing. */
export function startProgress(text: string): Progress {
  // A terminal that does not know its width says 0, and ora 9 then never ends to clear its lines.
  if (!process.stderr.isTTY || !process.stderr.columns) return { isShown: false, update: () => {}, end: () => {} };
  const spinner = ora({
    text,
    stream: process.stderr,
    discardStdin: false,
    ...(process.env.NO_COLOR && { color: false }),
  }).start();
  return {
    isShown: true,
    update: (next) => {
      spinner.text = next;
    },
    end: () => void spinner.stop(),
  };
}

/**
 * Tells an error in one line; with PHASOR_DEBUG in the environment, its stack as well.
 *
 * @param command - whose options the message shall name
 */
export function reportError(error: unknown, command = ""): void {
  const message = messageInOptions(error, command);
  const hint = error instanceof PhasorError ? "" : " (set PHASOR_DEBUG=1 to see where)";
  if (process.env.PHASOR_DEBUG && error instanceof Error) note(error.stack ?? message);
  else note(`phasor: ${message.replaceAll("\n", " ")}${hint}`);
}
