/**
 * All checks of the project, in order: format and lint, folder order, types, package exports, tests.
 * The last line counts them together: `N passed, N failed`. Exits 1 when one failed.
 */

import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";

const REPORT = "build/test-report.json";

const checks = [
  ["lint", "biome", ["check", "."]],
  ["folder order", process.execPath, ["scripts/folder-order.mjs"]],
  ["types", "tsc", ["-p", "tsconfig.json"]],
  ["build", "npm", ["run", "--silent", "build"]],
  ["package", "publint", ["--strict"]],
];

let passed = 0;
let failed = 0;

for (const [name, command, args] of checks) {
  const ok = run(command, args);
  if (ok) passed++;
  else failed++;
  process.stdout.write(`${ok ? "ok" : "FAILED"}  ${name}\n`);
}

rmSync(REPORT, { force: true });
const ok = run("vitest", ["run", "--reporter=default", "--reporter=json", `--outputFile.json=${REPORT}`]);
const report = readReport();
passed += report.numPassedTests;
failed += report.numFailedTests + report.brokenFiles;
// A run that ended badly must not look green, whatever it counted.
if (failed === 0 && (!ok || report.numPassedTests === 0)) failed++;

process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed === 0 ? 0 : 1);

function run(command, args) {
  return spawnSync(command, args, { stdio: "inherit", shell: process.platform === "win32" }).status === 0;
}

function readReport() {
  try {
    const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(REPORT, "utf8"));
    // A file that could not be loaded has failed without any test of its own.
    const broken = testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0);
    return { numPassedTests, numFailedTests, brokenFiles: broken.length };
  } catch {
    return { numPassedTests: 0, numFailedTests: 0, brokenFiles: 1 };
  }
}
