import { describe, expect, it } from "vitest";
import { type BackendOptions, createBackend } from "./create-backend.ts";

describe("createBackend", () => {
  it.each([
    [{ threads: 0, maxBytes: 2 ** 20 }, "wasm"],
    [{ backend: "reference" }, "reference"],
    [{ backend: "reference", threads: 0 }, "reference"],
  ] as const)("makes of %j the %s backend", async (options, name) => {
    const backend = await createBackend(options);
    expect(backend.name).toBe(name);
    backend.dispose();
  });

  it.each([
    [{ backend: "webgpu" }, 'createBackend: backend must be one of wasm, reference; got backend="webgpu".'],
    [{ threads: 1.5 }, "createBackend: threads must be an integer from 0 to 256; got threads=1.5."],
    [{ maxBytes: 0 }, "createBackend: maxBytes must be from 1 to 4294967296; got maxBytes=0."],
    [
      { backend: "reference", threads: 2 },
      'createBackend: threads must be 0 or absent with backend "reference"; got threads=2.',
    ],
    [
      { backend: "reference", maxBytes: 5 },
      'createBackend: maxBytes must be absent with backend "reference"; got maxBytes=5.',
    ],
  ])("refuses %j", async (options, message) => {
    await expect(createBackend(options as BackendOptions)).rejects.toThrow(message);
  });
});
