/**
 * Which kind of threads there is: Node's, which Deno and Bun have too and which may let the process end while they wait,
 * or web workers. A thread and who started it must give the same answer.
 */

/** Whether `node:worker_threads` is there. */
export function hasNodeThreads(): boolean {
  const { process } = globalThis as { process?: { versions?: { node?: string } } };
  return process?.versions?.node !== undefined;
}
