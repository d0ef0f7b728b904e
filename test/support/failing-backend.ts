/** A backend that fails when told to, for tests of what remains afterwards. */

import type { Backend } from "../../src/engine/index.ts";

/** A backend, and when it fails. */
export type FailingBackend = {
  readonly backend: Backend;
  /** Operations so far. */
  readonly operations: number;
  /** Lets the operation throw that comes after so many others; it is the only one to. */
  failAfter(operations: number): void;
};

/** Wraps a backend whose operations, all but giving memory back, may be made to throw once. */
export function failingBackend(inner: Backend): FailingBackend {
  let operations = 0;
  let failing = Infinity;
  const backend = new Proxy(inner, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...values: unknown[]) => {
        if (name === "release" || name === "dispose") return value.apply(target, values);
        if (operations++ === failing) throw new Error(`broken: ${String(name)}`);
        return value.apply(target, values);
      };
    },
  });
  return {
    backend,
    get operations() {
      return operations;
    },
    failAfter(count) {
      failing = operations + count;
    },
  };
}
