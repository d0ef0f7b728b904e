import { describe, expect, it } from "vitest";
import { createReferenceBackend, createWasmBackend } from "../src/engine/index.ts";
import { causal } from "../src/mask/index.ts";
import { expectClose } from "./support/expect-close.ts";
import { values } from "./support/values.ts";

/** More than half of what 32-bit addresses reach, so that all that follows has addresses above 2^31. Never touched. */
const FILLER = 580 * 2 ** 20; // f32

describe("in memory above 2 GiB", () => {
  it.each([
    ["a prompt, large enough to be dealt out to workers", 67, 67],
    ["a step", 1, 2053],
  ])("attention, linear layers and norms give the reference's numbers: %s", async (_, Tq, Tk) => {
    const wasm = await createWasmBackend({ threads: 0, maxBytes: 2 ** 32 });
    wasm.allocate([FILLER]);
    const [H, Hk, D] = [6, 2, 20];
    const positions = Int32Array.from({ length: Tk }, (_, t) => t);
    const segments = new Int32Array(Tk);
    const run = async (backend: typeof wasm | ReturnType<typeof createReferenceBackend>): Promise<Float32Array[]> => {
      const placed = (shape: readonly number[], salt: number) => {
        const t = backend.allocate(shape);
        t.data.set(values(shape, salt).data);
        return t;
      };
      const out = backend.allocate([Tq, H, D]);
      const [projected, normed] = [backend.allocate([Tq, 37]), backend.allocate([Tq, 37])];
      backend.attend(out, {
        q: placed([Tq, H, D], 1),
        kv: { keys: placed([Tk, Hk, D], 2), values: placed([Tk, Hk, D], 3), positions, segments },
        queryPositions: positions.subarray(Tk - Tq),
        querySegments: segments.subarray(Tk - Tq),
        mask: causal(),
        scale: 0.3,
      });
      for (const type of ["f32", "bf16", "q8_0"] as const) {
        const width = type === "q8_0" ? 96 : H * D;
        backend.linear(projected, placed([Tq, width], 4), backend.matrix(values([37, width], 5), type));
      }
      backend.rmsNorm(normed, projected, backend.vector(values([37], 6)), 1e-5);
      await backend.flush();
      return [out.data, normed.data];
    };
    const [got, want] = [await run(wasm), await run(createReferenceBackend())];
    expect(wasm.usedBytes).toBeGreaterThan(2 ** 31);
    expectClose(got[0], want[0], 2e-6);
    expectClose(got[1], want[1], 2e-4); // q8_0: a step rounds its inputs to 16 bits
    wasm.dispose();
  });
});
