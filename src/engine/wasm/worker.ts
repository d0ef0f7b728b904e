/**
 * A worker thread: holds instances of the kernels and runs its share of every program.
 */

import { hasNodeThreads } from "./node-threads.ts";
import { type Kernel, runProgram } from "./program.ts";
import { createBarrier } from "./worker-barrier.ts";
import type { FromWorker, ToWorker } from "./worker-messages.ts";

/** The end of the channel in this thread: `parentPort` of Node's threads, the global scope of a web worker. */
type Port = {
  postMessage(message: FromWorker): void;
  listen(listener: (message: ToWorker) => void): void;
};

async function openPort(): Promise<Port> {
  if (hasNodeThreads()) {
    const { parentPort } = await import("node:worker_threads");
    return {
      postMessage: (message) => parentPort?.postMessage(message),
      listen: (listener) => void parentPort?.on("message", listener),
    };
  }
  const scope = globalThis as unknown as {
    postMessage: (message: FromWorker) => void;
    addEventListener: (type: "message", listener: (event: { data: ToWorker }) => void) => void;
  };
  return {
    postMessage: (message) => scope.postMessage(message),
    listen: (listener) => scope.addEventListener("message", ({ data }) => listener(data)),
  };
}

const port = await openPort();
const kernels: Kernel[] = [];
let memory: WebAssembly.Memory;
let worker = 0;
let workers = 1;
let barrier: () => void = () => {};

port.listen((message) => {
  try {
    switch (message.type) {
      case "start":
        ({ memory, worker, workers } = message);
        barrier = createBarrier(new Int32Array(memory.buffer, message.barrier, 2), workers);
        port.postMessage({ type: "ready" });
        return;
      case "module": {
        const { exports } = new WebAssembly.Instance(message.module, { env: { memory } });
        for (const name of message.names) kernels.push(exports[name] as Kernel);
        return;
      }
      case "run": {
        const { address, calls, scratch, alone } = message;
        const party = alone ? { worker: 0, workers: 1, barrier: () => {} } : { worker, workers, barrier };
        runProgram(kernels, memory, address, calls, { ...party, scratch });
        if (worker === 0) port.postMessage({ type: "done", ticket: message.ticket });
      }
    }
  } catch (error) {
    port.postMessage({
      type: "failed",
      message: error instanceof Error ? (error.stack ?? error.message) : String(error),
    });
  }
});
