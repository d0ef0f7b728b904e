/** What a training run leaves to read: a line of JSON for every step and evaluation, and the losses as a picture. */

import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError } from "../errors.ts";
import { failed, writeAtomically } from "../train/files-on-disk.ts";
import { type EvaluationReport, type LossPoint, lossCurve, type StepReport } from "../train/index.ts";

/** A line; evaluations have `heldOutLoss`, steps `loss`. */
type Entry = { readonly step: number; readonly loss?: number; readonly heldOutLoss?: number };

/** The log of a run in its folder. */
export class TrainingLog {
  readonly #path: string;
  readonly #picture: string;
  #entries: Entry[];
  #begun = false;

  private constructor(folder: string, entries: Entry[]) {
    this.#path = join(folder, "training.jsonl");
    this.#picture = join(folder, "loss.svg");
    this.#entries = entries;
  }

  /**
   * The log of a folder, with what an earlier part of the run wrote.
   *
   * @throws ConfigError when the file there is not such a log
   */
  static async open(folder: string, resume: boolean): Promise<TrainingLog> {
    const log = new TrainingLog(folder, []);
    if (resume) log.#entries = await readEntries(log.#path);
    return log;
  }

  async step(report: StepReport): Promise<void> {
    const { step, loss, learningRate, gradientNorm, tokens, seconds, totalTokens, totalSeconds } = report;
    const { largestScore, clippedHeads } = report;
    await this.#add({
      step,
      loss,
      ...{ learningRate: rounded(learningRate), gradientNorm: rounded(gradientNorm), tokens, totalTokens },
      ...{ seconds: rounded(seconds), totalSeconds: rounded(totalSeconds) },
      ...(largestScore !== undefined && { largestScore: rounded(largestScore) }),
      ...(clippedHeads !== undefined && { clippedHeads }),
    });
  }

  async evaluation({ step, loss, measures }: EvaluationReport): Promise<void> {
    await this.#add({ step, heldOutLoss: loss, ...measures });
    await this.draw();
  }

  /** Draws the losses so far. */
  async draw(): Promise<void> {
    const training: LossPoint[] = [];
    const heldOut: LossPoint[] = [];
    for (const { step, loss, heldOutLoss } of this.#entries) {
      if (loss !== undefined) training.push({ step, loss });
      if (heldOutLoss !== undefined) heldOut.push({ step, loss: heldOutLoss });
    }
    if (training.length === 0) return;
    const svg = lossCurve(training, heldOut, "Loss of the run");
    await writeAtomically(this.#picture, new TextEncoder().encode(svg));
  }

  async #add(entry: Entry): Promise<void> {
    if (!this.#begun) {
      // Steps after the checkpoint are done again.
      this.#entries = this.#entries.filter(({ step }) => step < entry.step);
      const lines = this.#entries.map((one) => `${JSON.stringify(one)}\n`).join("");
      await writeAtomically(this.#path, new TextEncoder().encode(lines));
      this.#begun = true;
    }
    this.#entries.push(entry);
    await appendFile(this.#path, `${JSON.stringify(entry)}\n`).catch((error) => {
      throw failed(this.#path, error);
    });
  }
}

async function readEntries(path: string): Promise<Entry[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    return []; // a run without its log goes on all the same
  }
  const whole = text.slice(0, text.lastIndexOf("\n") + 1); // the last line may have been cut off by a crash
  return whole
    .split("\n")
    .filter(Boolean)
    .map((line, n) => {
      try {
        const entry = JSON.parse(line);
        if (Number.isSafeInteger(entry?.step)) return entry;
      } catch {}
      throw new ConfigError(path, "a log of phasor train", { line: n + 1 }, "Take the file away to begin a new one.");
    });
}

function rounded(value: number): number {
  return Number(value.toPrecision(6));
}
