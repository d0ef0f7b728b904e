/**
 * Ctrl-C: the first one ends the work in hand, the second one the program.
 */

/** The exit code of a program that was interrupted: 128 + SIGINT. */
export const INTERRUPTED = 130;

/**
 * Runs work that Ctrl-C can end.
 *
 * @param work - gets a signal that fires at the first Ctrl-C; should end soon then, by itself or by throwing
 * @returns what the work returns; the exit code is set when it was interrupted
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = (): void => {
    if (controller.signal.aborted) process.exit(INTERRUPTED); // the cursor comes back on the way out
    process.exitCode = INTERRUPTED;
    controller.abort();
  };
  // Not `once`: whoever else listens (the spinner, for the cursor) must see that the signal is being handled.
  process.on("SIGINT", interrupt);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", interrupt);
  }
}
