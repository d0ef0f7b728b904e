/**
 * What the library refuses, in the words of the command line: its options instead of the functions' own.
 */

import { PhasorError } from "../errors.ts";

/** Functions that a command calls with its options; others name a file, or the command itself. */
const CALLED = /^(createCache|forward|compress|generate|prefill|planFrequencyChange|rerotated): /;

/** Read from the first to the last: sentences, then names. */
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/, [\w.]+=undefined/g, ""],
  [/; got [\w.]+=undefined(, )?/g, "; got "],
  [/; got \./g, "."],
  [/Bound what is generated with decoding: \{ budget \}, or all of it with/g, "Bound all of it with"],
  [/or pass rerotate: false/g, "or give --no-rerotate"],
  [/rerotate must not be false for/g, "no --no-rerotate for"],
  [/onFrequencyChange "pin" or "rerotate"/g, "--on-frequency-change pin or rerotate"],
  [
    /Choose "pin" (\(.*?\)), "rerotate" (\(.*?\)) or "reprefill"/g,
    "Give --on-frequency-change pin $1, rerotate $2 or reprefill",
  ],
  [/Leave layout out, or choose "paged"/g, "Leave --cache-layout out, or choose paged"],
  [/Raise repeat\.requestTokens to what a request takes, or maxBytes/g, "Give --budget in place of --max-cache-bytes"],
  [
    /Shorten the prompt, or raise maxPositions/g,
    "Shorten the prompt, give --budget with --rerotate to read on, or raise --context",
  ],
  [/int8 or int4 elements/g, "--cache-dtype int8 or int4"],
  [/\b(raise|lower|give) (?:the |a )?budget\b/gi, "$1 --budget"],
  [/ maxPositions=/g, " positions="],
  [/ maxBytes=/g, " max-cache-bytes="],
  [/ prefillChunk=/g, " prefill-chunk="],
  [/ compressionRatio=/g, " compression-ratio="],
  [/ onFrequencyChange=/g, " on-frequency-change="],
  [/ layout=/g, " cache-layout="],
  [/\bmaxBytes\b/g, "--max-cache-bytes"],
  [/\bprefillChunk\b/g, "--prefill-chunk"],
  [/\bcompressionRatio\b/g, "--compression-ratio"],
];

/** What only one of the commands says, or says otherwise. */
const WORDS_OF: Readonly<Record<string, readonly (readonly [RegExp, string])[]>> = {
  generate: [[/Feed the text with model\.prefill\(.*?\)/g, "Give --ask once"]],
  eval: [
    [/Feed the text with model\.prefill\(.*?\)/g, "Give --question known"],
    [/ or maxBytes\b/g, ""],
    [/\b(raise|lower) (?:the )?budget\b/gi, "$1 --budgets"],
    [/or pass rerotate: false/g, "or give --rerotate off"],
  ],
};

/**
 * The message of an error as a user of the command meets it.
 *
 * @param command - the name of the command
 */
export function messageInOptions(error: unknown, command: string): string {
  if (!(error instanceof PhasorError)) return error instanceof Error ? error.message : String(error);
  return inOptions(error.message, command);
}

/** The same for a message that was kept. */
export function inOptions(message: string, command: string): string {
  const called = CALLED.exec(message);
  if (called === null) return message;
  const own = [...(WORDS_OF[command] ?? []), ...WORDS];
  let text = `${command}: ${message.slice(called[0].length)}`;
  for (const [api, option] of own) text = text.replaceAll(api, option);
  // Policies as they are written: keyDiff() is keydiff.
  text = text.replaceAll(/\b([a-z]\w*)\(\)/gi, (_, name: string) => name.toLowerCase());
  const off = command === "eval" ? "Give --rerotate off." : "Leave --rerotate out.";
  return called[1] === "rerotated" ? `${text} ${off}` : text;
}
