/** Whole decoders, from Hugging Face transformers: logits, the output of every layer, and greedy text. */

import { join } from "node:path";
import { createBackend, type DecoderBackendName } from "phasor/engine";
import { loadModel } from "phasor/model";
import type { SuiteRunner } from "../case.ts";

/** Runs the prompt once, then goes on greedily with a cache. */
export const models: SuiteRunner = async ({ params, tensor, folder, backend: name }) => {
  const { model_dir: modelDir, new_tokens: newTokens } = params as { model_dir: string; new_tokens: number };
  const backend = await createBackend({ backend: name as DecoderBackendName, threads: 0 });
  const model = await loadModel(join(folder, modelDir), { backend });
  const tokens = Int32Array.from(tensor("input_ids").data);

  // Where the schedule depends on the length, the goldens run all tokens again at every length.
  const cache = model.createCache({ onFrequencyChange: "reprefill" });
  const layers: number[] = [];
  const onLayer = (_: number, hidden: { data: Float32Array }): void => {
    for (const value of hidden.data) layers.push(value);
  };
  const logits = await model.forward({ tokens, cache, logits: "all", onLayer });
  const greedy: number[] = [];
  let last = logits.data.subarray(-model.vocabSize);
  while (greedy.length < newTokens) {
    const next = argmax(last);
    greedy.push(next);
    if (greedy.length < newTokens) last = (await model.forward({ tokens: [next], cache })).data;
  }
  return { layer_out: layers, logits: logits.data, greedy_ids: greedy };
};

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
