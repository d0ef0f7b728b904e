import { describe, expect, test } from "vitest";
import { values } from "../../test/support/values.ts";
import { createTrainingBackend } from "../engine/index.ts";
import { createMemoryFiles } from "../model/index.ts";
import { DecoderGradients } from "./decoder-gradients.ts";
import { packOnce } from "./packed-batches.ts";
import { clipHeads, collectScores } from "./qk-clip.ts";
import { createTrainable, type TrainableModel } from "./trainable-model.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 12,
  num_attention_heads: 4,
  head_dim: 6,
  intermediate_size: 5,
  num_hidden_layers: 1,
  vocab_size: 13,
  attention_bias: true,
};
const [BATCH] = packOnce([{ tokens: [1, 7, 2, 9, 4, 12] }, { tokens: [3, 3, 8] }], {
  contextTokens: 11,
  batchTokens: 11,
});

async function modelOf(kvHeads: number): Promise<TrainableModel> {
  const config = { ...CONFIG, num_key_value_heads: kvHeads };
  const files = createMemoryFiles(new Map([["config.json", JSON.stringify(config)]]));
  const model = await createTrainable(files, {
    backend: await createTrainingBackend({ backend: "reference" }),
    seed: 0,
  });
  let salt = 1;
  for (const [, { shape, data }] of model.parameters.entries()) data.set(values(shape, salt++).data);
  return model;
}

/** The largest score of every head. */
function largestScores(model: TrainableModel): Float64Array {
  const gradients = new DecoderGradients(model, { tokens: 11, contextTokens: 11, recordScores: true });
  gradients.evaluate(BATCH);
  const largest = new Float64Array(4).fill(-Infinity);
  collectScores(largest, gradients.scores(0).data);
  return largest;
}

describe("clipHeads", () => {
  test.each([4, 2])(
    "brings the heads beyond the limit to it and leaves the others, with %d key heads",
    async (kvHeads) => {
      const model = await modelOf(kvHeads);
      const before = largestScores(model);
      const limit = [...before].sort((a, b) => a - b)[1] * 1.001; // two heads are above
      expect(limit).toBeGreaterThan(0);
      expect(clipHeads(model, [before], limit)).toBe(2);
      const after = largestScores(model);
      for (let head = 0; head < 4; head++) {
        expect(after[head] / Math.min(before[head], limit)).toBeCloseTo(1, 4);
      }
      expect(clipHeads(model, [after], limit * 1.0001)).toBe(0);
    },
  );
});
