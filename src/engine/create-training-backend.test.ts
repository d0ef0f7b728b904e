import { describe, expect, it } from "vitest";
import type { BackendOptions } from "./create-backend.ts";
import { createTrainingBackend } from "./create-training-backend.ts";

describe("createTrainingBackend", () => {
  it.each(["wasm", "reference"] as const)("starts the %s backend, which trains", async (name) => {
    const backend = await createTrainingBackend({
      backend: name,
      threads: 0,
      ...(name === "wasm" && { maxBytes: 2 ** 22 }),
    });
    const norm = backend.allocate([1]);
    const x = backend.allocate([3]);
    backend.fill(x, 2);
    backend.addSquaredNorm(norm, x);
    await backend.flush();
    expect(backend.name).toBe(name);
    expect(norm.data[0]).toBe(12);
    backend.dispose();
  });

  it.each([
    [{ backend: "webgpu" }, 'createTrainingBackend: backend must be one of wasm, reference; got backend="webgpu".'],
    [{ threads: -1 }, "createTrainingBackend: threads must be an integer from 0 to 256; got threads=-1."],
    [
      { backend: "reference", threads: 2 },
      'createTrainingBackend: threads must be 0 or absent with backend "reference"; got threads=2.',
    ],
  ])("refuses %j", async (options, message) => {
    await expect(createTrainingBackend(options as BackendOptions)).rejects.toThrow(message);
  });
});
