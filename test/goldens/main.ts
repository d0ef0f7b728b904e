/**
 * Runs golden cases from real libraries through Phasor's public API.
 *
 *     npm run goldens -- FOLDER [--backend reference|wasm]
 *
 * Every cases.json under FOLDER is a suite, named by the folder it lies in. Prints a line for each failing case with
 * its largest error, ends with `N passed, N failed`, and exits 1 when a case failed or none ran.
 */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { runCase } from "./case.ts";
import { readGoldenCases } from "./format.ts";
import { suites } from "./suites/index.ts";

const BACKENDS = ["reference", "wasm"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { backend: { type: "string", default: "reference" } },
});
const [folder] = positionals;
if (folder === undefined || positionals.length > 1) fail("usage: npm run goldens -- FOLDER [--backend reference|wasm]");
if (!BACKENDS.includes(values.backend)) fail(`--backend must be one of ${BACKENDS.join(", ")}; got ${values.backend}`);
if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) fail(`not a folder: ${folder}`);

let passed = 0;
let failed = 0;
for (const path of suiteFolders(folder)) {
  const name = basename(path);
  const suite = suites[name];
  const cases = readGoldenCases(readFileSync(join(path, "cases.json"), "utf8"));
  for (const golden of cases) {
    const problem =
      suite === undefined ? "no runner for this suite" : await runCase(suite, golden, path, values.backend);
    if (problem === null) passed++;
    else {
      failed++;
      console.log(`FAILED ${name}/${golden.name}: ${problem}`);
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);

/** The folders with a cases.json, in name order. */
function* suiteFolders(path: string): Generator<string> {
  const entries = readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  if (entries.some((entry) => entry.name === "cases.json")) yield path;
  for (const entry of entries) if (entry.isDirectory()) yield* suiteFolders(join(path, entry.name));
}

function fail(message: string): never {
  console.error(`goldens: ${message}`);
  process.exit(2);
}
