/** What holds of a backend as a whole: growth, determinism, a free caller, an end. */

import { createWasmBackend } from "../../dist/engine/index.js";
import { attendOn, SPLIT_CALL } from "./attention-checks.mjs";
import { expectSame, expectSameBits, randomNumbers } from "./numbers.mjs";

/** y = W x, large enough for several threads. */
async function linearOn(backend, tokens, width) {
  const x = backend.allocate([tokens, width]);
  x.data.set(randomNumbers(x.data.length, 1));
  const y = backend.allocate([tokens, width]);
  const weight = backend.matrix({ dtype: "f32", shape: [width, width], data: randomNumbers(width * width, 2) });
  backend.linear(y, x, weight);
  await backend.flush();
  const copy = y.data.slice();
  for (const t of [x, y, weight]) backend.release(t);
  return copy;
}

/** [name, check(backend, { options })]; `options` are those the backend was made with. */
export const ENGINE_CHECKS = [
  [
    "memory that grows after the workers have started is seen by all",
    async (backend) => {
      const before = await linearOn(backend, 37, 131);
      const large = backend.allocate([2 ** 22]); // 16 MiB, so that the next blocks lie in new pages
      large.data[2 ** 22 - 1] = 1;
      const after = await linearOn(backend, 37, 131);
      expectSame("what lies in the grown memory", large.data[2 ** 22 - 1], 1);
      backend.release(large);
      expectSameBits("linear", after, before);
    },
  ],
  [
    "the same thread count gives the same bits",
    async (backend, { options }) => {
      const other = await createWasmBackend(options);
      try {
        for (const run of [(b) => attendOn(b, SPLIT_CALL), (b) => linearOn(b, 37, 131), (b) => linearOn(b, 1, 515)]) {
          const first = await run(backend);
          expectSameBits("again", await run(backend), first);
          expectSameBits("another backend", await run(other), first);
        }
      } finally {
        other.dispose();
      }
    },
  ],
  [
    "a kernel's memory is given back",
    async (backend) => {
      await linearOn(backend, 5, 67);
      await backend.flush();
      const before = backend.usedBytes;
      for (let n = 0; n < 5; n++) await linearOn(backend, 5, 67);
      await backend.flush();
      if (backend.usedBytes > before) throw new Error(`${backend.usedBytes} bytes after, ${before} before`);
    },
  ],
  [
    "the caller's event loop turns while workers compute",
    async (backend, { options }) => {
      if (options.threads === 0) return; // the caller's own thread computes
      const size = 1024;
      const [x, y] = [backend.allocate([size, size]), backend.allocate([size, size])];
      const weight = backend.matrix({ dtype: "f32", shape: [size, size], data: new Float32Array(size * size) });
      for (let n = 0; n < 4; n++) backend.linear(n % 2 ? x : y, n % 2 ? y : x, weight);
      let turns = 0;
      // Timers, which let other events through: in Deno a port that answers itself keeps all other messages waiting.
      const timer = setInterval(() => turns++, 0);
      await backend.flush();
      clearInterval(timer);
      for (const t of [x, y, weight]) backend.release(t);
      if (turns < 5) throw new Error(`it turned ${turns} times`);
    },
  ],
  [
    "a disposed backend refuses to run, and one that runs is told",
    async (_, { options }) => {
      const backend = await createWasmBackend(options);
      const x = backend.allocate([4]);
      backend.dispose();
      backend.dispose();
      backend.add(x, x, x);
      const message = await backend.flush().then(
        () => "it ran",
        (error) => error.message,
      );
      expectSame("message", message, "engine: an engine that has not been disposed.");
    },
  ],
];
