/**
 * A turn of the event loop.
 */

/**
 * Waits for the next task, so that timers, input and signals are served between steps whose promises settle at once.
 * `setTimeout` would do, but waits at least 1 ms in Node and 4 ms in browsers.
 */
export function nextTask(): Promise<void> {
  if (typeof setImmediate === "function") return new Promise((resolve) => void setImmediate(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
