/**
 * Worker threads, on the built package: workers cannot run TypeScript sources on every supported Node.
 */

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import expected from "./fixtures/stories260K/expected.json" with { type: "json" };

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Runs a module script against dist/ and gives what it prints as JSON. */
function run(script: string): unknown {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 60_000,
  });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return JSON.parse(stdout);
}

const IMPORTS = `
  import { createBackend, createWasmBackend } from "phasor/engine";
  import { generate } from "phasor/generate";
  import { loadModel, createMemoryFiles, writeSafetensors } from "phasor/model";
`;

describe.each([0, 1, 2, 3])("with %i worker threads", (threads) => {
  it("the model tells its story, and the process ends by itself", () => {
    const [story] = expected.filter((one) => one.prompt.length > 0);
    const newTokens = story.steps + 1 - story.prompt_token_count;
    const text = run(`${IMPORTS}
      const backend = await createBackend({ threads: ${threads} });
      const model = await loadModel("test/fixtures/stories260K", { backend });
      const { text } = await generate(model, ${JSON.stringify(story.prompt)}, { maxNewTokens: ${newTokens} }).finish();
      console.log(JSON.stringify(text));
    `);
    expect(text).toBe(story.text);
  });
});

it("the same thread count gives the same logits to the last bit, another one the same within rounding", () => {
  const logits = run(`${IMPORTS}
    const runs = [];
    for (const threads of [2, 2, 1]) {
      const model = await loadModel("test/fixtures/stories260K", { backend: await createBackend({ threads }) });
      const { data } = await model.forward({ tokens: [1, 403, 407, 261, 378] });
      runs.push([...data]);
      model.dispose();
    }
    console.log(JSON.stringify(runs));
  `) as number[][];
  expect(logits[1]).toEqual(logits[0]);
  logits[2].forEach((value, i) => {
    expect(Math.abs(value - logits[0][i])).toBeLessThan(1e-4);
  });
});

it("the caller's event loop turns while the model computes", () => {
  // A forward of a tenth of a second or more; on the caller's thread the loop would not turn once.
  const { forwardMs, turns } = run(`
    import { createBackend } from "phasor/engine";
    const backend = await createBackend({ threads: 1 });
    const [T, N] = [1024, 1024];
    const x = backend.allocate([T, N]);
    const y = backend.allocate([T, N]);
    const weight = backend.matrix({ dtype: "f32", shape: [N, N], data: new Float32Array(N * N) });
    for (let n = 0; n < 4; n++) backend.linear(n % 2 ? x : y, n % 2 ? y : x, weight);
    let turns = 0;
    let done = false;
    const turn = () => { turns++; if (!done) setImmediate(turn); };
    setImmediate(turn);
    const start = performance.now();
    await backend.flush();
    done = true;
    console.log(JSON.stringify({ forwardMs: performance.now() - start, turns }));
  `) as { forwardMs: number; turns: number };
  expect(forwardMs).toBeGreaterThan(20);
  expect(turns).toBeGreaterThan(100);
});

it("a disposed backend refuses to run and lets the process end", () => {
  const message = run(`
    import { createBackend } from "phasor/engine";
    const backend = await createBackend({ threads: 2 });
    const x = backend.allocate([4]);
    backend.dispose();
    backend.add(x, x, x);
    console.log(JSON.stringify(await backend.flush().then(() => "ran", (error) => error.message)));
  `);
  expect(message).toBe("engine: an engine that has not been disposed.");
});
