/**
 * The folder-order rule: a folder of src imports only from folders above it in this list, and generated kernels
 * never import the reference. Prints every violation and exits 1 when there is one.
 */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";

const ORDER = [
  "rope",
  "mask",
  "attention",
  "engine",
  "cache",
  "compress",
  "nn",
  "model",
  "generate",
  "train",
  "evaluate",
  "cli",
];
const ROOT = "src";
const IMPORT = /(?:from|import)\s*\(?\s*"(\.{1,2}\/[^"]+)"/g;

const violations = [];
for (const file of sourceFiles(ROOT)) {
  const folder = folderOf(file);
  for (const [, specifier] of readFileSync(file, "utf8").matchAll(IMPORT)) {
    const target = join(dirname(file), specifier);
    const problem = violation(file, folder, target);
    if (problem) violations.push(`${file} imports ${relative(".", target)}: ${problem}`);
  }
}
for (const line of violations) console.error(line);
process.exit(violations.length === 0 ? 0 : 1);

/** The folder directly under src, or "" for files in src itself. */
function folderOf(file) {
  const parts = relative(ROOT, file).split(sep);
  return parts.length > 1 ? parts[0] : "";
}

function violation(file, folder, target) {
  const targetFolder = folderOf(target);
  if (target.startsWith("..") || !target.startsWith(ROOT)) return file.endsWith(".test.ts") ? null : "outside src";
  if (targetFolder !== "" && !ORDER.includes(targetFolder)) return `folder ${targetFolder} is not in the order`;
  const isKernel = /^engine[\\/](wasm|webgpu)/.test(relative(ROOT, file)) && !file.endsWith(".test.ts");
  if (isKernel && /reference(\.ts$|[\\/])/.test(target)) return "kernels must not use the reference";
  if (folder === "") {
    return targetFolder === "" || file === join(ROOT, "index.ts") ? null : "files of src itself import no folder";
  }
  return ORDER.indexOf(targetFolder) <= ORDER.indexOf(folder) ? null : `${targetFolder} comes after ${folder}`;
}

function* sourceFiles(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* sourceFiles(path);
    else if (entry.name.endsWith(".ts")) yield path;
  }
}
