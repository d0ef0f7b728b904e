/**
 * The program as people run it: `node dist/cli/main.js` on the tiny real model of test/fixtures.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, open, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const PROGRAM = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const MODEL = fileURLToPath(new URL("./fixtures/stories260K", import.meta.url));

/** What llama2.c prints for the model at temperature 0; see the NOTICE in its folder. */
type Story = { prompt: string; steps: number; text: string; token_ids: number[]; prompt_token_count: number };

/** A story of 464 tokens, sampled. */
const LONG_STORY = ["generate", "-m", MODEL, "-t", "2", "--top-k", "5", "--seed", "1"];

type Result = { code: number | null; stdout: string; stderr: string };

function start(args: string[], env: Record<string, string> = {}): ChildProcess {
  const { PHASOR_DEBUG: _, ...inherited } = process.env;
  return spawn(process.execPath, [PROGRAM, ...args], { env: { ...inherited, ...env } });
}

async function finished(child: ChildProcess): Promise<Result> {
  let stdout = "";
  let stderr = "";
  child.stdout?.setEncoding("utf8").on("data", (text) => {
    stdout += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { code, stdout, stderr };
}

function phasor(args: string[], input = "", env: Record<string, string> = {}): Promise<Result> {
  const child = start(args, env);
  child.stdin?.on("error", () => {}); // the program may end before it has read everything
  child.stdin?.end(input);
  return finished(child);
}

let stories: Story[];
let folder: string;

beforeAll(async () => {
  stories = JSON.parse(await readFile(join(MODEL, "expected.json"), "utf8"));
  folder = await mkdtemp(join(tmpdir(), "phasor-cli-"));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** A copy of the model, to be damaged. */
async function copyModel(name: string): Promise<string> {
  const copy = join(folder, name);
  await cp(MODEL, copy, { recursive: true });
  return copy;
}

describe("phasor generate", () => {
  test.each([0, 1, 2])("story %d is told exactly as llama2.c tells it", async (index) => {
    const { prompt, steps, text, prompt_token_count: count } = stories[index];
    const limit = String(steps + 1 - count);
    const args = ["generate", "--model", MODEL, "--prompt", prompt, "--max-new-tokens", limit, "--temperature", "0"];
    const { code, stdout, stderr } = await phasor(args);
    expect(stdout).toBe(`${text}\n`);
    expect(stderr).toMatch(
      /^\d+ prompt \+ \d+ new tokens in [\d.]+ s, [\d.]+ tokens\/s, cache [\d.]+ KiB, ended by .+\n$/,
    );
    expect(code).toBe(0);
  });

  test("--json prints one object with text, tokens and figures", async () => {
    const { prompt, text, token_ids: tokenIds, prompt_token_count: promptTokens } = stories[1];
    const { code, stdout, stderr } = await phasor(["generate", "-m", MODEL, "-p", prompt, "--json"]);
    const result = JSON.parse(stdout);
    const newTokens = tokenIds.length - promptTokens;
    expect(result).toMatchObject({ text, tokenIds, promptTokens, newTokens, stopReason: "stop-token" });
    // keys and values of 5 layers with 4 heads of 8 as f32
    expect(result.cacheBytes).toBe(tokenIds.length * 2 * 5 * 4 * 8 * 4);
    expect(result.seconds).toBeGreaterThan(0);
    expect(result.tokensPerSecond).toBeGreaterThan(0);
    expect([code, stderr]).toEqual([0, ""]);
  });

  test("a prompt from stdin or a file loses its last newline only", async () => {
    const file = join(folder, "prompt.txt");
    await writeFile(file, "Once\n\n");
    const args = ["generate", "-m", MODEL, "-n", "1", "--json"];
    const fromStdin = await phasor([...args, "-p", "-"], "Once\n\n");
    const fromFile = await phasor([...args, "-f", file]);
    const plain = await phasor([...args, "-p", "Once\n"]);
    const { tokenIds } = JSON.parse(plain.stdout);
    expect(JSON.parse(fromStdin.stdout).tokenIds).toEqual(tokenIds);
    expect(JSON.parse(fromFile.stdout).tokenIds).toEqual(tokenIds);
  });

  test("a stop string ends the text before it, chunks of the prompt change nothing", async () => {
    const args = ["generate", "-m", MODEL, "-p", stories[1].prompt, "--prefill-chunk", "3", "--stop", "xyz"];
    const { stdout } = await phasor([...args, "--stop", " big box with"]);
    expect(stdout).toBe("Tim and his dog went to the park. They saw a\n");
  });

  test("a seed repeats a sampled text and is told", async () => {
    const args = [
      "generate",
      "-m",
      MODEL,
      "-n",
      "20",
      "-t",
      "1.3",
      "--top-k",
      "40",
      "--top-p",
      "0.95",
      "--min-p",
      "0.01",
    ];
    const first = await phasor([...args, "--repetition-penalty", "1.1", "--json"]);
    const { text, seed } = JSON.parse(first.stdout);
    const again = await phasor([...args, "--repetition-penalty", "1.1", "--seed", String(seed)]);
    expect(again.stdout).toBe(`${text}\n`);
    expect(again.stderr).toContain(`seed ${seed}`);
  });

  test("a text that outgrows its rotary frequencies needs a choice", async () => {
    const copy = await copyModel("dynamic");
    const config = JSON.parse(await readFile(join(MODEL, "config.json"), "utf8"));
    const rope = { rope_scaling: { type: "dynamic", factor: 2 }, max_position_embeddings: 7 };
    await writeFile(join(copy, "config.json"), JSON.stringify({ ...config, ...rope }));
    const args = ["generate", "-m", copy, "-n", "11", "--context", "13"];
    const without = await phasor(args);
    expect(without.stderr).toMatch(/^phasor: .* a choice is required/);
    expect(without.code).toBe(1);
    const pinned = await phasor([...args, "--on-frequency-change", "pin"]);
    expect(pinned.stdout).toBe("Once upon a time, there was a little gir\n"); // as the plain frequencies tell it
    expect(pinned.code).toBe(0);
  });

  test("Ctrl-C ends the text cleanly, with statistics", async () => {
    const child = start(LONG_STORY);
    child.stdout?.once("data", () => child.kill("SIGINT"));
    const { code, stdout, stderr } = await finished(child);
    expect(stdout.endsWith("\n")).toBe(true);
    expect(stderr).toContain("ended by aborted");
    expect(code).toBe(130);
  });

  test.skipIf(!existsSync("/dev/full"))("a full disk is told in one line", async () => {
    const disk = await open("/dev/full", "w");
    const child = spawn(process.execPath, [PROGRAM, "generate", "-m", MODEL, "-n", "2"], {
      stdio: ["ignore", disk.fd, "pipe"],
    });
    const { code, stderr } = await finished(child);
    await disk.close();
    expect(stderr).toMatch(/^phasor: ENOSPC.*\n$/);
    expect(code).toBe(1);
  });

  test("a reader that goes away ends the program quietly", async () => {
    const child = start(LONG_STORY);
    child.stdout?.once("data", () => child.stdout?.destroy());
    const { code, stderr } = await finished(child);
    expect([code, stderr]).toEqual([0, ""]);
  });
});

describe("phasor inspect", () => {
  test("explains the model", async () => {
    const { code, stdout, stderr } = await phasor(["inspect", MODEL, "--memory", "2GiB"]);
    expect(stdout.split("\n")).toEqual([
      "llama: 5 layers, 260,032 parameters",
      "  weights      1016 KiB stored as F32, 1016 KiB loaded as f32",
      "  vocabulary   512 tokens, tied to the output head, stop at 1, 2",
      "  width        64",
      "  context      512 tokens",
      "  cache        1.25 KiB per token as f32, 640 KiB for the context",
      "  memory       2.00 GiB holds the weights and 1,676,909 tokens of cache, more than the context",
      "",
      "layers 0-4",
      "  attention    8 heads, 4 key-value heads, 8 wide, causal()",
      "  feedforward  172 wide, silu",
      "  rotary       default, theta 10,000, all dims in half pairs",
      "  wavelengths  6.283 to 6,283 tokens, 2 of 4 pairs longer than 512",
      "",
    ]);
    expect([code, stderr]).toEqual([0, ""]);
  });

  test("--json prints the same as one object", async () => {
    const { stdout } = await phasor(["inspect", MODEL, "--json", "--memory", "1MB"]);
    expect(JSON.parse(stdout)).toMatchObject({
      modelType: "llama",
      parameters: 260032,
      cacheBytesPerToken: 1280,
      layerGroups: [{ layers: [0, 1, 2, 3, 4], rotary: { schedule: { type: "default", theta: 10000 } } }],
      memory: { bytes: 1000000, tokens: 0 },
    });
  });
});

describe("phasor start", () => {
  const args = ["start", "--model", MODEL, "--file", "CONTRIBUTING.md", "--budget", "64"];

  /** The same with a part of the text. */
  async function shorter(): Promise<string[]> {
    const file = join(folder, "part.txt");
    await writeFile(file, (await readFile("CONTRIBUTING.md", "utf8")).slice(0, 2500));
    return args.with(args.indexOf("--file") + 1, file);
  }

  test("reads a text in five ways, and shows their answers and bytes side by side", async () => {
    const { code, stdout, stderr } = await phasor([
      ...(await shorter()),
      "--ask",
      "What is a rotation?",
      "--ask",
      "Who was Lily?",
    ]);
    expect([code, stderr]).toEqual([0, ""]);
    for (const way of [
      "everything kept",
      "SnapKV, re-rotated",
      "SnapKV, not re-rotated",
      "KeyDiff",
      "oldest dropped",
    ]) {
      expect(stdout.split(way).length).toBeGreaterThan(3); // in the table, and below each question
    }
    expect(stdout).toMatch(/^A text of \d+ tokens, a cache of 64: \d+\.\d times too small\.\n/);
    expect(stdout).toMatch(/\nWhat "SnapKV, re-rotated" forgot for the first question: \d+ % of the text, as\n {4}… /);
    expect(Math.max(...stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
  });

  test("as JSON holds every answer and the report of what was forgotten", async () => {
    const { code, stdout } = await phasor([...(await shorter()), "--ask", "Who?", "--json"]);
    const { budget, trials, forgotten } = JSON.parse(stdout);
    expect([code, budget, trials.length, forgotten.budget]).toEqual([0, 64, 5, 64]);
    expect(trials[1].result.peakBytes).toBeLessThan(trials[0].result.peakBytes / 4);
  });

  test("says so when nothing was forgotten", async () => {
    const file = join(folder, "short.txt");
    await writeFile(file, "Once upon a time there was a dog.");
    const { code, stdout } = await phasor(["start", "-m", MODEL, "-f", file, "--ask", "Who?", "--budget", "200"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^A text of \d+ tokens, a cache of 200: which holds all of it\.\n/);
    expect(stdout).toMatch(
      /\nWhat "SnapKV, re-rotated" forgot for the first question: nothing\.\nSome head holds every token\.\n$/,
    );
  });

  test("needs questions about another text", async () => {
    const { code, stdout, stderr } = await phasor(args);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(
      'phasor: start: questions about the text; got file="CONTRIBUTING.md". Give --ask once or more.\n',
    );
  });
});

describe("a cache that forgets", () => {
  const PROMPT = "Once upon a time there was a little dog. ".repeat(12);
  const cached = ["--policy", "snapkv(window=8)", "--budget", "48", "--rerotate"];

  test("keeps its budget, says so, and goes on from a file as if it had not stopped", async () => {
    const folder = await mkdtemp(join(tmpdir(), "phasor-cache-"));
    try {
      const file = join(folder, "dog.kv");
      const all = ["generate", "--model", MODEL, ...cached, "--temperature", "0"];
      const ask = ["--ask", "Who?", "--ask", "Where?", "-n", "12"];
      const first = await phasor([...all, "-p", PROMPT, ...ask, "--save-cache", file]);
      expect(first.stderr).toMatch(/tokens read, 48 kept per head/);
      expect(first.stdout).toMatch(/^Question: Who\?\nAnswer:.*\nQuestion: Where\?\nAnswer:/);
      const second = await phasor([...all, ...ask, "--load-cache", file]);
      expect([second.code, second.stdout]).toEqual([0, first.stdout]);
      const other = await phasor([...all, ...ask, "--cache-dtype", "int8", "--load-cache", file]);
      expect([other.code, other.stdout]).toEqual([1, ""]);
      expect(other.stderr).toBe(
        `phasor: ${file}: a cache of the same model and element type; got cache-dtype="int8". ` +
          "Give --model and --cache-dtype as the cache was saved with.\n",
      );
      const bytes = ["--max-cache-bytes", "24KiB", "--load-cache", file];
      const cramped = await phasor(["generate", "--model", MODEL, ...ask, ...bytes]);
      expect([cramped.code, cramped.stdout, cramped.stderr]).toEqual([
        ...[1, ""],
        `phasor: ${file}: a cache with room for the rows that were saved; got savedRows=48, savedBudget=48, budget=12, ` +
          "prefill-chunk=4, max-cache-bytes=24576. " +
          "Give --policy and --budget or --max-cache-bytes as the cache was saved with, or a larger --prefill-chunk.\n",
      ]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("refuses a policy that looks from a question without exactly one, before the model is loaded", async () => {
    const two = ["--ask", "Who?", "--ask", "Where?"];
    const finch = ["generate", "--model", "nowhere", "-p", PROMPT, "--policy", "finch", "--budget", "48"];
    const { code, stdout, stderr } = await phasor([...finch, ...two]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(
      'phasor: generate: one question, for a policy that looks from it; got policy="finch", questions=2. ' +
        "Give --ask once, or a policy such as keydiff.\n",
    );
  });

  test("takes the sampler's options for answers, and a chunk that holds a long question", async () => {
    const long = ["--ask", "Who? ".repeat(30), "--policy", "finch", "--budget", "48", "-n", "12"];
    const run = ["generate", "--model", MODEL, "-p", PROMPT, ...long];
    expect((await phasor(run)).stderr).toContain("room for a token and the question");
    const best = await phasor([...run, "--prefill-chunk", "256"]);
    const sampled = await phasor([...run, "--prefill-chunk", "256", "-t", "3", "--top-k", "1"]);
    expect([best.code, sampled.code, sampled.stdout]).toEqual([0, 0, best.stdout]);
  });

  test("that cannot be read is named", async () => {
    const { code, stderr } = await phasor(["generate", "--model", MODEL, "--load-cache", "nowhere.kv", "-p", "a"]);
    expect([code, stderr]).toEqual([
      1,
      'phasor: generate: the cache file must be readable; got file="nowhere.kv", error="ENOENT".\n',
    ]);
  });

  test("in bytes never passes them", async () => {
    const { code, stdout } = await phasor(
      ["generate", "--model", MODEL, "-p", PROMPT, "--max-cache-bytes", "32KiB", "--cache-dtype", "int8"].concat([
        "--ask",
        "Who?",
        "--json",
      ]),
    );
    const { cache } = JSON.parse(stdout);
    expect([code, cache.maxBytes, cache.forgotten.length > 0]).toEqual([0, 32768, true]);
    expect(cache.peakAllocatedBytes).toBeLessThanOrEqual(32768);
  });
});

describe("phasor eval", () => {
  test("prints a table, and writes every answer and charts", async () => {
    const folder = await mkdtemp(join(tmpdir(), "phasor-eval-"));
    try {
      const [json, svg] = [join(folder, "eval.json"), join(folder, "charts")];
      const small = ["--documents", "1", "--document-pieces", "60", "--facts", "2", "--text-tokens", "60"];
      const run = ["eval", "--model", MODEL, "--policies", "keydiff", "--budgets", "16,32", ...small];
      const { code, stdout } = await phasor([...run, "--rerotate", "on", "--json", json, "--svg", svg]);
      expect(code).toBe(0);
      expect(stdout.split("\n").filter((line) => line.startsWith("| keydiff"))).toHaveLength(3 * 2);
      expect(stdout).toContain("\nExact answers by place of the fact in the text:\n");
      expect(stdout).toContain("\nExact answers by tokens from the fact to the question:\n");
      const { options, rows } = JSON.parse(await readFile(json, "utf8"));
      expect([options.seed, rows.length, rows[1].retrieval.answers.length]).toEqual([1, 3, 2]);
      const { byDepth, byDistance } = rows[1].retrieval;
      for (const parts of [byDepth, byDistance]) {
        expect(parts.reduce((sum: number, { asked }: { asked: number }) => sum + asked, 0)).toBe(2);
      }
      for (const name of ["divergence-by-budget", "retrieval-by-depth", "retrieval-by-distance"]) {
        expect(await readFile(join(svg, `${name}.svg`), "utf8")).toContain("<svg");
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("writes its files although nobody reads the tables to their end", async () => {
    const folder = await mkdtemp(join(tmpdir(), "phasor-eval-"));
    try {
      const json = join(folder, "eval.json");
      const small = ["--documents", "1", "--document-pieces", "60", "--facts", "1", "--text-tokens", "0"];
      const child = start([
        "eval",
        "--model",
        MODEL,
        "--policies",
        "keydiff",
        "--budgets",
        "16",
        ...small,
        "--json",
        json,
      ]);
      child.stdout?.destroy();
      expect((await finished(child)).code).toBe(0);
      expect(JSON.parse(await readFile(json, "utf8")).rows).toHaveLength(3);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("refuses a negative count", async () => {
    const { code, stderr } = await phasor(["eval", "--model", "nowhere", "--documents", "-1"]);
    expect([code, stderr]).toEqual([
      2,
      "error: option '--documents <n>' argument '-1' is invalid. It must be a whole number from 0 to 100,000.\n",
    ]);
  });

  test("names a policy it does not know", async () => {
    const { code, stderr } = await phasor(["eval", "--model", MODEL, "--policies", "snapvk"]);
    expect(code).toBe(2);
    expect(stderr).toContain('the name of a policy; got name="snapvk"');
  });
});

describe("errors are one line on stderr", () => {
  const refused = async (args: string[], message: string | RegExp): Promise<void> => {
    const { code, stdout, stderr } = await phasor(args);
    expect(stderr).toMatch(message);
    expect(stderr.startsWith("phasor: ")).toBe(true);
    expect(stderr.trimEnd().split("\n").length).toBe(1);
    expect([code, stdout]).toEqual([1, ""]);
  };

  test("a missing folder", async () => {
    const path = join(folder, "nowhere");
    const message = `phasor: ${path}: a model folder that can be read; got error="ENOENT".`;
    for (const args of [
      ["generate", "-m", path],
      ["inspect", path],
    ])
      await refused(args, message);
  });

  test("a folder without weights", async () => {
    const copy = await copyModel("no-weights");
    await rm(join(copy, "model.safetensors"));
    await refused(["generate", "-m", copy], "model.safetensors or model.safetensors.index.json in the model folder");
  });

  test("a truncated weight file", async () => {
    const copy = await copyModel("truncated");
    await truncate(join(copy, "model.safetensors"), 500_000);
    for (const args of [
      ["generate", "-m", copy],
      ["inspect", copy],
    ])
      await refused(args, "model.safetensors: ");
  });

  test("an unknown architecture", async () => {
    const copy = await copyModel("unknown");
    const config = JSON.parse(await readFile(join(MODEL, "config.json"), "utf8"));
    await writeFile(join(copy, "config.json"), JSON.stringify({ ...config, model_type: "mamba" }));
    await refused(["generate", "-m", copy], /model_type must be one of .*; got model_type="mamba"/);
  });

  test("values out of range, before the model is loaded", async () => {
    const path = join(folder, "nowhere");
    await refused(
      ["generate", "-m", path, "-t", "-1"],
      "temperature must be a number of at least 0; got temperature=-1.",
    );
    await refused(
      ["generate", "-m", path, "--top-p", "1.5"],
      "topP must be a number above 0 and at most 1; got topP=1.5.",
    );
  });

  test("a prompt file that is not there", async () => {
    await refused(["generate", "-m", MODEL, "-f", join(folder, "nothing.txt")], 'nothing.txt", error="ENOENT".');
  });

  test("a prompt that is not UTF-8", async () => {
    const file = join(folder, "latin1.txt");
    await writeFile(file, Uint8Array.of(0x63, 0x61, 0x66, 0xe9));
    await refused(
      ["generate", "-m", MODEL, "-f", file],
      `phasor: generate: the prompt file must be text in UTF-8; got file="${file}".`,
    );
  });

  test("a text longer than the context, before it is read", async () => {
    await refused(
      ["generate", "-m", MODEL, "-p", "Once upon a time ".repeat(200), "--ask", "Who?"],
      /^phasor: generate: text and question must fit the context of 512 positions; got cachedPositions=0, textTokens=\d+, questionTokens=\d+\. Give --budget with --rerotate to read a longer text, or raise --context if the model can go further\.\n$/,
    );
  });

  test("questions about nothing", async () => {
    const file = join(folder, "empty.txt");
    await writeFile(file, "\n");
    for (const text of [[], ["-f", file]]) {
      await refused(
        ["generate", "-m", MODEL, ...text, "--ask", "Who?"],
        "phasor: generate: a text to ask about; got characters=0. Give --prompt, --file or --load-cache.",
      );
    }
  });

  test("what the cache refuses, in the command's own words", async () => {
    await refused(
      ["generate", "-m", MODEL, "-p", "a", "--max-cache-bytes", "1000"],
      "phasor: generate: --max-cache-bytes must hold the budget and one chunk in every layer; got max-cache-bytes=1000, " +
        "neededBytes=3040, tokens=2. Raise --max-cache-bytes, lower --budget or --prefill-chunk, or choose --cache-dtype " +
        "int8 or int4.",
    );
  });

  test("a prompt longer than the context", async () => {
    const args = ["generate", "-m", MODEL, "-p", "a b c d", "--context", "3"];
    await refused(args, /the prompt must fit the context of 3 positions; got promptTokens=\d/);
  });

  test("PHASOR_DEBUG adds the stack", async () => {
    const { stderr } = await phasor(["inspect", join(folder, "nowhere")], "", { PHASOR_DEBUG: "1" });
    expect(stderr).toMatch(/\n {4}at /);
  });

  test.each([
    ["a missing option", ["generate"], "required option '-m, --model <folder>' not specified"],
    [
      "a value that is no number",
      ["generate", "-m", MODEL, "-t", "warm"],
      "'warm' is invalid. It must be a number such as 7, 0.5 or 1e-3.",
    ],
    [
      "a fraction of a token",
      ["generate", "-m", MODEL, "-n", "2.5"],
      "'2.5' is invalid. It must be a whole number from 0 to 2^53 - 1.",
    ],
    ["two prompts", ["generate", "-m", MODEL, "-p", "a", "-f", "b"], "cannot be used with option"],
    ["no byte count", ["inspect", MODEL, "--memory", "lots"], "It must be a byte count such as 64MiB, 2GB or 1.5GiB."],
    ["an unknown command", ["generatr"], "unknown command 'generatr'\n(Did you mean generate?)"],
    ["a misspelt option", ["generate", "--polcy", "knorm"], "unknown option '--polcy'\n(Did you mean --policy?)"],
    ["one dash", ["start", "-budget", "64"], "unknown option '-budget'\n(Did you mean --budget?)"],
    [
      "a budget and a ratio",
      ["generate", "-m", MODEL, "--budget", "8", "--compression-ratio", "0.5"],
      "option '--compression-ratio <r>' cannot be used with option '--budget <n>'",
    ],
  ])("usage: %s exits with 2", async (_name, args, message) => {
    const { code, stdout, stderr } = await phasor(args);
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/\n {4}at /);
    expect([code, stdout]).toEqual([2, ""]);
  });

  test("help tells every option with its unit and default", async () => {
    for (const command of ["generate", "eval", "inspect", "start", "train"]) {
      const { code, stdout, stderr } = await phasor(["help", command]);
      expect([code, stderr]).toEqual([0, ""]);
      const whole = stdout.replaceAll(/\n {10,}/g, " ");
      for (const [line] of whole.matchAll(/^ {2}(-., )?--[a-z-]+ <.*$/gm)) {
        expect(line).toMatch(
          /\(default: |default: "|-cache <|--(model|out|data|steps|file|ask|json|svg|compression-ratio|eval-data|rope-scaling|memory|config|max-cache-bytes) </,
        );
      }
    }
    expect((await phasor(["start", "--help"])).stdout).toContain("npx phasor train");
  });

  test("--help and --version exit with 0", async () => {
    const manifest = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8"));
    expect(await phasor(["--version"])).toMatchObject({ code: 0, stdout: `${manifest.version}\n` });
    expect((await phasor(["generate", "--help"])).code).toBe(0);
  });
});
