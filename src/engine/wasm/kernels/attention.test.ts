import { describe, expect, it } from "vitest";
import { listingOf } from "../../../../test/support/wasm-kernel.ts";
import { softcapCode } from "../attention-score-lowering.ts";
import { emitAttention } from "./attention.ts";
import type { AttentionSpec } from "./attention-scratch.ts";

const plain: AttentionSpec = {
  relaxed: true,
  rows: 8,
  packed: false,
  heads: 2,
  group: 2,
  keyDim: 16,
  valueDim: 8,
  keys: { type: "f32", stride: 64, scaleStride: 0 },
  values: { type: "f32", stride: 32, scaleStride: 0 },
  bitsStride: 64,
  rowColumns: 0,
  keyColumns: 0,
};

/** For review: what is generated, in words. `npx vitest run -u` writes them anew. */
describe("the listing of attention", () => {
  it("without options", async () => {
    await expect(listingOf((module) => emitAttention(module, plain))).toMatchFileSnapshot("listings/attention.txt");
  });

  it("with options: soft cap, ALiBi, dropout, int8 keys, f16 values", async () => {
    const distance = { op: "abs", arg: { op: "difference", row: 2, key: 0 } } as const;
    const alibi = { op: "mul", left: { op: "row", column: 1 }, right: distance } as const;
    const spec: AttentionSpec = {
      ...plain,
      keys: { type: "int8", stride: 16, scaleStride: 4 },
      values: { type: "f16", stride: 16, scaleStride: 0 },
      score: [softcapCode(50), { op: "sub", left: { op: "score" }, right: alibi }],
      dropout: true,
      rowColumns: 3,
      keyColumns: 1,
    };
    const text = listingOf((module) => emitAttention(module, spec));
    await expect(text).toMatchFileSnapshot("listings/attention-options.txt");
  });
});
