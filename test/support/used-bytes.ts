import type { WasmBackend } from "../../src/engine/index.ts";

/** Bytes in use once a step has run, which is when what was given back is free. */
export async function usedBytes(backend: WasmBackend): Promise<number> {
  const t = backend.allocate([16]);
  backend.add(t, t, t);
  backend.release(t);
  await backend.flush();
  return backend.usedBytes;
}
