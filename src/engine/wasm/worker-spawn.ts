/**
 * Worker threads, the same way wherever there are threads.
 */

import { hasNodeThreads } from "./node-threads.ts";
import type { FromWorker, ToWorker } from "./worker-messages.ts";

/** A running worker thread. */
export type WorkerHandle = {
  post(message: ToWorker): void;
  /** Sends the first message and resolves when the worker says it is ready. */
  start(message: ToWorker): Promise<void>;
  /** Everything the worker says, and `failed` when it dies. */
  listen(listener: (message: FromWorker) => void): void;
  /** Keeps the process alive until `letGo` has been called as often. */
  hold(): void;
  letGo(): void;
  terminate(): void;
};

/** What the two kinds of workers have in common. */
type AnyWorker = {
  postMessage(message: ToWorker): void;
  terminate(): unknown;
  ref?(): void;
  unref?(): void;
};

/** Starts a thread that runs worker.ts. */
export async function spawnWorker(): Promise<WorkerHandle> {
  const listeners: ((message: FromWorker) => void)[] = [];
  const tell = (message: FromWorker): void => {
    for (const listener of [...listeners]) listener(message);
  };
  let worker: AnyWorker;
  if (hasNodeThreads()) {
    const { Worker } = await import("node:worker_threads");
    // Without the process's own flags: some of them (--input-type, --import) are not meant for workers.
    const thread = new Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
    thread.on("message", tell);
    thread.on("error", (error) => tell({ type: "failed", message: error.message }));
    worker = thread;
  } else {
    const thread = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    thread.onmessage = (event) => tell(event.data);
    thread.onerror = (event) => tell({ type: "failed", message: event.message ?? "its script does not load" });
    worker = thread as AnyWorker;
  }
  let held = 0;
  return {
    post: (message) => worker.postMessage(message),
    start: (message) =>
      new Promise((resolve, reject) => {
        const first = (answer: FromWorker): void => {
          listeners.splice(listeners.indexOf(first), 1);
          if (answer.type === "failed") reject(new Error(answer.message));
          else {
            if (held === 0) worker.unref?.();
            resolve();
          }
        };
        listeners.push(first);
        worker.postMessage(message);
      }),
    listen: (listener) => void listeners.push(listener),
    hold: () => {
      if (held++ === 0) worker.ref?.();
    },
    letGo: () => {
      if (--held === 0) worker.unref?.();
    },
    terminate: () => void worker.terminate(),
  };
}
