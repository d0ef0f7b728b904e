/** TensorFlow.js on its WASM backend: 2-D products head by head, none of them with a transposed operand. */

import { setThreadsCount, version_wasm } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
import {
  attentionInputs,
  denseMask,
  headMajor,
  joined,
  numbers,
  rotationTables,
  tokenMajor,
  transposed,
} from "../inputs.mjs";

/** @param {{threads: number}} options */
export async function open({ threads }) {
  setThreadsCount(threads);
  await tf.setBackend("wasm");
  return { version: version_wasm, formulations: (work) => FORMULATIONS[work.kind](work) };
}

/**
 * @param {string} name
 * @param {() => {inputs: tf.Tensor[], compute: () => tf.Tensor[], read: (data: Float32Array[]) => Float32Array}} make
 */
const formulation = (name, make) => ({
  name,
  create: async () => {
    const { inputs, compute, read } = make();
    let results = [];
    return {
      run: () => {
        tf.dispose(results);
        results = tf.tidy(compute);
      },
      output: () => read(results.map((one) => one.dataSync())),
      dispose: () => tf.dispose([...inputs, ...results]),
    };
  },
});

const FORMULATIONS = {
  attention: ({ dims, kv }) => {
    if (kv) return [];
    return [formulation("2-D products", () => (dims.Tq === 1 ? decode(dims) : prefill(dims)))];
  },
  rotate: ({ dims: { heads, T, D } }) => [
    formulation("slice, multiply, concat", () => {
      const tables = rotationTables(T, D);
      const x = tf.tensor3d(headMajor(numbers(T * heads * D, 1), T, heads, D), [heads, T, D]);
      // Tables of full size: multiplying with broadcast is slower.
      const whole = (table) => tf.tensor3d(joined(Array(heads).fill(table)), [heads, T, D / 2]);
      const cos = whole(tables.cos);
      const sin = whole(tables.sin);
      const compute = () => {
        const [first, second] = tf.split(x, 2, 2);
        const turned = tf.sub(tf.mul(first, cos), tf.mul(second, sin));
        return [tf.concat([turned, tf.add(tf.mul(second, cos), tf.mul(first, sin))], 2)];
      };
      return { inputs: [x, cos, sin], compute, read: ([y]) => tokenMajor(y, T, heads, D) };
    }),
  ],
  linear: ({ dims: { tokens, inputs, outputs } }) => [
    formulation("matMul", () => {
      const x = tf.tensor2d(numbers(tokens * inputs, 1), [tokens, inputs]);
      const w = tf.tensor2d(transposed(numbers(inputs * outputs, 2), outputs, inputs), [inputs, outputs]);
      return { inputs: [x, w], compute: () => [tf.matMul(x, w)], read: ([y]) => y };
    }),
    ...(tokens === 1
      ? [
          formulation("weights first", () => {
            const x = tf.tensor2d(numbers(inputs, 1), [inputs, 1]);
            const w = tf.tensor2d(numbers(inputs * outputs, 2), [outputs, inputs]);
            return { inputs: [x, w], compute: () => [tf.matMul(w, x)], read: ([y]) => y };
          }),
        ]
      : []),
  ],
};

/** Tensors [rows, columns], one of each head. */
function perHead(data, heads, rows, columns) {
  const size = rows * columns;
  return Array.from({ length: heads }, (_, h) => tf.tensor2d(data.slice(h * size, (h + 1) * size), [rows, columns]));
}

/** Queries already scaled, head-major. */
function headMajorInputs(dims) {
  const { Tq, Tk, H, Hk, D } = dims;
  const { q, k, v } = attentionInputs(dims);
  const scaled = q.map((one) => one / Math.sqrt(D));
  return { q: headMajor(scaled, Tq, H, D), k: headMajor(k, Tk, Hk, D), v: headMajor(v, Tk, Hk, D) };
}

function prefill(dims) {
  const { Tq, Tk, H, Hk, D } = dims;
  const data = headMajorInputs(dims);
  const q = perHead(data.q, H, Tq, D);
  const k = perHead(transposed(data.k, Tk, D), Hk, D, Tk);
  const v = perHead(data.v, Hk, Tk, D);
  const mask = tf.tensor2d(denseMask(dims), [Tq, Tk]);
  const head = (_, h) => {
    const kvHead = Math.floor((h * Hk) / H);
    return tf.tidy(() => tf.matMul(tf.softmax(tf.add(tf.matMul(q[h], k[kvHead]), mask)), v[kvHead]));
  };
  return {
    inputs: [...q, ...k, ...v, mask],
    compute: () => Array.from({ length: H }, head),
    read: (heads) => tokenMajor(joined(heads), Tq, H, D),
  };
}

/** Keys [L, D] and values [D, L] as left operands: right operands are packed once and kept, which no cache could be. */
function decode(dims) {
  const { Tk, H, Hk, D } = dims;
  const group = H / Hk;
  const data = headMajorInputs(dims);
  const q = perHead(transposed(data.q, group, D), Hk, D, group);
  const k = perHead(data.k, Hk, Tk, D);
  const v = perHead(transposed(data.v, Tk, D), Hk, D, Tk);
  const head = (_, h) => {
    const scores = tf.matMul(k[h], q[h]);
    const turned = group === 1 ? tf.reshape(scores, [1, Tk]) : tf.transpose(scores);
    const shares = tf.softmax(turned);
    return tf.matMul(v[h], group === 1 ? tf.reshape(shares, [Tk, 1]) : tf.transpose(shares));
  };
  return {
    inputs: [...q, ...k, ...v],
    compute: () => Array.from({ length: Hk }, head),
    read: (heads) => joined(heads.map((one) => transposed(one, D, group))),
  };
}
