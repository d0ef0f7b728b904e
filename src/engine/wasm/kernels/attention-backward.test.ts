import { expect, it } from "vitest";
import { listingOf } from "../../../../test/support/wasm-kernel.ts";
import { emitAttentionBackward } from "./attention-backward.ts";

/** For review: what is generated, in words. `npx vitest run -u` writes it anew. */
it("the listing of the way back through attention", async () => {
  const text = listingOf((module) =>
    emitAttentionBackward(module, {
      relaxed: true,
      heads: 2,
      group: 2,
      keyDim: 16,
      valueDim: 8,
      keyStride: 64,
      valueStride: 32,
      bitsStride: 64,
      rowColumns: 0,
      keyColumns: 0,
    }),
  );
  await expect(text).toMatchFileSnapshot("listings/attention-backward.txt");
});
