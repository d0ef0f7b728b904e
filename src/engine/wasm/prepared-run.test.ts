import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { F32_STORED } from "../../../test/support/tolerances.ts";
import { values } from "../../../test/support/values.ts";
import {
  type AttentionPlan,
  type AttentionRequest,
  type PagedKv,
  planAttention,
  quantizeKv,
  referenceAttention,
} from "../../attention/index.ts";
import { causal, Mask, prefix } from "../../mask/index.ts";
import { tensor } from "../../tensor.ts";
import { createWasmRuntime } from "./backend.ts";
import { WasmRunner } from "./engine-runner.ts";
import type { WasmRuntime } from "./runtime.ts";

let runtime: WasmRuntime;
let runner: WasmRunner;
beforeAll(async () => {
  runtime = await createWasmRuntime("test", { threads: 0, maxBytes: 2 ** 24 });
  runner = new WasmRunner(runtime);
});
afterAll(() => runner.dispose());

const [Tq, Tk, H, Hk, D, Dv] = [1, 300, 6, 2, 8, 5];

function requestOf(salt: number) {
  return {
    q: values([Tq, H, D], salt),
    k: values([Tk, Hk, D], salt + 1),
    v: values([Tk, Hk, Dv], salt + 2),
    mask,
    queryPositions: Int32Array.of(Tk - 1),
    keyPositions: Int32Array.from({ length: Tk }, (_, slot) => slot),
  } satisfies AttentionRequest;
}

const mask = causal();

function plan(request: AttentionRequest): AttentionPlan {
  const { capabilities, workers } = runner;
  return planAttention(request, { capabilities, workers, tile: runner.tile(request) });
}

async function check(made: AttentionPlan, request: AttentionRequest): Promise<void> {
  const { out, lse, maxLogits } = await runner.run(made, request);
  const want = referenceAttention(request);
  expect(out.shape).toEqual(want.out.shape);
  expectClose(out.data, want.out.data, F32_STORED);
  expectClose(lse.data, want.lse.data, F32_STORED);
  expectClose(maxLogits.data, want.maxLogits.data, F32_STORED);
}

const messageOf = (promise: Promise<unknown>): Promise<string> => promise.then(String, String);

it("a plan that has run is neither checked nor placed again", async () => {
  const request = requestOf(1);
  const inEngine = (t: typeof request.q): typeof request.q => {
    const data = runtime.memory.view("f32", runtime.memory.take(t.data.byteLength).address, t.data.length);
    data.set(t.data);
    return { ...t, data };
  };
  const resident = { ...request, k: inEngine(request.k), v: inEngine(request.v) };
  const made = plan(resident);
  await check(made, resident);
  const take = vi.spyOn(runtime.memory, "take");
  const hash = vi.spyOn(Mask.prototype, "hash");
  await check(made, { ...resident, q: values([Tq, H, D], 9) });
  const bytes = take.mock.calls.reduce((sum, [size]) => sum + size, 0);
  expect([hash.mock.calls.length, bytes]).toEqual([0, 84]); // one record of a program and its count
  take.mockRestore();
  hash.mockRestore();
});

it("numbers, scale and sinks may differ from run to run", async () => {
  const made = plan({ ...requestOf(1), softcap: 3, sinks: new Float32Array(H) });
  for (const salt of [4, 5, 6]) {
    const sinks = Array.from({ length: H }, (_, h) => Math.sin(h + salt));
    await check(made, { ...requestOf(salt), softcap: 3, sinks, scale: salt / 10 });
  }
});

it("runs that overlap have room of their own", async () => {
  const made = plan(requestOf(1));
  await Promise.all([1, 2, 3, 4, 5].map((salt) => check(made, requestOf(salt))));
});

it("requests that have changed are refused as at the first run", async () => {
  const request = requestOf(1);
  const made = plan(request);
  await check(made, request);
  const other =
    "ConfigError: run: the plan was made for other positions, segments, tables or selection. Make a new plan.";
  const moved = { ...request, keyPositions: request.keyPositions.map((position) => position + 1) };
  expect(await messageOf(runner.run(made, moved))).toBe(other);
  expect(await messageOf(runner.run(made, { ...request, mask: prefix(3) }))).toContain("made for another mask");
  expect(await messageOf(runner.run(made, { ...request, softcap: 2 }))).toContain("made for features");
  expect(await messageOf(runner.run(made, { ...request, sinks: [1] }))).toContain("one entry per query head");
  const shorter = { ...request, k: values([Tk - 1, Hk, D], 1), v: values([Tk - 1, Hk, Dv], 2) };
  expect(await messageOf(runner.run(made, shorter))).toContain("keyPositions must have 299 entries");
  request.queryPositions[0]--;
  expect(await messageOf(runner.run(made, request))).toBe(other);
  request.queryPositions[0]++;
  await check(made, { ...request, keyPositions: request.keyPositions.slice() });
});

it("sinks, scale and numbers that do not fit are refused after a run that did", async () => {
  const request = { ...requestOf(1), sinks: new Float32Array(H) };
  const made = plan(request);
  await check(made, request);
  expect(await messageOf(runner.run(made, { ...request, sinks: new Float32Array(H).fill(Infinity) }))).toContain(
    "sinks must be numbers below Infinity",
  );
  expect(await messageOf(runner.run(made, { ...request, scale: NaN }))).toContain("scale must be a finite number");
  const cut = { ...request.q, data: request.q.data.subarray(1) };
  expect(await messageOf(runner.run(made, { ...request, q: cut }))).toContain("the data of q must have the size");
});

it("views may lie in other pages, and be quantised with other scales", async () => {
  const [P, pages] = [16, 20];
  const viewOf = (salt: number): PagedKv => ({
    layout: "paged",
    keys: quantizeKv(values([pages, P, Hk, D], salt), { bits: 8 }),
    values: quantizeKv(values([pages, P, Hk, Dv], salt + 1), { bits: 4 }),
    pageTable: tensor(
      "i32",
      [1, 19],
      Int32Array.from({ length: 19 }, (_, n) => (n * 7 + salt) % pages),
    ),
    positions: Int32Array.from({ length: Tk }, (_, slot) => slot),
    segments: new Int32Array(Tk),
  });
  const request = (salt: number): AttentionRequest => ({
    q: values([Tq, H, D], salt),
    kv: viewOf(salt),
    mask,
    queryPositions: Int32Array.of(Tk - 1),
  });
  const first = request(1);
  const made = plan(first);
  await check(made, first);
  for (const salt of [2, 3, 3, 1]) await check(made, request(salt));
});

it("memory of plans is bounded: the oldest gives way", async () => {
  const requests = Array.from({ length: 12 }, (_, n) => ({ ...requestOf(n), mask: prefix(n + 5) }));
  const plans = requests.map(plan);
  for (let n = 0; n < 9; n++) await check(plans[n], requests[n]);
  const { usedBytes } = runner;
  for (let n = 9; n < 12; n++) await check(plans[n], requests[n]);
  expect(runner.usedBytes).toBe(usedBytes);
  await check(plans[0], requests[0]);
  await Promise.all(plans.map((made, n) => check(made, requests[n])));
  expect(runner.usedBytes).toBe(usedBytes);
});
