import { afterEach, expect, test } from "vitest";
import { INTERRUPTED, interruptible } from "./interrupt.ts";

afterEach(() => {
  process.exitCode = undefined;
});

test("Ctrl-C fires the signal, and others who listen see that it is handled", async () => {
  const before = process.listenerCount("SIGINT");
  let during = 0;
  const spinner = (): void => {
    during = process.listenerCount("SIGINT");
  };
  const result = await interruptible(async (signal) => {
    process.once("SIGINT", spinner);
    expect(signal.aborted).toBe(false);
    process.emit("SIGINT");
    return signal.aborted;
  });
  expect([result, process.exitCode]).toEqual([true, INTERRUPTED]);
  // The spinner's library ends the program by the signal when nobody else listens.
  expect(during).toBe(before + 1);
  expect(process.listenerCount("SIGINT")).toBe(before);
});
