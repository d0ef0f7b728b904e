import { describe, expect, it } from "vitest";
import { Program, RECORD_WORDS, runProgram, type Split } from "./program.ts";

/** Runs one call on each worker and lists the items each got, and how often each came to the barrier. */
function deal(splits: readonly Split[], workers: number, pointers: readonly number[] = []) {
  const program = new Program();
  for (const split of splits) program.call(0, split, ["from", "to", "scratch", { float: 0.5 }, -7]);
  const memory = new WebAssembly.Memory({ initial: 1 });
  const words = new Int32Array(memory.buffer);
  words.set(pointers, 8);
  words.set(program.words, 64);
  return Array.from({ length: workers }, (_, worker) => {
    const seen: number[][] = [];
    let barriers = 0;
    const kernel = (...args: number[]): void => void seen.push(args);
    const barrier = (): void => void barriers++;
    runProgram([kernel], memory, 256, program.calls, { worker, workers, scratch: 1000 + worker, barrier });
    return { seen, barriers };
  });
}

describe("items of a call", () => {
  it("go to workers in equal runs of whole grains", () => {
    const ranges = deal([{ items: 100, grain: 16 }], 3).map(({ seen }) => seen.map((args) => args.slice(0, 2)));
    expect(ranges).toEqual([[[0, 48]], [[48, 96]], [[96, 100]]]);
  });

  it("go where the pointers say, and a worker without any is not called", () => {
    const split = { items: 9, workerPointers: 32 };
    const ranges = deal([split], 3, [0, 4, 4, 9]).map(({ seen }) => seen.map((args) => args.slice(0, 2)));
    expect(ranges).toEqual([[[0, 4]], [], [[4, 9]]]);
  });

  it("of open runs are taken once each, a worker's own first", () => {
    const split = { items: 70, workerPointers: 32, open: true };
    const program = new Program();
    program.call(0, split, ["from", "to"]);
    const memory = new WebAssembly.Memory({ initial: 1 });
    const words = new Int32Array(memory.buffer);
    words.set([0, 33, 33, 70], 8);
    words.set(program.words, 64);
    const seen: number[][] = [[], [], []];
    const kernelOf = (worker: number, onCall: () => void) => (from: number, to: number) => {
      for (let item = from; item < to; item++) seen[worker].push(item);
      onCall();
    };
    const run = (worker: number, onCall: () => void): void =>
      runProgram([kernelOf(worker, onCall)], memory, 256, 1, { worker, workers: 3, scratch: 0, barrier: () => {} });
    // While the first worker is in its third part, the last one does all that is left.
    let parts = 0;
    run(0, () => {
      if (++parts === 3) run(2, () => {});
    });
    run(1, () => {});
    expect(seen[0]).toEqual([0, 1, 2, 3, 4, 5]);
    expect(seen[1]).toEqual([]);
    expect(seen[2].slice(0, 37)).toEqual(Array.from({ length: 37 }, (_, n) => 33 + n));
    expect(seen[2].slice(37)).toEqual(Array.from({ length: 27 }, (_, n) => 6 + n));
  });

  it("all go to the first worker when the call is small", () => {
    const ranges = deal([{ items: 100, operations: 10 }], 2).map(({ seen }) => seen.map((args) => args.slice(0, 2)));
    expect(ranges).toEqual([[[0, 100]], []]);
  });
});

it("a kernel gets its worker's scratch, floats as floats and negative integers as they are", () => {
  const [first, second] = deal([{ items: 4 }], 2);
  expect(first.seen[0].slice(2)).toEqual([1000, 0.5, -7]);
  expect(second.seen[0].slice(2)).toEqual([1001, 0.5, -7]);
});

it("workers meet after every call but those that the first runs alone before another such", () => {
  const small = { items: 1, operations: 1 };
  const large = { items: 8 };
  const meetings = (...splits: Split[]): number[] => deal(splits, 2).map(({ barriers }) => barriers);
  expect(meetings(large, large)).toEqual([2, 2]);
  expect(meetings(small, small, small)).toEqual([1, 1]);
  expect(meetings(small, small, large, small, large)).toEqual([4, 4]);
});

it("a program grows past its first room", () => {
  const program = new Program();
  for (let n = 0; n < 200; n++) program.call(n, { items: 1 }, [n]);
  expect(program.calls).toBe(200);
  expect(program.words[199 * RECORD_WORDS]).toBe(199);
  program.clear();
  expect(program.calls).toBe(0);
});
