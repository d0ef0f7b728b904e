import { Command, CommanderError, Option } from "commander";
import { describe, expect, test } from "vitest";
import { checkArguments, nearest } from "./arguments.ts";
import { collect, wholeNumber } from "./options.ts";

/** What is told about arguments; "" when they are taken. */
function told(...args: string[]): string {
  let text = "";
  const program = new Command("program")
    .version("1.2.3")
    .exitOverride()
    .configureOutput({
      writeErr: (more) => {
        text += more;
      },
    });
  program
    .command("run")
    .argument("[folder]")
    .requiredOption("--steps <n>", "", wholeNumber(1))
    .option("-p, --prompt <text>")
    .option("-n, --max-new-tokens <n>", "", wholeNumber(0))
    .option("--top-k <k>")
    .option("--top-p <p>")
    .addOption(new Option("--ask <question>").argParser(collect))
    .option("--json")
    .option("--rerotate")
    .option("--no-rerotate");
  try {
    checkArguments(program, args);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
  }
  return text;
}

describe("checkArguments", () => {
  test.each([
    [
      "an option that is missing a letter",
      ["--step", "3"],
      "error: unknown option '--step'\n(Did you mean --steps?)\n",
    ],
    ["swapped letters", ["--porpmt=a"], "error: unknown option '--porpmt'\n(Did you mean --prompt?)\n"],
    ["a part of several names", ["--top"], "error: unknown option '--top'\n(Did you mean one of --top-k, --top-p?)\n"],
    [
      "a missing word",
      ["--max-tokens", "3"],
      "error: unknown option '--max-tokens'\n(Did you mean --max-new-tokens?)\n",
    ],
    ["nothing like it", ["--zzz"], "error: unknown option '--zzz'\n"],
    ["one dash", ["-prompt", "a"], "error: unknown option '-prompt'\n(Did you mean --prompt?)\n"],
    ["a misspelt one with one dash", ["-prmpt"], "error: unknown option '-prmpt'\n(Did you mean --prompt?)\n"],
    ["a short one that is not there", ["-x"], "error: unknown option '-x'\n"],
    [
      "an option as a value",
      ["--ask", "--json"],
      "error: option '--ask <question>' needs a value; '--json' is another option\n(Write --ask=--json if it is meant as the value.)\n",
    ],
    [
      "a short option as a value",
      ["--prompt", "-n5"],
      "error: option '-p, --prompt <text>' needs a value; '-n5' is another option\n(Write --prompt=-n5 if it is meant as the value.)\n",
    ],
    ["a value for a switch", ["--json=yes"], "error: option '--json' takes no value; got 'yes'\n"],
    ["two values", ["-n", "1", "--max-new-tokens=2"], "error: option '-n, --max-new-tokens <n>' is given twice\n"],
    [
      "a switch both ways",
      ["--no-rerotate", "--rerotate"],
      "error: option '--rerotate' cannot be used with option '--no-rerotate'\n",
    ],
    [
      "too many arguments",
      ["here", "there"],
      "error: 'run' takes 1 argument beside its options; got 'there'\n(Put quotes around a text of several words.)\n",
    ],
  ])("refuses %s", (_name, args, message) => {
    expect(told("run", ...args)).toBe(message);
  });

  test.each([
    ["help for no command", ["help", "rnu"], "error: unknown command 'rnu'\n(Did you mean run?)\n"],
    ["a misspelt option of the program", ["--verson"], "error: unknown option '--verson'\n(Did you mean --version?)\n"],
    [
      "an option before its command",
      ["--top-k", "3", "run"],
      "error: unknown option '--top-k'\n(Options of a command stand behind it.)\n",
    ],
  ])("refuses %s", (_name, args, message) => {
    expect(told(...args)).toBe(message);
  });

  test.each([[], ["help"], ["help", "run"], ["--version"], ["-V"], ["--help"], ["walk"]])(
    "leaves %s %s to commander",
    (...args) => {
      expect(told(...args)).toBe("");
    },
  );

  test.each([
    [["--steps", "3", "folder", "-n5", "--prompt", "-", "--ask", "a", "--ask", "b", "--json", "--json"]],
    [["--steps", "-1"]], // its value is for its parser to refuse
    [["--prompt", "--- a rule ---", "--ask=--json"]],
    [["--help", "--nonsense"]],
    [["--", "--nonsense"]],
    [["--steps"]], // commander asks for the value
  ])("takes %j", (args) => {
    expect(told("run", ...args)).toBe("");
  });
});

test("nearest gives longer words first, then those of fewest edits, else none", () => {
  expect(nearest("temp", ["help", "temperature"])).toEqual(["temperature"]);
  expect(nearest("hlep", ["help", "temperature"])).toEqual(["help"]);
  expect(nearest("seeds", ["seed", "speed"])).toEqual(["seed"]);
  expect(nearest("budgt", ["batch", "budget"])).toEqual(["budget"]);
  expect(nearest("q", ["query", "key"])).toEqual([]);
});
