/**
 * The conformance suite (test/conformance) on every runtime there is: `npm run test:runtimes [-- NAME ...]`.
 *
 * Node 22 and 24, Deno, Bun and the driver of Chromium come from test/runtimes, which is installed when it has to be;
 * Chromium itself is the system's (CHROMIUM_PATH). Prints a table and what failed; a runtime that is not here is named
 * and is not a pass. The last line is `N passed, N failed`; exits 1 when one failed or none ran.
 */

import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serve } from "./static-server.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PACKAGES = `${ROOT}test/runtimes`;
const MODULES = `${PACKAGES}/node_modules`;
const SUITE = `${ROOT}test/conformance/run.mjs`;
const PLATFORM = `${process.platform}-${process.arch}`;
const WAIT_MS = 300_000;

/** Runtimes that are a program: the first path that exists is run. */
const PROGRAMS = [
  { name: "node", paths: [process.execPath] },
  { name: "node22", paths: [`${MODULES}/node22-${PLATFORM}/bin/node`] },
  { name: "node24", paths: [`${MODULES}/node24-${PLATFORM}/bin/node`] },
  {
    name: "deno",
    paths: [`${MODULES}/@deno/${PLATFORM}-glibc/deno`],
    args: ["run", "--no-lock", "--no-prompt", "--allow-read", "--allow-env"],
  },
  { name: "bun", paths: [`${MODULES}/@oven/bun-${PLATFORM.replace("arm64", "aarch64")}/bin/bun`] },
];

/** Chromium with shared memory, and as most pages are served: without. */
const PAGES = [
  { name: "chromium", isolated: true },
  { name: "chromium-plain", isolated: false },
];
const PAGE = `<!doctype html>
<meta charset="utf-8">
<title>Phasor: conformance</title>
<script type="importmap">
  { "imports": { "@huggingface/tokenizers": "/node_modules/@huggingface/tokenizers/dist/tokenizers.mjs" } }
</script>
<script type="module" src="/test/conformance/run-in-page.mjs"></script>
`;
const CHROMIUM_PATHS = [process.env.CHROMIUM_PATH, "/usr/bin/chromium", "/usr/bin/chromium-browser"];

const { positionals } = parseArgs({ allowPositionals: true });
const known = [...PROGRAMS, ...PAGES].map(({ name }) => name);
const unknown = positionals.filter((name) => !known.includes(name));
if (unknown.length > 0) {
  console.error(`no such runtime: ${unknown.join(", ")}; there are ${known.join(", ")}`);
  process.exit(2);
}
const wanted = ({ name }) => positionals.length === 0 || positionals.includes(name);

if (!existsSync(`${ROOT}dist/engine/index.js`)) {
  console.error("dist/ is missing: npm run build");
  process.exit(2);
}
if (positionals.some((name) => name !== "node") || positionals.length === 0) install();

const rows = [];
for (const program of PROGRAMS.filter(wanted)) rows.push(await runProgram(program));
for (const page of PAGES.filter(wanted)) rows.push(await runPage(page));
printReport(rows);

/** Runs `npm ci` in test/runtimes, unless that was done with the same lock file. */
function install() {
  const lock = readFileSync(`${PACKAGES}/package-lock.json`, "utf8");
  const done = `${MODULES}/.installed-lock.json`;
  if (existsSync(done) && readFileSync(done, "utf8") === lock) return;
  // No install scripts: the binaries are in the platforms' own packages.
  const args = ["ci", "--ignore-scripts", "--prefix", PACKAGES];
  const stdio = ["ignore", "ignore", "inherit"];
  if (spawnSync("npm", args, { stdio, shell: process.platform === "win32" }).status === 0) writeFileSync(done, lock);
}

async function runProgram({ name, paths, args = [] }) {
  const path = paths.find((one) => existsSync(one));
  if (path === undefined) return { name, missing: "no binary for this platform is installed" };
  const shown = spawnSync(path, ["--version"], { encoding: "utf8" });
  if (shown.status !== 0) return { name, missing: `its binary does not start: ${shown.stderr ?? shown.error}` };
  const version = /\d+\.\d+\.\d+/.exec(shown.stdout)?.[0];
  const { output, errors, status } = await collect(path, [...args, SUITE]);
  const lines = output.split("\n").filter((line) => line.startsWith("{"));
  const end = status === "late" ? "the process does not end by itself" : `the process ends with ${status}`;
  const row = { name, version, results: lines.map((line) => JSON.parse(line)) };
  return status === 0 ? row : { ...row, problem: `${end}\n${errors}` };
}

function collect(path, args) {
  return new Promise((resolve) => {
    const child = spawn(path, args, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
    let [output, errors, late] = ["", "", false];
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, WAIT_MS);
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (errors += text));
    child.on("error", (error) => (errors += error.message));
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ output, errors, status: late ? "late" : (code ?? signal) });
    });
  });
}

async function runPage({ name, isolated }) {
  const executablePath = CHROMIUM_PATHS.find((path) => path && existsSync(path));
  if (executablePath === undefined) return { name, missing: "no Chromium; install it or set CHROMIUM_PATH" };
  const driver = `${MODULES}/playwright-core/index.mjs`;
  if (!existsSync(driver)) return { name, missing: "playwright-core is not installed" };
  const { chromium } = await import(driver);
  const server = await serve(ROOT, { isolated, pages: { "/": PAGE } });
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const row = { name, version: browser.version(), results: [] };
  try {
    const page = await browser.newPage();
    const ended = new Promise((resolve, reject) => {
      const fail = (reason) => reject(new Error(reason));
      page.on("pageerror", (error) => fail(`error in the page: ${error.message}`));
      page.on("crash", () => fail("the page crashed"));
      setTimeout(fail, WAIT_MS, `no end within ${WAIT_MS / 1000} s`).unref();
      page.exposeFunction("report", (result) => {
        row.results.push(result);
        if (result.done) resolve();
      });
    });
    await Promise.all([page.goto(server.url), ended]);
  } catch (error) {
    row.problem = error.message;
  } finally {
    await browser.close();
    server.close();
  }
  return row;
}

function printReport(rows) {
  let [passed, failed] = [0, 0];
  const failures = [];
  const table = [["runtime", "version", "relaxed SIMD", "shared memory", "passed", "failed", "skipped"]];
  for (const { name, version = "", results = [], problem, missing } of rows) {
    if (missing !== undefined) {
      table.push([name, "not here", "", "", "", "", ""]);
      failures.push(`${name}: not here: ${missing}`);
      continue;
    }
    const end = results.find(({ done }) => done);
    const bad = results.filter(({ ok }) => ok === false).map((one) => `${name}: ${one.name}\n  ${one.error}`);
    // Whatever was counted: a suite that did not come to its end has failed.
    if (problem !== undefined || end === undefined)
      bad.push(`${name}: ${problem ?? "the suite did not come to its end"}`);
    const good = results.filter(({ ok }) => ok === true).length;
    const skipped = results.filter((one) => one.skipped !== undefined).length;
    const yes = (feature) => (end === undefined ? "?" : end.features[feature] ? "yes" : "no");
    table.push([name, version, yes("relaxed"), yes("sharedMemory"), good, bad.length, skipped]);
    failures.push(...bad);
    passed += good;
    failed += bad.length;
  }
  const reasons = new Set(rows.flatMap(({ results = [] }) => results.map((one) => one.skipped)));
  reasons.delete(undefined);
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => String(row[column]).length)));
  for (const row of table)
    console.log(
      row
        .map((cell, n) => String(cell).padEnd(widths[n]))
        .join("  ")
        .trimEnd(),
    );
  for (const reason of reasons) console.log(`skipped: ${reason}`);
  for (const failure of failures) console.log(failure);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
}
