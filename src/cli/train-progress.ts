/** How far a training run has come, in a line. */

import type { StepReport } from "../train/index.ts";

/** Seconds between two lines where lines follow each other. */
const LINE_SECONDS = 10;

/** What the progress line says. */
export class ProgressLine {
  heldOutLoss: number | undefined;
  readonly #steps: number;
  #last: StepReport | undefined;
  /** Means over the last steps, later ones counting more. */
  #seconds = 0;
  #tokens = 0;
  #loss = 0;

  /** @param steps - of the whole run */
  constructor(steps: number) {
    this.#steps = steps;
  }

  /** Takes a step in; returns the line. */
  step(report: StepReport): string {
    const share = this.#last === undefined ? 1 : 0.05;
    this.#seconds += share * (report.seconds - this.#seconds);
    this.#tokens += share * (report.tokens - this.#tokens);
    this.#loss += share * (report.loss - this.#loss);
    this.#last = report;
    return this.text();
  }

  /** The line. */
  text(): string {
    const step = this.#last?.step ?? 0;
    const heldOut = this.heldOutLoss === undefined ? "" : `, held out ${this.heldOutLoss.toFixed(3)}`;
    const speed = Math.round(this.#tokens / this.#seconds).toLocaleString("en-US");
    const left = formatDuration((this.#steps - step) * this.#seconds);
    return `step ${step} of ${this.#steps}, loss ${this.#loss.toFixed(3)}${heldOut}, ${speed} tokens/s, ${left} left`;
  }
}

/** A duration in its two largest units: "42 s", "3 min 20 s", "1 h 5 min". */
export function formatDuration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Lines that follow each other where nobody watches one change: the first one, then one now and then. */
export class PlainProgress {
  readonly #say: (line: string) => void;
  readonly #now: () => number;
  #last = -Infinity;

  /** @param now - seconds */
  constructor(say: (line: string) => void, now: () => number = () => performance.now() / 1000) {
    this.#say = say;
    this.#now = now;
  }

  /** Says a line unless the last one is fresh. */
  sometimes(line: string): void {
    if (this.#now() - this.#last >= LINE_SECONDS) this.always(line);
  }

  /** Says a line. */
  always(line: string): void {
    this.#last = this.#now();
    this.#say(line);
  }
}
