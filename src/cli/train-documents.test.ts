import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Tokenizer } from "../model/index.ts";
import { readDocuments } from "./train-documents.ts";

/** A token for each character, 99 in front of a text. */
const tokenizer = {
  encode: (text: string, { addSpecialTokens = true } = {}) => [
    ...(addSpecialTokens ? [99] : []),
    ...Array.from(text, (letter) => letter.charCodeAt(0) - 96),
  ],
} as Pick<Tokenizer, "encode"> as Tokenizer;

const options = { tokenizer, endTokenId: 77 };

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-documents-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function read(name: string, content: string, changes = {}): Promise<unknown[]> {
  const path = join(folder, name);
  await writeFile(path, content);
  const documents = await readDocuments([path], { ...options, ...changes });
  return documents.map(({ tokens, weights }) => [Array.from(tokens), weights && Array.from(weights)]);
}

describe("readDocuments", () => {
  test("a text file is one document, or several between marks", async () => {
    expect(await read("one.txt", "ab\n")).toEqual([[[99, 1, 2, 77], undefined]]);
    expect(await read("two.txt", "ab<|endoftext|>\nc\n<|endoftext|>\n")).toEqual([
      [[99, 1, 2, 77], undefined],
      [[99, 3, 77], undefined],
    ]);
  });

  test("a line of JSON is a string, a text, weighted parts or tokens", async () => {
    const lines = [
      '"ab"',
      '{"text":"c"}',
      "",
      '{"parts":[{"text":"ab","weight":0.5},{"text":"c","weight":4}]}',
      '{"tokens":[5,6,7]}',
      '{"tokens":[5,6],"weights":[0,2]}',
    ];
    expect(await read("lines.jsonl", lines.join("\r\n"))).toEqual([
      [[99, 1, 2, 77], undefined],
      [[99, 3, 77], undefined],
      [
        [99, 1, 2, 3, 77],
        [0.5, 0.5, 0.5, 4, 4],
      ],
      [[5, 6, 7], undefined],
      [
        [5, 6],
        [0, 2],
      ],
    ]);
  });

  test.each([
    ["{", /^(.*)line 2: valid JSON; got reason=/],
    ["7", /line 2: a string, or an object with text, parts or tokens; got value=7\.$/],
    ["null", /line 2: a string, or an object with text, parts or tokens; got value=null\.$/],
    ['{"tokens":[1.5]}', /line 2: a string, or an object with text, parts or tokens/],
    ['{"tokens":[4294967297]}', /line 2: a string, or an object with text, parts or tokens/],
    ['{"tokens":[1,2],"weights":[1]}', /line 2: weights of 0 or more, one for each token; got weights=\[1\]\.$/],
    ['{"parts":[{"text":"a","weight":-1}]}', /line 2: parts with text and a weight of 0 or more; got part=/],
  ])("refuses the line %s", async (line, message) => {
    await expect(read("bad.jsonl", `"a"\n${line}\n`)).rejects.toThrow(message);
  });

  test("lines may be longer than what is read at a time, and the last one need not end", async () => {
    const long = "ab".repeat(100_000);
    const [first, second] = (await read("long.jsonl", `\uFEFF"${long}"\n"c"`)) as [number[], unknown][];
    expect([first[0].length, second]).toEqual([200_002, [[99, 3, 77], undefined]]);
  });

  test.each(["broken.txt", "broken.jsonl"])("refuses %s that is not UTF-8", async (name) => {
    const path = join(folder, name);
    for (const bytes of [
      [0x22, 0xff, 0x22, 0x0a],
      [0x22, 0x61, 0xc3],
    ]) {
      await writeFile(path, Uint8Array.from(bytes));
      await expect(readDocuments([path], options)).rejects.toThrow(`${path}: text in UTF-8.`);
    }
  });

  test("refuses texts without a tokenizer, and files that are not there", async () => {
    await expect(read("one.txt", "ab", { tokenizer: undefined })).rejects.toThrow(
      /one\.txt: a tokenizer for texts\. Name one with --tokenizer\.$/,
    );
    for (const name of ["missing.txt", "missing.jsonl"]) {
      await expect(readDocuments([join(folder, name)], options)).rejects.toThrow(
        /missing\.(txt|jsonl): a file that can be read; got error="ENOENT"\.$/,
      );
    }
  });
});
