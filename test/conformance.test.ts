/**
 * The conformance suite on this Node, on the built package; `npm run test:runtimes` runs it on all runtimes. Each of its
 * checks is a test here.
 */

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

type Result = { name: string; ok?: boolean; error?: string; skipped?: string; done?: boolean };

const SUITE = fileURLToPath(new URL("./conformance/run.mjs", import.meta.url));

const { status, stdout, stderr } = spawnSync(process.execPath, [SUITE], { encoding: "utf8", timeout: 120_000 });
const lines = stdout.split("\n").filter((line) => line.startsWith("{"));
const results = lines.map((line): Result => JSON.parse(line));

describe("the conformance suite", () => {
  it("runs to its end, and the process ends by itself with threads left behind", () => {
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(results.filter(({ done }) => done)).toHaveLength(1);
  });

  for (const { name, error, skipped } of results.filter(({ done }) => !done)) {
    it.skipIf(skipped !== undefined)(name, () => {
      expect(error).toBeUndefined();
    });
  }
});
