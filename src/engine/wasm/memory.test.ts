import fc from "fast-check";
import { expect, it } from "vitest";
import { PAGE_BYTES, WasmMemory } from "./memory.ts";

it("blocks are zero, aligned, and counted", () => {
  const memory = new WasmMemory({ shared: true, maxBytes: 4 * PAGE_BYTES });
  const block = memory.take(100);
  expect(block.address % 64).toBe(0);
  expect(memory.usedBytes).toBe(128);
  memory.view("u8", block.address, 100).fill(7);
  memory.release(block);
  expect(memory.usedBytes).toBe(0);
  const again = memory.take(100);
  expect([...memory.view("u8", again.address, 100)]).toEqual(Array(100).fill(0));
});

it("a block beyond the limit is refused, and what was taken stays", () => {
  const memory = new WasmMemory({ shared: true, maxBytes: 2 * PAGE_BYTES });
  const block = memory.take(PAGE_BYTES);
  expect(() => memory.take(PAGE_BYTES)).toThrow(
    "createEngine: the engine's memory cannot hold another block; got bytes=65536, usedBytes=65536, maxBytes=131072. Release tensors or caches, raise maxBytes (at most 4 GiB), or choose a smaller cache budget.",
  );
  memory.release(block);
  expect(memory.take(PAGE_BYTES).address).toBe(block.address);
});

it("a view on shared memory outlives growth", () => {
  const memory = new WasmMemory({ shared: true, maxBytes: 64 * PAGE_BYTES });
  const view = memory.view("f32", memory.take(16).address, 4);
  memory.take(20 * PAGE_BYTES);
  view[0] = 5;
  expect(memory.view("f32", view.byteOffset, 4)[0]).toBe(5);
});

it("blocks never overlap, whatever the order of taking and giving back", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(3000)), { maxLength: 60 }), (steps) => {
      const memory = new WasmMemory({ shared: true, maxBytes: 16 * PAGE_BYTES });
      const taken: { address: number; bytes: number }[] = [];
      for (const [take, value] of steps) {
        if (take) {
          const block = memory.take(value);
          for (const other of taken) {
            const apart = block.address + block.bytes <= other.address || other.address + other.bytes <= block.address;
            expect(apart).toBe(true);
          }
          taken.push(block);
        } else if (taken.length > 0) {
          memory.release(taken.splice(value % taken.length, 1)[0]);
        }
        expect(memory.usedBytes).toBe(taken.reduce((sum, block) => sum + block.bytes, 0));
      }
      for (const block of taken) memory.release(block);
      expect(memory.take(8 * PAGE_BYTES).address).toBe(64); // everything was joined again
    }),
    { numRuns: 100 },
  );
});
