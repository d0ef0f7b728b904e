/**
 * Runs the suite in Node, Deno or Bun: one JSON object a line for each check. Leaves a backend with threads behind on
 * purpose: the process must end by itself all the same.
 */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createWasmBackend } from "../../dist/engine/index.js";
import { openModelFolder } from "../../dist/model/index.js";
import { runSuite } from "./suite.mjs";

const FOLDER = fileURLToPath(new URL("../fixtures/stories260K", import.meta.url));

const stories = JSON.parse(await readFile(`${FOLDER}/expected.json`, "utf8"));
const results = [];
await runSuite({ openModel: () => openModelFolder(FOLDER), stories }, (result) => results.push(result));
const left = await createWasmBackend({ threads: 2 });
left.add(left.allocate([3]), left.allocate([3]), left.allocate([3]));
await left.flush();
process.stdout.write(results.map((result) => `${JSON.stringify(result)}\n`).join(""));
