/**
 * Kernels, memory and workers: programs are put together on the caller's thread and run on the workers', or, without
 * workers, on the caller's own.
 */

import { DeviceError } from "../../errors.ts";
import type { ModuleBuilder } from "./assembler/module.ts";
import type { WasmFeatures } from "./features.ts";
import { type Block, WasmMemory } from "./memory.ts";
import { type Argument, type Kernel, Program, programBytes, runProgram, type Split } from "./program.ts";
import type { FromWorker, ToWorker } from "./worker-messages.ts";
import { spawnWorker, type WorkerHandle } from "./worker-spawn.ts";

/** How a runtime is made. */
export type RuntimeOptions = {
  readonly features: WasmFeatures;
  /** Worker threads; 0 runs everything on the caller's thread. */
  readonly threads: number;
  readonly maxBytes?: number | undefined;
};

/** Numbers of a module's functions, by name. */
export type KernelNumbers = Readonly<Record<string, number>>;

/** A kernel module, the parts that a runtime needs to know. */
export type KernelModule = {
  /** Adds the functions. */
  readonly emit: (module: ModuleBuilder) => void;
  /** Scratch memory a call may use, in bytes. */
  readonly scratchBytes?: number;
};

/** Runs kernels. */
export class WasmRuntime {
  readonly memory: WasmMemory;
  readonly features: WasmFeatures;
  /** How many share the work of a call: the worker threads, or 1. */
  readonly workers: number;
  readonly #threads: WorkerHandle[];
  readonly #modules = new Map<string, KernelNumbers>();
  readonly #createModule: () => ModuleBuilder;
  /** Instances on this thread, when there are no worker threads. */
  readonly #kernels: Kernel[] = [];
  readonly #program = new Program();
  readonly #waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  #kernelCount = 0;
  #scratch: Block[] = [];
  #scratchBytes = 0;
  /** Blocks of the present program, and of those that run: inputs that are given back when it is done. */
  #inputs: Block[] = [];
  /** Where arrays from elsewhere have been copied for the present program. */
  readonly #placed = new Map<ArrayBufferView, number>();
  #programNumber = 0;
  #tickets = 0;
  #failure: Error | undefined;

  private constructor(
    options: RuntimeOptions,
    memory: WasmMemory,
    threads: WorkerHandle[],
    createModule: () => ModuleBuilder,
  ) {
    this.features = options.features;
    this.memory = memory;
    this.workers = Math.max(1, threads.length);
    this.#threads = threads;
    this.#createModule = createModule;
    for (const thread of threads) thread.listen((message) => this.#receive(message));
  }

  /**
   * Makes the memory and starts the workers.
   *
   * @param createModule - an empty module on the memory's limits
   * @throws DeviceError when a worker does not start
   */
  static async create(
    options: RuntimeOptions,
    createModule: (memory: WasmMemory) => ModuleBuilder,
  ): Promise<WasmRuntime> {
    const { features, threads: count, maxBytes } = options;
    const memory = new WasmMemory({ shared: features.sharedMemory, maxBytes });
    const threads: WorkerHandle[] = [];
    if (count > 0) {
      const barrier = memory.take(8).address;
      const starting = Array.from({ length: count }, async (_, worker) => {
        const thread = await spawnWorker();
        threads[worker] = thread;
        await thread.start({ type: "start", memory: memory.memory, worker, workers: count, barrier });
      });
      const started = await Promise.allSettled(starting);
      const failed = started.find((result) => result.status === "rejected");
      if (failed) {
        for (const thread of threads) thread?.terminate();
        throw new DeviceError("createEngine", "worker threads that start", { reason: String(failed.reason) });
      }
    }
    return new WasmRuntime(options, memory, threads, () => createModule(memory));
  }

  /**
   * The kernels of a module; made and compiled the first time its key is asked for.
   *
   * @param key - says what the module is specialised for; equal keys must mean equal modules
   */
  kernels(key: string, create: () => KernelModule): KernelNumbers {
    let numbers = this.#modules.get(key);
    if (numbers === undefined) {
      numbers = this.#add(create());
      this.#modules.set(key, numbers);
    }
    return numbers;
  }

  /** Adds a call to the present program. */
  issue(kernel: number, split: Split, ...args: readonly Argument[]): void {
    this.#program.call(kernel, split, args);
  }

  /** Takes memory that is given back when the present program has run. */
  takeInput(bytes: number): number {
    const block = this.memory.take(bytes);
    this.#inputs.push(block);
    return block.address;
  }

  /** Whether a program is being put together or runs. */
  get pending(): boolean {
    return this.#program.calls > 0 || this.#waiting.size > 0;
  }

  /** Gives a block back when the present program has run. */
  releaseLater(address: number): void {
    this.#inputs.push({ address, bytes: 0 });
  }

  /** Copies numbers into memory that is given back when the present program has run. */
  placeInput(values: ArrayBufferView): number {
    const address = this.takeInput(values.byteLength);
    this.memory
      .view("u8", address, values.byteLength)
      .set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return address;
  }

  /** The address of an array. One that lies elsewhere is copied for the present program, and only once. */
  locateInput(values: ArrayBufferView): number {
    let address = this.memory.addressOf(values) ?? this.#placed.get(values);
    if (address === undefined) {
      address = this.placeInput(values);
      this.#placed.set(values, address);
    }
    return address;
  }

  /** Differs from program to program: what was placed for one does not serve another. */
  get programNumber(): number {
    return this.#programNumber;
  }

  /**
   * Runs the present program.
   *
   * @throws DeviceError when a kernel or a worker fails; the runtime cannot be used afterwards
   */
  async flush(): Promise<void> {
    this.#placed.clear();
    this.#programNumber++;
    if (this.#failure) throw this.#failure;
    const { calls, words, shared } = this.#program;
    if (calls === 0) {
      // Programs that run may still use what was given back meanwhile; the next program takes it along then.
      if (this.#waiting.size === 0) for (const block of this.#inputs.splice(0)) this.memory.release(block);
      return;
    }
    const address = this.#prepareRun(calls, words);
    const inputs = this.#inputs;
    this.#inputs = [];
    try {
      if (this.#threads.length === 0) {
        const participant = { worker: 0, workers: 1, scratch: this.#scratch[0].address, barrier: () => {} };
        runProgram(this.#kernels, this.memory.memory, address, calls, participant);
      } else {
        await this.#runOnThreads(address, calls, shared ? this.#threads : this.#threads.slice(0, 1));
      }
    } finally {
      for (const block of inputs) this.memory.release(block);
    }
  }

  /** Stops the workers. */
  dispose(): void {
    this.#fail(new DeviceError("engine", "an engine that has not been disposed"));
  }

  #add({ emit, scratchBytes = 0 }: KernelModule): KernelNumbers {
    const builder = this.#createModule();
    emit(builder);
    const module = new WebAssembly.Module(builder.toBytes());
    const names = WebAssembly.Module.exports(module).map((one) => one.name);
    const numbers = Object.fromEntries(names.map((name, n) => [name, this.#kernelCount + n]));
    this.#kernelCount += names.length;
    this.#scratchBytes = Math.max(this.#scratchBytes, scratchBytes);
    if (this.#threads.length === 0) {
      const { exports } = new WebAssembly.Instance(module, { env: { memory: this.memory.memory } });
      for (const name of names) this.#kernels.push(exports[name] as Kernel);
    }
    for (const thread of this.#threads) thread.post({ type: "module", module, names });
    return numbers;
  }

  /** Writes the present program to memory and empties it, also when memory does not suffice. */
  #prepareRun(calls: number, words: Int32Array): number {
    try {
      const address = this.takeInput(programBytes(calls, this.workers));
      this.memory.view("i32", address, words.length).set(words);
      this.#prepareScratch();
      return address;
    } finally {
      this.#program.clear();
    }
  }

  #prepareScratch(): void {
    if (this.#scratch.length > 0 && this.#scratch[0].bytes >= this.#scratchBytes) return;
    const larger: Block[] = [];
    try {
      while (larger.length < this.workers) larger.push(this.memory.take(this.#scratchBytes));
    } catch (error) {
      for (const block of larger) this.memory.release(block);
      throw error;
    }
    this.#inputs.push(...this.#scratch); // programs that run before this one may still use it
    this.#scratch = larger;
  }

  #runOnThreads(address: number, calls: number, threads: readonly WorkerHandle[]): Promise<void> {
    const ticket = this.#tickets++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(ticket, { resolve, reject });
      this.#threads[0].hold(); // the process must not end while a result is awaited
      for (const [worker, thread] of threads.entries()) {
        const scratch = this.#scratch[worker].address;
        const message: ToWorker = { type: "run", ticket, address, calls, scratch, alone: threads.length === 1 };
        thread.post(message);
      }
    });
  }

  #receive(message: FromWorker): void {
    if (message.type === "failed") {
      this.#fail(new DeviceError("engine", "a kernel that runs", { reason: message.message }));
    } else if (message.type === "done") {
      const waiting = this.#waiting.get(message.ticket);
      this.#waiting.delete(message.ticket);
      this.#threads[0].letGo();
      waiting?.resolve();
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#failure);
    this.#waiting.clear();
    // The other workers wait for the failed one at a barrier, for ever.
    for (const thread of this.#threads) thread.terminate();
  }
}
