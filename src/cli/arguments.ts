/**
 * What commander takes that nobody means: a short option with a word stuck to it (-policy), another option as a value
 * (--save-cache --json), an option given twice. Misspelt options are refused here as well, before what is missing is
 * asked for.
 */

import type { Command, Option } from "commander";
import { isRepeatable } from "./options.ts";

/**
 * Refuses arguments that a command does not know or would misunderstand.
 *
 * @param args - behind the program's name
 * @throws CommanderError for a usage error, which is told already
 */
export function checkArguments(program: Command, args: readonly string[]): void {
  const command = program.commands.find((one) => one.name() === args[0]);
  if (command === undefined) {
    checkProgram(program, args);
    return;
  }
  const given = new Set<Option>();
  let operands = 0;
  for (let n = 1; n < args.length; n++) {
    const arg = args[n];
    if (arg === "--") return;
    if (arg === "-h" || arg === "--help") return;
    if (!/^-./.test(arg)) {
      operands++;
      if (operands > command.registeredArguments.length) refuseOperand(command, arg);
      continue;
    }
    const { option, value } = read(command, arg);
    if (option === undefined) refuseUnknown(command, arg);
    refuseAgain(command, option, given);
    given.add(option);
    if (!option.required) {
      if (value !== undefined) command.error(`error: option '${option.flags}' takes no value; got '${value}'`);
    } else if (value === undefined) {
      n++;
      const next = args[n];
      if (next !== undefined && read(command, next).option !== undefined) {
        const meant = `(Write ${option.long}=${next} if it is meant as the value.)`;
        command.error(`error: option '${option.flags}' needs a value; '${next}' is another option\n${meant}`);
      }
    }
  }
}

/** Refuses what commander answers with the whole help, or without saying what to do; it refuses the rest itself. */
function checkProgram(program: Command, [first = "", second]: readonly string[]): void {
  const names = program.commands.map((one) => one.name());
  if (first === "help" && second !== undefined && !names.includes(second) && second !== "help") {
    program.error(`error: unknown command '${second}'${didYouMean(nearest(second, names))}`);
  }
  if (!first.startsWith("--") || read(program, first).option || first === "--help") return;
  const own = ["help", ...program.options.map(({ long }) => long?.slice(2) ?? "")];
  const near = nearest(first.slice(2), own).map((word) => `--${word}`);
  const hint = near.length > 0 ? didYouMean(near) : "\n(Options of a command stand behind it.)";
  program.error(`error: unknown option '${first}'${hint}`);
}

/** The option of an argument, and the value that is part of it. */
function read(command: Command, arg: string): { option: Option | undefined; value?: string } {
  const whole = command.options.find(({ long, short }) => arg === long || arg === short);
  if (whole) return { option: whole };
  const parts = /^(--[^=]+)=(.*)$/s.exec(arg) ?? /^(-[a-z])([^a-z].*)$/is.exec(arg);
  if (parts === null) return { option: undefined };
  const [, flag, value] = parts;
  return { option: command.options.find(({ long, short }) => flag === long || flag === short), value };
}

function refuseOperand(command: Command, arg: string): never {
  const most = command.registeredArguments.length;
  const takes = most === 0 ? "no arguments" : `${most} argument`;
  return command.error(
    `error: '${command.name()}' takes ${takes} beside its options; got '${arg}'\n(Put quotes around a text of several words.)`,
  );
}

function refuseUnknown(command: Command, arg: string): never {
  const [name] = arg.split("=");
  const near = nearest(
    name.replace(/^-+/, ""),
    ["help", ...command.options.map(({ long }) => long?.slice(2) ?? "")].filter(Boolean),
  ).map((word) => `--${word}`);
  return command.error(`error: unknown option '${name}'${didYouMean(near)}`);
}

function didYouMean(names: readonly string[]): string {
  if (names.length === 0) return "";
  return names.length > 1 ? `\n(Did you mean one of ${names.join(", ")}?)` : `\n(Did you mean ${names[0]}?)`;
}

function refuseAgain(command: Command, option: Option, given: ReadonlySet<Option>): void {
  if (given.has(option)) {
    if (!option.required || isRepeatable(option)) return;
    command.error(`error: option '${option.flags}' is given twice`);
  }
  for (const other of given) {
    if (other === option || other.attributeName() !== option.attributeName()) continue;
    command.error(`error: option '${option.flags}' cannot be used with option '${other.flags}'`);
  }
}

/** The words that begin with what was written, or else those fewest edits away, if these are fewer than half its letters. */
export function nearest(word: string, words: readonly string[]): string[] {
  const longer = words.filter((one) => one.startsWith(word) && word.length > 1);
  if (longer.length > 0) return longer;
  const distances = words.map((one) => edits(word, one) / Math.max(word.length, one.length));
  const least = Math.min(...distances);
  return least < 0.5 ? words.filter((_, n) => distances[n] === least) : [];
}

/** Letters to insert, drop, replace or swap with their neighbour (optimal string alignment). */
function edits(a: string, b: string): number {
  const rows = Array.from({ length: a.length + 1 }, (_, i) => [i]);
  for (let j = 0; j <= b.length; j++) rows[0][j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + same);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  }
  return rows[a.length][b.length];
}
