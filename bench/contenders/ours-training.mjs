/** Training steps and gradients of attention in Phasor. */
import { attentionInputs, joined, numbers } from "../inputs.mjs";
import { ADAM, batch, COMPARED_STEPS, config, weights } from "../training-model.mjs";
import { layoutOf, release } from "./ours-calls.mjs";

const { createMemoryFiles, writeSafetensors } = await import("../../dist/model/index.js");
const { loadTrainable, train } = await import("../../dist/train/index.js");

/** The trainer, held after every step. A step's update runs when the next begins, as always. */
export const trainingFormulations = ({ dims }, backend) => [
  {
    name: "phasor",
    create: async () => {
      const tensors = Object.entries(weights()).map(([name, one]) => [name, { dtype: "f32", ...one }]);
      const files = new Map([
        ["config.json", JSON.stringify(config())],
        ["model.safetensors", writeSafetensors(tensors)],
      ]);
      const model = await loadTrainable(createMemoryFiles(files), { backend });
      const stop = new AbortController();
      const { next, reached } = turns();
      const { learningRate, beta1, beta2, epsilon, weightDecay } = ADAM;
      const ended = train({
        model,
        data: dataOf(dims),
        steps: 1_000_000,
        optimizer: { learningRate, beta1, beta2, epsilon, weightDecay, clip: Infinity },
        onStep: ({ loss }) => reached(loss),
        signal: stop.signal,
      });
      ended.catch(reached.failed);
      const losses = [await next()];
      while (losses.length < COMPARED_STEPS) losses.push(await next());
      return {
        run: next,
        output: () => losses,
        notes: () => ({ losses }),
        dispose: async () => {
          stop.abort();
          next().catch(() => {});
          await ended;
          model.release();
          await backend.flush();
        },
      };
    },
  },
];

/** `next` lets the other side go on until it has `reached` something, and gives what that is. */
function turns() {
  let go = () => {};
  let arrived;
  let failed;
  let started = false;
  const reached = (value) => {
    arrived?.(value);
    return new Promise((resolve) => {
      go = resolve;
    });
  };
  reached.failed = (error) => failed?.(error);
  const next = () =>
    new Promise((resolve, reject) => {
      [arrived, failed] = [resolve, reject];
      if (started) go();
      started = true;
    });
  return { next, reached };
}

/** Each row a text of its own. */
function dataOf({ B, T }) {
  return {
    contextTokens: T,
    batchTokens: B * T,
    identity: {},
    batch: (number) => {
      const rows = batch(B, T, number);
      const part = (value) => Int32Array.from({ length: B * T }, (_, i) => value(Math.floor(i / T), i % T));
      return {
        tokens: part((b, t) => rows[b * (T + 1) + t]),
        targets: part((b, t) => rows[b * (T + 1) + t + 1]),
        positions: part((_, t) => t),
        segments: part((b) => b),
        weights: new Float32Array(B * T).fill(1),
      };
    },
  };
}

/** As the trainer runs attention: forwards with log-sum-exp, and back. */
export const gradientFormulations = ({ dims }, backend, place) => {
  const create = async () => {
    const { Tq, Tk, H, Hk, D } = dims;
    const inputs = attentionInputs(dims);
    const q = place([Tq, H, D], inputs.q);
    const keys = place([Tk, Hk, D], inputs.k);
    const values = place([Tk, Hk, D], inputs.v);
    const dOut = place([Tq, H, D], numbers(Tq * H * D, 4));
    const [out, dq] = [q, q].map(({ shape }) => backend.allocate(shape));
    const [dk, dv] = [keys, values].map(({ shape }) => backend.allocate(shape));
    const lse = backend.allocate([Tq, H]);
    const { kv, queries, mask } = layoutOf(dims);
    const call = { q, kv: { keys, values, ...kv }, mask, ...queries, scale: 1 / Math.sqrt(D) };
    return {
      before: () => {
        backend.attendForTraining(out, lse, call);
        backend.attendBackward({ dq, dk, dv }, { ...call, out, lse, dOut });
      },
      run: () => backend.flush(),
      output: () => joined([dq.data, dk.data, dv.data]),
      dispose: () => release(backend, q, keys, values, dOut, out, dq, dk, dv, lse),
    };
  };
  return [{ name: "phasor", create }];
};
