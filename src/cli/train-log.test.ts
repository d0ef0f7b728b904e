import { appendFile, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { StepReport } from "../train/index.ts";
import { TrainingLog } from "./train-log.ts";
import { formatDuration, PlainProgress, ProgressLine } from "./train-progress.ts";

function report(step: number, changes: Partial<StepReport> = {}): StepReport {
  const fixed = { learningRate: 0.001, gradientNorm: 1.25, tokens: 100, seconds: 0.5, computeSeconds: 0.4 };
  return { step, loss: 4 / step, ...fixed, totalTokens: 100 * step, totalSeconds: 0.5 * step, ...changes };
}

test("a resumed run's log has every step once, also after a line was cut off", async () => {
  const folder = await mkdtemp(join(tmpdir(), "phasor-log-"));
  try {
    const first = await TrainingLog.open(folder, false);
    for (const step of [1, 2, 3]) await first.step(report(step));
    await first.evaluation({ step: 3, loss: 2, measures: { exact: 0.5 } });
    await appendFile(join(folder, "training.jsonl"), '{"step":4,"lo');

    const second = await TrainingLog.open(folder, true);
    for (const step of [3, 4]) await second.step(report(step, { loss: 1, largestScore: 7.1234567, clippedHeads: 2 }));
    await second.evaluation({ step: 4, loss: 1.5, measures: {} });

    const lines = (await readFile(join(folder, "training.jsonl"), "utf8")).trim().split("\n");
    const entries = lines.map((line) => JSON.parse(line));
    expect(entries.map(({ step, loss, heldOutLoss }) => [step, loss, heldOutLoss])).toEqual([
      [1, 4, undefined],
      [2, 2, undefined],
      [3, 1, undefined],
      [4, 1, undefined],
      [4, undefined, 1.5],
    ]);
    expect(entries[0]).toEqual({
      ...{ step: 1, loss: 4, learningRate: 0.001, gradientNorm: 1.25, tokens: 100, totalTokens: 100 },
      ...{ seconds: 0.5, totalSeconds: 0.5 },
    });
    expect(entries[2]).toMatchObject({ largestScore: 7.12346, clippedHeads: 2 });
    expect(await readFile(join(folder, "loss.svg"), "utf8")).toContain("held out");

    await appendFile(join(folder, "training.jsonl"), "not a log\n");
    await expect(TrainingLog.open(folder, true)).rejects.toThrow(
      /training\.jsonl: a log of phasor train; got line=6\. Take the file away to begin a new one\.$/,
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("the progress line tells loss, speed and the time left", () => {
  const line = new ProgressLine(100);
  expect(line.step(report(10, { tokens: 3000, seconds: 2, loss: 2 }))).toBe(
    "step 10 of 100, loss 2.000, 1,500 tokens/s, 3 min 0 s left",
  );
  line.heldOutLoss = 1.5;
  expect(line.step(report(20, { tokens: 3000, seconds: 2, loss: 1 }))).toBe(
    "step 20 of 100, loss 1.950, held out 1.500, 1,500 tokens/s, 2 min 40 s left",
  );
});

test("plain progress says the first line, then one every ten seconds", () => {
  let seconds = 100;
  const said: string[] = [];
  const plain = new PlainProgress(
    (line) => void said.push(line),
    () => seconds,
  );
  for (const [time, line] of [
    [100, "a"],
    [109.9, "b"],
    [110, "c"],
    [119, "d"],
  ] as const) {
    seconds = time;
    plain.sometimes(line);
  }
  plain.always("e");
  seconds = 128;
  plain.sometimes("f");
  expect(said).toEqual(["a", "c", "e"]);
});

test.each([
  [0.4, "0 s"],
  [59.4, "59 s"],
  [59.6, "1 min 0 s"],
  [3599, "59 min 59 s"],
  [3900, "1 h 5 min"],
])("%d seconds are %s", (seconds, text) => {
  expect(formatDuration(seconds)).toBe(text);
});
