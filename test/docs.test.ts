/**
 * The samples of README.md and docs/*.md. A block that begins with "```ts run" is a module: it is compiled as a user's
 * project would be, run with the built package, and must print what its "// → ..." comments say.
 */

import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
// Inside the package, where its own name resolves to it.
const FOLDER = join(ROOT, "build", "docs");

type Sample = { readonly name: string; readonly file: string; readonly code: string };

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
    return { name: `${page}:${line}`, file: `${page.replace(/\W/g, "-")}-${line}`, code };
  });
}

type Result = { readonly code: number; readonly stdout: string; readonly stderr: string };

function node(...args: string[]): Promise<Result> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, args, { cwd: ROOT }, (_, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, stdout, stderr });
    });
  });
}

let compiled: Result;

beforeAll(async () => {
  await rm(FOLDER, { recursive: true, force: true });
  await mkdir(FOLDER, { recursive: true });
  for (const { file, code } of SAMPLES) await writeFile(join(FOLDER, `${file}.ts`), `${code}\nexport {};\n`);
  const options = { strict: true, module: "NodeNext", target: "ES2022", types: ["node"], outDir: "js" };
  await writeFile(join(FOLDER, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
  const compiler = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin", "tsc");
  compiled = await node(compiler, "-p", FOLDER);
});

describe("the samples of the documentation", () => {
  it("compile in a plain strict project, without this one's stricter options", () => {
    expect(compiled).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  it.each(SAMPLES)("$name prints what it says", async ({ file, code }) => {
    const result = await node(join(FOLDER, "js", `${file}.js`));
    expect(result).toMatchObject({ code: 0, stderr: "" });
    const promised = Array.from(code.matchAll(/\/\/ → (.*)$/gm), ([, text]) => text);
    // Node breaks long objects into lines.
    if (promised.length > 0) expect(result.stdout.replace(/\s+/g, " ").trim()).toBe(promised.join(" "));
  });

  it("are there", () => {
    for (const page of ["README.md", "docs/rope.md"]) {
      expect(SAMPLES.some(({ name }) => name.startsWith(page))).toBe(true);
    }
  });
});
