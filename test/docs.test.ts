/**
 * The samples of README.md and docs/*.md. A block that begins with "```ts run" is a module: it is type-checked as a
 * user's project would, run, and must print what its "// → ..." comments say.
 */

import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { format } from "node:util";
import { beforeAll, describe, expect, it, vi } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
// Inside the package, where its own name resolves to it.
const FOLDER = join(ROOT, "build", "docs");

type Sample = { readonly name: string; readonly path: string; readonly code: string };

const SAMPLES = (await Promise.all((await pages()).map(samplesOf))).flat();

/** The pages, as paths from the root. */
async function pages(): Promise<string[]> {
  const docs = await readdir(join(ROOT, "docs"));
  return ["README.md", ...docs.filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];
}

async function samplesOf(page: string): Promise<Sample[]> {
  const text = await readFile(join(ROOT, page), "utf8");
  return Array.from(text.matchAll(/^```ts run\n(.*?)^```$/gms), ({ 1: code, index }) => {
    const line = text.slice(0, index).split("\n").length;
    return { name: `${page}:${line}`, path: join(FOLDER, `${page.replace(/\W/g, "-")}-${line}.ts`), code };
  });
}

beforeAll(async () => {
  await rm(FOLDER, { recursive: true, force: true });
  await mkdir(FOLDER, { recursive: true });
  for (const { path, code } of SAMPLES) await writeFile(path, `${code}\nexport {};\n`);
});

describe("the samples of the documentation", () => {
  it.each(SAMPLES)("$name prints what it says", async ({ path, code }) => {
    const printed: string[] = [];
    const log = vi.spyOn(console, "log").mockImplementation((...values) => void printed.push(format(...values)));
    const write = vi.spyOn(process.stdout, "write").mockImplementation(() => true);
    try {
      await import(path);
    } finally {
      log.mockRestore();
      write.mockRestore();
    }
    const oneLine = printed.map((text) => text.replace(/\s*\n\s*/g, " "));
    expect(oneLine).toEqual(Array.from(code.matchAll(/\/\/ → (.*)$/gm), ([, text]) => text));
  });

  it("type-check in a plain strict project, without this one's stricter options", async () => {
    const options = { strict: true, module: "NodeNext", target: "ES2022", types: ["node"], noEmit: true };
    await writeFile(join(FOLDER, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
    const compiler = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin", "tsc");
    const output = await new Promise<string>((resolve) => {
      execFile(process.execPath, [compiler, "-p", FOLDER], (_, stdout, stderr) => resolve(stdout + stderr));
    });
    expect(output).toBe("");
  });

  it("are there", () => {
    for (const page of ["README.md", "docs/rope.md"]) {
      expect(SAMPLES.some(({ name }) => name.startsWith(page))).toBe(true);
    }
  });
});
