import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { nonCausalAttention } from "./non-causal-attention.ts";

it("scores are attention within chunks times value norms, pooled and standardised", () => {
  // Queries of zeros give every key of a full chunk mass 1, and so does a chunk filled up with zeros.
  const layer = layerOf([[[5], [6], [7]]], {
    valueLists: [[[3], [-6], [9]]],
    queries: { rows: rowsFrom([[[0], [0], [0]]]), positions: Int32Array.of(0, 1, 2) },
  });
  const [scores] = nonCausalAttention({ chunkTokens: 2 }).score(layer, { budget: 1 });
  const deviation = Math.sqrt(7 / 3); // of 3, 6, 5
  expectClose(
    scores,
    [-5 / 3, 4 / 3, 1 / 3].map((x) => x / deviation),
    F64_COMPUTED,
  );
});

it("a token sees later ones of its chunk, and no other chunk", () => {
  const layer = layerOf([[[0], [1], [50], [0]]], {
    valueLists: [[[1], [1], [0], [0]]],
    queries: { rows: rowsFrom([[[1], [0], [0], [0]]]), positions: Int32Array.of(0, 1, 2, 3) },
  });
  const [scores] = nonCausalAttention({ chunkTokens: 2 }).score(layer, { budget: 1 });
  const seen = 1 / (1 + Math.E) + 1 / 2; // mass of the first token, of the second 2 − seen
  const pooled = [2 / 3, 2 / 3, (2 - seen) / 3, 0];
  const mean = pooled.reduce((sum, x) => sum + x, 0) / 4;
  const deviation = Math.sqrt(pooled.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 3);
  expectClose(
    scores,
    pooled.map((x) => (x - mean) / deviation),
    F64_COMPUTED,
  );
});

it("a prompt whose queries are not all there is refused", () => {
  const layer = layerOf([[[5], [6]]], { queries: { rows: rowsFrom([[[0]]]), positions: Int32Array.of(1) } });
  expect(thrownBy(() => nonCausalAttention().score(layer, { budget: 1 }))).toBe(
    "ConfigError: nonCausalAttention: a query of every cached token; got queries=1, tokens=2. It runs after a prefill in one piece.",
  );
});
