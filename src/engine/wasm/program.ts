/**
 * A program: kernel calls as numbers in memory, so that workers can run it without a message for each.
 *
 * Each call is a record of 20 words: function, items, grain, argument count, argument kinds (two bits each), then the
 * arguments. Items are dealt out to workers in equal runs of whole grains; grain 0 leaves all to the first worker. With a
 * negative grain the number of items is in its place a quarter of the address of i32 [workers + 1], which says where each
 * worker's run of items starts.
 *
 * Between calls all workers wait for each other, but not between two that the first worker runs alone: a small model's
 * calls take less time than a meeting of threads.
 */

/** Words of a record. */
export const RECORD_WORDS = 20;
const FIRST_ARGUMENT = 5;
/** The most arguments a kernel may take. */
const MAX_ARGUMENTS = RECORD_WORDS - FIRST_ARGUMENT;

/** What a worker itself knows. */
const LOCAL_NAMES = ["from", "to", "scratch"] as const;

/** First item of the worker, end of its items, or its scratch memory. */
export type LocalName = (typeof LOCAL_NAMES)[number];

/** An argument: an integer (or address), a float, or what is the worker's own. */
export type Argument = number | { readonly float: number } | LocalName;

const INTEGER = 0;
const FLOAT = 1;
const LOCAL = 2;

/** Calls of fewer operations than this are not worth a second thread (a meeting takes about two microseconds). */
const ALONE_BELOW = 100_000;

/** Grains of calls whose runs start where pointers say: each worker's own, or open to the others. */
const OWN_RUNS = -1;
const OPEN_RUNS = -2;
/** An open run is taken in this many parts. */
const PARTS = 16;

/** How the items of a call are dealt out. */
export type Split = {
  readonly items: number;
  /** Items that stay together; 1 when absent. */
  readonly grain?: number;
  /** Address of i32 [workers + 1], where each worker's run of items starts; equal runs when absent. */
  readonly workerPointers?: number;
  /** Whether workers may take items from each other's runs, because no result depends on who works on an item. */
  readonly open?: boolean;
  /** About how many arithmetic operations the call takes; many when absent. */
  readonly operations?: number;
};

/** One item: the first worker runs the call, the others wait. */
export const UNDIVIDED: Split = { items: 1, operations: 0 };

/** Calls in the order they are to run. */
export class Program {
  #words = new Int32Array(64 * RECORD_WORDS);
  #floats = new Float32Array(this.#words.buffer);
  #length = 0;
  #shared = false;

  /** Whether several workers have work in it. */
  get shared(): boolean {
    return this.#shared;
  }

  /** Number of calls. */
  get calls(): number {
    return this.#length / RECORD_WORDS;
  }

  /** The records. */
  get words(): Int32Array {
    return this.#words.subarray(0, this.#length);
  }

  /** Adds a call of the function with this number. */
  call(functionIndex: number, split: Split, args: readonly Argument[]): void {
    if (args.length > MAX_ARGUMENTS) throw new Error(`program: at most ${MAX_ARGUMENTS} arguments; got ${args.length}`);
    if (this.#length === this.#words.length) this.#grow();
    const start = this.#length;
    this.#length += RECORD_WORDS;
    let kinds = 0;
    for (const [n, arg] of args.entries()) {
      const at = start + FIRST_ARGUMENT + n;
      if (typeof arg === "number") {
        this.#words[at] = arg;
      } else if (typeof arg === "string") {
        this.#words[at] = LOCAL_NAMES.indexOf(arg);
        kinds |= LOCAL << (2 * n);
      } else {
        this.#floats[at] = arg.float;
        kinds |= FLOAT << (2 * n);
      }
    }
    this.#words.set([functionIndex, ...this.#deal(split), args.length, kinds], start);
  }

  /** Forgets all calls. */
  clear(): void {
    this.#length = 0;
    this.#shared = false;
  }

  /** Items, or a quarter of the address of pointers, and grain of a record. */
  #deal({ items, grain = 1, workerPointers, open = false, operations = Infinity }: Split): [number, number] {
    if (operations < ALONE_BELOW) return [items, 0];
    this.#shared = true;
    return workerPointers === undefined ? [items, grain] : [workerPointers / 4, open ? OPEN_RUNS : OWN_RUNS];
  }

  #grow(): void {
    const larger = new Int32Array(2 * this.#words.length);
    larger.set(this.#words);
    this.#words = larger;
    this.#floats = new Float32Array(larger.buffer);
  }
}

/** An exported kernel. */
export type Kernel = (...args: number[]) => void;

/** Who runs a program: one of several workers, or the only one. */
export type Participant = {
  /** 0 to workers − 1. */
  readonly worker: number;
  readonly workers: number;
  /** Address of the worker's scratch memory. */
  readonly scratch: number;
  /** Returns when every worker has come here. */
  readonly barrier: () => void;
};

/** Bytes of a program in memory: its records, and the counts of open runs. */
export function programBytes(calls: number, workers: number): number {
  return calls * (RECORD_WORDS + workers) * 4;
}

/**
 * Runs a participant's share of a program. Calls allocate nothing.
 *
 * @param memory - the engine's memory
 * @param address - first record
 * @param calls - number of records
 */
export function runProgram(
  kernels: readonly Kernel[],
  memory: WebAssembly.Memory,
  address: number,
  calls: number,
  { worker, workers, scratch, barrier }: Participant,
): void {
  const words = new Int32Array(memory.buffer);
  const floats = new Float32Array(memory.buffer);
  const local = [0, 0, scratch]; // in the order of LOCAL_NAMES
  const run = (at: number): void => {
    const count = words[at + 3];
    const kinds = words[at + 4];
    const args = ARGUMENTS[count];
    for (let n = 0; n < count; n++) {
      const kind = (kinds >> (2 * n)) & 3;
      const word = at + FIRST_ARGUMENT + n;
      args[n] = kind === INTEGER ? words[word] : kind === FLOAT ? floats[word] : local[words[word]];
    }
    kernels[words[at]].apply(undefined, args);
  };
  for (let call = 0; call < calls; call++) {
    const at = address / 4 + call * RECORD_WORDS;
    const items = words[at + 1];
    const grain = words[at + 2];
    if (grain === OPEN_RUNS && workers > 1) {
      const taken = address / 4 + calls * RECORD_WORDS + call * workers;
      for (let n = 0; n < workers; n++) {
        const owner = (worker + n) % workers; // its own run first
        const first = words[items + owner];
        const end = words[items + owner + 1];
        const part = Math.max(1, Math.floor((end - first) / PARTS));
        for (;;) {
          local[0] = first + Atomics.add(words, taken + owner, part);
          if (local[0] >= end) break;
          local[1] = Math.min(end, local[0] + part);
          run(at);
        }
      }
    } else {
      if (grain < 0) {
        local[0] = words[items + worker];
        local[1] = words[items + worker + 1];
      } else {
        const share = grain === 0 ? items : Math.ceil(items / grain / workers) * grain;
        local[0] = Math.min(items, worker * share);
        local[1] = Math.min(items, local[0] + share);
      }
      if (local[0] < local[1]) run(at);
    }
    const nextIsAlone = call + 1 < calls && words[at + RECORD_WORDS + 2] === 0;
    if (grain !== 0 || !nextIsAlone) barrier(); // the last call always ends with one: records may be overwritten then
  }
}

/** Argument lists of every length, reused by every call. */
const ARGUMENTS: readonly number[][] = Array.from({ length: MAX_ARGUMENTS + 1 }, (_, n) => Array<number>(n).fill(0));
