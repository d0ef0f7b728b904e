/** jax-js on its WASM backend. */
import { readFileSync } from "node:fs";
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np } from "@jax-js/jax";
import { attentionInputs, denseMask, headMajor, numbers, rotationTables, tokenMajor, transposed } from "../inputs.mjs";
import { gradientFormulations, trainingFormulations } from "./jax-training.mjs";

export async function open() {
  await init("wasm");
  defaultDevice("wasm");
  const { version } = JSON.parse(
    readFileSync(new URL("../node_modules/@jax-js/jax/package.json", import.meta.url), "utf8"),
  );
  return { version, formulations: (work) => FORMULATIONS[work.kind](work) };
}

const array = (data, shape) => np.array(data, { shape });

/** A compiled function of inputs that are kept. */
const formulation = (name, make) => ({
  name,
  create: async () => {
    const { inputs, compute, read } = make();
    const compiled = jit(compute);
    let result;
    return {
      run: async () => {
        result?.dispose();
        result = compiled(...inputs.map((one) => one.ref));
        await blockUntilReady(result);
      },
      output: () => read(result.ref.dataSync()),
      dispose: () => {
        result?.dispose();
        for (const one of inputs) one.dispose();
        compiled.dispose();
      },
    };
  },
});

const FORMULATIONS = {
  training: trainingFormulations,
  gradient: gradientFormulations,
  attention: ({ dims, kv }) => {
    if (kv) return [];
    return [formulation("einsum", () => einsum(dims)), formulation("dotProductAttention", () => dotProduct(dims))];
  },
  rotate: ({ dims: { heads, T, D } }) => [
    formulation("split, multiply, concatenate", () => {
      const tables = rotationTables(T, D);
      const x = headMajor(numbers(T * heads * D, 1), T, heads, D);
      const inputs = [array(x, [heads, T, D]), array(tables.cos, [T, D / 2]), array(tables.sin, [T, D / 2])];
      const compute = (x, cos, sin) => {
        const [first, second] = np.split(x, 2, 2);
        const turned = first.ref.mul(cos.ref).sub(second.ref.mul(sin.ref));
        return np.concatenate([turned, second.mul(cos).add(first.mul(sin))], 2);
      };
      return { inputs, compute, read: (y) => tokenMajor(y, T, heads, D) };
    }),
  ],
  linear: ({ dims: { tokens, inputs, outputs } }) => [
    formulation("matmul", () => ({
      inputs: [
        array(numbers(tokens * inputs, 1), [tokens, inputs]),
        array(transposed(numbers(inputs * outputs, 2), outputs, inputs), [inputs, outputs]),
      ],
      compute: (x, w) => np.matmul(x, w),
      read: (y) => y,
    })),
    ...(tokens === 1
      ? [
          formulation("weights first", () => ({
            inputs: [array(numbers(inputs, 1), [inputs]), array(numbers(inputs * outputs, 2), [outputs, inputs])],
            compute: (x, w) => np.matmul(w, x),
            read: (y) => y,
          })),
        ]
      : []),
  ],
};

/** Head-major: [Hk, G, Tq, D] by [Hk, Tk, D]. */
function einsum(dims) {
  const { Tq, Tk, H, Hk, D } = dims;
  const { q, k, v } = attentionInputs(dims);
  const inputs = [
    array(
      headMajor(q, Tq, H, D).map((one) => one / Math.sqrt(D)),
      [Hk, H / Hk, Tq, D],
    ),
    array(headMajor(k, Tk, Hk, D), [Hk, Tk, D]),
    array(headMajor(v, Tk, Hk, D), [Hk, Tk, D]),
    ...(Tq > 1 ? [array(denseMask(dims), [Tq, Tk])] : []),
  ];
  const compute = (q, k, v, mask) => {
    const scores = np.einsum("hgtd,hsd->hgts", q, k);
    return np.einsum("hgts,hsd->hgtd", nn.softmax(mask ? scores.add(mask) : scores, -1), v);
  };
  return { inputs, compute, read: (y) => tokenMajor(y, Tq, H, D) };
}

/** Its attention function; windows and documents through a dense bias. */
function dotProduct(dims) {
  const { Tq, Tk, H, Hk, D, window, document } = dims;
  const { q, k, v } = attentionInputs(dims);
  const masked = window !== undefined || document !== undefined;
  const inputs = [
    array(q, [Tq, H, D]),
    array(k, [Tk, Hk, D]),
    array(v, [Tk, Hk, D]),
    ...(masked ? [array(denseMask(dims), [1, Tq, Tk])] : []),
  ];
  const compute = (q, k, v, bias) =>
    nn.dotProductAttention(q, k, v, { isCausal: !masked && Tq > 1, ...(bias ? { bias } : {}) });
  return { inputs, compute, read: (y) => y };
}
