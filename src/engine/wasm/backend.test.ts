import { describe, expect, it } from "vitest";
import { f32 } from "../../tensor.ts";
import { createWasmBackend } from "./backend.ts";

describe("the WASM backend", () => {
  it("refuses results outside its memory", async () => {
    const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 24 });
    const x = f32([1, 2], [1, 2]);
    expect(() => backend.add(x, x, x)).toThrow(
      "WasmBackend: results must go to tensors of this backend; got shape=[1,2]. Make them with allocate.",
    );
  });

  it("refuses a memory that is too small before anything is loaded into it", async () => {
    const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 17 });
    expect(() => backend.allocate([1000, 1000])).toThrow("createEngine: the engine's memory cannot hold another block");
  });

  it.each([
    [{ threads: -1 }, "createWasmBackend: threads must be an integer from 0 to 256; got threads=-1."],
    [{ maxBytes: 2 ** 33 }, "createWasmBackend: maxBytes must be from 1 to 4294967296; got maxBytes=8589934592."],
    [
      { threads: 2, features: { sharedMemory: false } },
      "createWasmBackend: memory that threads can share; got threads=2, sharedMemory=false. Serve the page with COOP and COEP headers, or pass threads: 0.",
    ],
    [
      { features: { simd: false } },
      "createWasmBackend: a runtime with 128-bit WebAssembly SIMD; got simd=false. Use the reference backend, or a newer runtime.",
    ],
  ])("refuses %j", async (options, message) => {
    await expect(createWasmBackend(options)).rejects.toThrow(message);
  });

  it("is pending from the first operation to the end of its flush, and gives memory back when idle", async () => {
    const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 24 });
    const used = backend.usedBytes;
    const x = backend.allocate([1000]);
    expect(backend.pending).toBe(false);
    backend.add(x, x, x);
    expect(backend.pending).toBe(true);
    await backend.flush();
    expect(backend.pending).toBe(false);
    const scratch = backend.usedBytes - used - 4032; // 1000 floats in whole cache lines
    backend.release(x);
    await backend.flush();
    expect(backend.usedBytes).toBe(used + scratch);
  });

  it("cannot be used after it has been disposed", async () => {
    const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 24 });
    const x = backend.allocate([3]);
    backend.dispose();
    backend.add(x, x, x);
    await expect(backend.flush()).rejects.toThrow("engine: an engine that has not been disposed.");
  });
});
