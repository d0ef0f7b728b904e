import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError, FormatError, PhasorError } from "../../errors.ts";
import { f32, type Tensor, tensor } from "../../tensor.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { openModelFolder } from "./file-source.ts";
import { createMemoryFiles } from "./memory-source.ts";
import { writeSafetensors } from "./write-safetensors.ts";

const STORIES = new URL("../../../test/fixtures/stories260K/", import.meta.url);
const INDEX = "model.safetensors.index.json";

const a = f32([2, 3], [1, 2, 3, 4, 5, 6]);
const b = tensor("bf16", [5], Uint16Array.of(0x3f80, 1, 2, 3, 4)) as Tensor;
const c = f32([1], [7]);

const shards: [string, Uint8Array][] = [
  [
    "model-1.safetensors",
    writeSafetensors([
      ["a", a],
      ["unnamed", c],
    ]),
  ],
  [
    "model-2.safetensors",
    writeSafetensors([
      ["b", b],
      ["c", c],
    ]),
  ],
];
const weightMap = { b: "model-2.safetensors", a: "model-1.safetensors", c: "model-2.safetensors" };

function open(...files: [string, Uint8Array | string][]): Promise<Checkpoint> {
  return openCheckpoint(createMemoryFiles(new Map(files), "folder"));
}

function indexed(index: unknown): [string, string] {
  return [INDEX, typeof index === "string" ? index : JSON.stringify(index)];
}

describe("openCheckpoint", () => {
  test("reads the stories model from disk", async () => {
    const checkpoint = await openCheckpoint(await openModelFolder(fileURLToPath(STORIES)));
    expect(checkpoint.names().length).toBe(47);
    expect(checkpoint.parameterCount).toBe(260_032);
    expect(checkpoint.totalBytes).toBe(4 * 260_032);
    expect(checkpoint.info("model.norm.weight").shape).toEqual([64]);
    const file = readFileSync(new URL("model.safetensors", STORIES));
    const { data } = await checkpoint.read("model.embed_tokens.weight");
    expect(data.length).toBe(512 * 64);
    expect(data[0]).toBe(file.readFloatLE(8 + 4856));
    expect(data[512 * 64 - 1]).toBe(file.readFloatLE(8 + 4856 + 131072 - 4));
  });

  test("reads tensors from the shards that the index names", async () => {
    const checkpoint = await open(...shards, indexed({ metadata: { total_size: 38 }, weight_map: weightMap }));
    expect(checkpoint.names().sort()).toEqual(["a", "b", "c"]);
    expect([checkpoint.has("a"), checkpoint.has("unnamed"), checkpoint.has("toString")]).toEqual([true, false, false]);
    expect([checkpoint.totalBytes, checkpoint.parameterCount]).toEqual([24 + 10 + 4, 6 + 5 + 1]);
    expect(await checkpoint.read("a")).toEqual(a);
    expect(await checkpoint.read("b")).toEqual(b);
    expect(await checkpoint.read("c")).toEqual(c);
  });

  test("takes the single file where both forms are there", async () => {
    const single: [string, Uint8Array] = ["model.safetensors", writeSafetensors([["only", c]])];
    expect((await open(single, indexed({ weight_map: weightMap }))).names()).toEqual(["only"]);
  });

  test("a tensor that is not there is refused by name", async () => {
    const checkpoint = await open(["model.safetensors", writeSafetensors([["only", c]])]);
    const message =
      'folder: a tensor "lm_head.weight" in the weights; got tensors=1. ' +
      "config.json and the weights do not belong together, or the weights are incomplete.";
    expect(() => checkpoint.info("lm_head.weight")).toThrow(message);
    await expect(checkpoint.read("lm_head.weight")).rejects.toThrow(message);
  });

  test("a folder without weights is refused", async () => {
    await expect(open()).rejects.toThrow(ConfigError);
    await expect(open()).rejects.toThrow(
      "folder: model.safetensors or model.safetensors.index.json in the model folder. " +
        "Weights in another format must be converted to safetensors first.",
    );
  });

  test("a missing shard is refused by name", async () => {
    const opening = open(shards[0], indexed({ weight_map: weightMap }));
    await expect(opening).rejects.toThrow(ConfigError);
    await expect(opening).rejects.toThrow(
      `folder: the shard that ${INDEX} names; got missing="model-2.safetensors". ` +
        "Download the missing file into the model folder.",
    );
  });

  test("a tensor that its shard does not have is refused", async () => {
    await expect(open(...shards, indexed({ weight_map: { ...weightMap, c: "model-1.safetensors" } }))).rejects.toThrow(
      `${INDEX}: each tensor in the shard it names; got name="c", shard="model-1.safetensors". ` +
        "The index and the shards do not belong together; download them again.",
    );
  });

  test.each(["../other/model-1.safetensors", "/etc/passwd", "a\\b", "", "..", 3])(
    "the shard name %j is refused",
    async (shard) => {
      const opening = open(...shards, indexed({ weight_map: { a: shard } }));
      await expect(opening).rejects.toThrow(FormatError);
      await expect(opening).rejects.toThrow(
        `${INDEX}: weight_map must name files without a path; got name="a", shard=${JSON.stringify(shard)}. ` +
          "The file is damaged, or made to read files outside the model folder.",
      );
    },
  );

  test.each([
    ["{", "valid JSON; got byteOffset=0. The file is damaged."],
    ["[]", "a JSON object; got byteOffset=0. The file is damaged."],
    ["{}", "weight_map must be an object; got weight_map=undefined."],
    ['{"weight_map":["a"]}', 'weight_map must be an object; got weight_map=["a"].'],
    ['{"weight_map":{"a":"b","a":"c"}}', 'every key once; got byteOffset=23, key="a". The file is damaged.'],
    [`{"x":${"[".repeat(40)}`, "JSON nested at most 16 deep; got byteOffset=20. The file is damaged."],
  ])("the index %s is refused", async (index, message) => {
    await expect(open(...shards, indexed(index))).rejects.toThrow(`${INDEX}: ${message}`);
  });

  test("any weight map over damaged shards is read or refused", async () => {
    const names = fc.constantFrom("a", "b", "c", "unnamed", "__proto__", "toString");
    const places = fc.oneof(
      fc.constantFrom("model-1.safetensors", "model-2.safetensors", "../x", INDEX),
      fc.jsonValue(),
    );
    const flips = fc.array(fc.tuple(fc.nat(200), fc.nat(255)), { maxLength: 2 });
    await fc.assert(
      fc.asyncProperty(fc.dictionary(names, places), flips, async (map, damage) => {
        const first = shards[0][1].slice();
        for (const [index, mask] of damage) first[index % first.length] ^= mask;
        try {
          const checkpoint = await open(["model-1.safetensors", first], shards[1], indexed({ weight_map: map }));
          for (const name of checkpoint.names()) await checkpoint.read(name);
        } catch (error) {
          expect(error).toBeInstanceOf(PhasorError);
          expect(["PHASOR_FORMAT", "PHASOR_CONFIG"]).toContain((error as PhasorError).code);
        }
      }),
      { numRuns: 500 },
    );
  });
});
