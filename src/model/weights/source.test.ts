import { appendFile, mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CapabilityError, ConfigError, FormatError } from "../../errors.ts";
import { createFileSource, openModelFolder } from "./file-source.ts";
import { createHttpFiles, createHttpSource } from "./http-source.ts";
import { createMemoryFiles, createMemorySource } from "./memory-source.ts";
import type { ModelFiles, WeightSource } from "./source.ts";

const CONTENT = Uint8Array.from({ length: 1009 }, (_, index) => (index * 31) % 251);
const TEXTS: Record<string, string> = { "config.json": '{"é":[1,2]}', "bad.json": '{"a":', "with space.txt": "hello" };

let folder: string;
let server: Server;
let baseUrl: string;

/** Answers ranges as a web server does, unless the first part of the path asks for a fault. */
function answer(url: string, range: string | undefined, response: ServerResponse): void {
  const [, fault, name] = decodeURIComponent(url).split("/");
  const content = name === "data.bin" ? CONTENT : name in TEXTS ? new TextEncoder().encode(TEXTS[name]) : undefined;
  const [, first, last] = (/^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? []).map(Number);
  if (fault === "private") response.writeHead(403).end();
  else if (fault === "broken") response.writeHead(503).end();
  else if (content === undefined) response.writeHead(404).end();
  else if (fault === "no-range" || first === undefined) response.writeHead(200).end(content);
  else if (fault === "empty" || first >= content.length) response.writeHead(416, contentRange("*", 0)).end();
  else {
    const end = Math.min(last + 1, content.length);
    const body = content.subarray(first, end);
    const grown = fault === "growing" && first > 0 ? 1 : 0;
    const shift = fault === "shifted" && first > 0 ? 1 : 0;
    const headers = contentRange(`${first + shift}-${end - 1 + shift}`, content.length + grown);
    if (fault === "hidden") response.writeHead(206).end(body);
    else if (fault === "long" && first > 0) response.writeHead(206, headers).end(content);
    else if (fault === "short" && first > 0) response.writeHead(206, headers).end(body.subarray(1));
    else if (fault === "cut" && first > 0) {
      response.writeHead(206, { ...headers, "content-length": String(body.length) });
      response.write(body.subarray(2), () => response.destroy());
    } else response.writeHead(206, headers).end(body);
  }
}

function contentRange(range: string, size: number): Record<string, string> {
  return { "content-range": `bytes ${range}/${size}` };
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-sources-"));
  await writeFile(join(folder, "data.bin"), CONTENT);
  for (const [name, text] of Object.entries(TEXTS)) await writeFile(join(folder, name), text);
  await mkdir(join(folder, "inner"));
  await symlink(join(folder, "data.bin"), join(folder, "linked.bin"));
  server = createServer((request, response) => answer(request.url ?? "", request.headers.range, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true });
});

const kinds: [string, () => Promise<ModelFiles>][] = [
  [
    "memory",
    async () =>
      createMemoryFiles(new Map<string, Uint8Array | string>([["data.bin", CONTENT], ...Object.entries(TEXTS)])),
  ],
  ["disk", () => openModelFolder(folder)],
  ["HTTP", async () => createHttpFiles(`${baseUrl}/fine`)],
];

describe.each(kinds)("files in %s", (_, openFiles) => {
  test("give their size and any range of their bytes", async () => {
    const source = (await openFiles()).open("data.bin");
    expect(await source.size()).toBe(1009);
    for (const [offset, length] of [
      [0, 1009],
      [0, 0],
      [1009, 0],
      [13, 1],
      [501, 508],
      [1008, 1],
    ]) {
      expect([...(await source.read(offset, length))]).toEqual([...CONTENT.subarray(offset, offset + length)]);
    }
  });

  test("hold no more memory than was asked for", async () => {
    const bytes = await (await openFiles()).open("data.bin").read(13, 7);
    if (bytes.buffer !== CONTENT.buffer) expect(bytes.buffer.byteLength).toBe(7);
  });

  test("refuse a range that the file does not have", async () => {
    const source = (await openFiles()).open("data.bin");
    for (const [offset, length] of [
      [1000, 10],
      [1010, 0],
      [-1, 4],
      [0, -1],
      [0.5, 1],
      [0, 2 ** 52],
      [2 ** 53, 1],
    ]) {
      await expect(source.read(offset, length)).rejects.toThrow(
        `${source.name}: the bytes asked for must lie within the file; ` +
          `got byteOffset=${offset}, length=${length}, size=1009. The file is truncated or damaged.`,
      );
    }
  });

  test("read as text and as JSON", async () => {
    const files = await openFiles();
    expect(await files.readText("with space.txt", 5)).toBe("hello");
    expect(await files.readJson("config.json", 100)).toEqual({ é: [1, 2] });
    await expect(files.readText("with space.txt", 4)).rejects.toThrow("a text file of at most 4 bytes; got size=5.");
    await expect(files.readText("data.bin", 2000)).rejects.toThrow(
      "text in UTF-8; got size=1009. The file is damaged.",
    );
    await expect(files.readJson("bad.json", 100)).rejects.toThrow(FormatError);
    await expect(files.readJson("bad.json", 100)).rejects.toThrow("bad.json: valid JSON; got reason=");
  });

  test("say which are there, and what to do about one that is not", async () => {
    const files = await openFiles();
    expect(await Promise.all(["data.bin", "nothing.bin", "inner", "../data.bin", ""].map(files.has))).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
    const message = "nothing.bin: the file must exist. Check the path, or download the file again.";
    await expect(files.readText("nothing.bin", 10)).rejects.toThrow(ConfigError);
    await expect(files.readText("nothing.bin", 10)).rejects.toThrow(message);
  });

  test.each(["../data.bin", "a/b", "a\\b", "C:b", "", ".", "..", "a\0b"])("refuse the name %j", async (name) => {
    const files = await openFiles();
    expect(() => files.open(name)).toThrow(ConfigError);
    expect(() => files.open(name)).toThrow(`${files.name}: a file name without a path; got name=`);
  });

  test("stop reading when the signal is aborted", async () => {
    const source = (await openFiles()).open("data.bin");
    await expect(source.read(0, 9, AbortSignal.abort("enough"))).rejects.toBe("enough");
  });
});

describe("createMemorySource", () => {
  test("shares memory", async () => {
    const bytes = Uint8Array.of(1, 2, 3, 4, 5);
    expect((await createMemorySource("a", bytes).read(1, 2)).buffer).toBe(bytes.buffer);
  });
});

describe("files on disk", () => {
  test("behind a link are read", async () => {
    expect(await (await openModelFolder(folder)).has("linked.bin")).toBe(true);
    expect(await createFileSource(join(folder, "linked.bin")).size()).toBe(1009);
  });

  test("that shrink are refused, and that grow are read", async () => {
    const path = join(folder, "changing.bin");
    await writeFile(path, CONTENT);
    const source = createFileSource(path);
    await truncate(path, 100);
    await expect(source.read(90, 20)).rejects.toThrow(FormatError);
    await appendFile(path, Uint8Array.of(5));
    expect([...(await source.read(100, 1))]).toEqual([5]);
  });

  test("that are folders are refused", async () => {
    await expect(createFileSource(folder).read(0, 1)).rejects.toThrow(ConfigError);
  });

  test("a model folder that is missing or a file is refused", async () => {
    const hint = "Give the folder that holds config.json and model.safetensors.";
    const missing = join(folder, "nowhere");
    await expect(openModelFolder(missing)).rejects.toThrow(
      `${missing}: a model folder that can be read; got error="ENOENT". ${hint}`,
    );
    const file = join(folder, "data.bin");
    await expect(openModelFolder(file)).rejects.toThrow(`${file}: a model folder, not a file. ${hint}`);
  });
});

describe("files over HTTP", () => {
  const source = (fault: string): WeightSource => createHttpSource(`${baseUrl}/${fault}/data.bin`);

  test("a server without ranges is named as such", async () => {
    const url = `${baseUrl}/no-range/data.bin`;
    await expect(source("no-range").size()).rejects.toThrow(CapabilityError);
    await expect(source("no-range").read(3, 4)).rejects.toThrow(
      `${url}: a server that answers Range requests with status 206; got status=200. ` +
        "Host the file where Range requests work, or download it and use createMemoryFiles.",
    );
  });

  test("a server that hides Content-Range is named as such", async () => {
    await expect(source("hidden").size()).rejects.toThrow(
      "a Content-Range header with the size of the file; got content-range=null. " +
        "A server of another origin must list it in Access-Control-Expose-Headers.",
    );
  });

  test.each([
    ["private", "a file that may be read; got status=403. Pass an Authorization header."],
    ["broken", "a successful answer from the server; got status=503. Check the address or try later."],
  ])("the status of a %s file is told", async (fault, message) => {
    await expect(source(fault).size()).rejects.toThrow(message);
    await expect(createHttpFiles(`${baseUrl}/${fault}`).has("data.bin")).rejects.toThrow(message);
  });

  test.each([
    ["long", "an answer of 7 bytes, not more; got byteOffset=5."],
    ["short", "an answer of 7 bytes; got byteOffset=5, received=6. The connection broke; try again."],
    ["cut", "an answer of 7 bytes; got byteOffset=5, received="],
    ["shifted", "the range asked for, of a file that keeps its size; got byteOffset=5, size=1009, answered="],
    ["growing", "the range asked for, of a file that keeps its size; got byteOffset=5, size=1009, answered="],
  ])("a %s answer is refused", async (fault, message) => {
    const file = source(fault);
    await expect(file.read(5, 7)).rejects.toThrow(FormatError);
    await expect(file.read(5, 7)).rejects.toThrow(message);
  });

  test("an empty file has size 0", async () => {
    expect(await source("empty").size()).toBe(0);
    expect(await source("empty").read(0, 0)).toEqual(new Uint8Array(0));
  });

  test("a server that cannot be reached is told", async () => {
    const refusing = createHttpSource("http://example.invalid/a", {
      fetch: () => Promise.reject(new TypeError("fetch failed")),
    });
    await expect(refusing.size()).rejects.toThrow(
      'http://example.invalid/a: a server that can be reached; got reason="fetch failed". ' +
        "Check the address and the network.",
    );
  });

  test("headers go with every request", async () => {
    const seen: unknown[] = [];
    const file = createHttpSource("http://example.invalid/a", {
      headers: { Authorization: "Bearer x" },
      fetch: async (_, init) => {
        seen.push(init.headers);
        const [, first, last] = /(\d+)-(\d+)/.exec((init.headers as Record<string, string>).Range)!.map(Number);
        const headers = contentRange(`${first}-${last}`, 1009);
        return new Response(CONTENT.slice(first, last + 1), { status: 206, headers });
      },
    });
    expect(await file.read(5, 3)).toEqual(CONTENT.slice(5, 8));
    expect(seen).toEqual([
      { Authorization: "Bearer x", Range: "bytes=0-0" },
      { Authorization: "Bearer x", Range: "bytes=5-7" },
    ]);
  });
});
