import { afterEach, expect, test, vi } from "vitest";
import { detectFeatures } from "./features.ts";

afterEach(() => vi.unstubAllGlobals());

test("Node has vectors, shared memory and, after asking V8, fused multiply-add", () => {
  expect(detectFeatures()).toEqual({ simd: true, relaxed: true, threads: true, sharedMemory: true });
});

test("where there is no process, as in browsers, nothing is asked of V8", () => {
  vi.stubGlobal("process", undefined);
  expect(detectFeatures()).toMatchObject({ simd: true, threads: true });
});

test("where memory cannot be shared, there is no shared memory", () => {
  vi.stubGlobal("SharedArrayBuffer", undefined);
  expect(detectFeatures()).toMatchObject({ threads: true, sharedMemory: false });
});

test("where nothing validates, nothing is there", () => {
  vi.stubGlobal("WebAssembly", { ...WebAssembly, validate: () => false });
  expect(detectFeatures()).toEqual({ simd: false, relaxed: false, threads: false, sharedMemory: false });
});
