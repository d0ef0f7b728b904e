import { join } from "node:path";
import { expect, test } from "vitest";
import { type GenerateSettings, generateText } from "./generate.ts";

const nowhere = join("nowhere", "a.kv");

test.each([
  [
    { saveCache: nowhere },
    `generate: a file that can be written; got save-cache=${JSON.stringify(nowhere)}, error="ENOENT: no such file or directory".`,
  ],
  [
    { rerotate: true },
    "generate: --rerotate with a cache that forgets. Give --budget, --max-cache-bytes, --compression-ratio or --policy, too.",
  ],
  [
    { rerotate: false },
    "generate: --no-rerotate with a cache that forgets. Give --budget, --max-cache-bytes, --compression-ratio or --policy, too.",
  ],
  [
    { policy: "knorm" },
    'generate: how much of the text a policy keeps; got policy="knorm". Give --budget, --max-cache-bytes or --compression-ratio.',
  ],
  [
    { backend: "reference", threads: 2 },
    'generate: --threads with the wasm backend only; got backend="reference", threads=2.',
  ],
  [{ loadCache: nowhere }, "generate: a text behind the loaded cache. Give --prompt, --file or --ask."],
  [
    { loadCache: nowhere, prompt: "a" },
    `generate: the cache file must be readable; got file=${JSON.stringify(nowhere)}, error="ENOENT".`,
  ],
  [{ loadCache: ".", prompt: "a" }, 'generate: the cache file must be readable; got file=".", error="EISDIR".'],
  [
    { saveCache: "a.kv", onFrequencyChange: "reprefill" },
    'generate: --save-cache with --on-frequency-change pin or rerotate; got save-cache="a.kv", on-frequency-change="reprefill".',
  ],
  [
    { file: nowhere },
    `generate: the prompt file must be readable; got file=${JSON.stringify(nowhere)}, error="ENOENT".`,
  ],
] satisfies [Partial<GenerateSettings>, string][])(
  "refuses %j before the model is loaded",
  async (settings, message) => {
    const refused = generateText({ model: "not-there", ...settings }).catch((error: Error) => error.message);
    expect(await refused).toBe(message);
  },
);
