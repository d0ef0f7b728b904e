/** What the engine and its workers tell each other. */

/** To a worker. */
export type ToWorker =
  | {
      readonly type: "start";
      readonly memory: WebAssembly.Memory;
      readonly worker: number;
      readonly workers: number;
      /** Address of the barrier's two words. */
      readonly barrier: number;
    }
  /** Kernels to add, in this order, after those there are. */
  | { readonly type: "module"; readonly module: WebAssembly.Module; readonly names: readonly string[] }
  /** A program to run a share of. */
  | {
      readonly type: "run";
      readonly ticket: number;
      readonly address: number;
      readonly calls: number;
      readonly scratch: number;
      /** Whether no other worker runs it. */
      readonly alone: boolean;
    };

/** From a worker. */
export type FromWorker =
  | { readonly type: "ready" }
  | { readonly type: "done"; readonly ticket: number }
  | { readonly type: "failed"; readonly message: string };
