/** Training steps and gradients of attention in jax-js. */
import { blockUntilReady, grad, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import { attentionInputs, denseMask, headMajor, joined, numbers, rotationTables, tokenMajor } from "../inputs.mjs";
import { ADAM, batch, COMPARED_STEPS, NORM_EPS, SHAPE, weights } from "../training-model.mjs";

/**
 * The embedding is a gather: as a product with one-hot rows a step takes 1.4 times as long. The targets' logits are a
 * product with one-hot rows, because `takeAlongAxis` has no gradient, and logSoftmax is twice as fast as logsumexp.
 */
const FORMULATIONS = [
  { name: "einsum", attention: "einsum", oneCall: false },
  { name: "einsum, linear layers too", attention: "einsum", oneCall: false, linearByEinsum: true },
  { name: "dotProductAttention", attention: "function", oneCall: false },
  { name: "einsum, one jit", attention: "einsum", oneCall: true },
];

export const trainingFormulations = ({ dims }) =>
  FORMULATIONS.map(({ name, ...form }) => ({ name, create: () => create(dims, form) }));

function lossOf({ B, T }, { attention, linearByEinsum = false }) {
  const { layers, heads: H, kvHeads: Hk, headDim: D, vocabulary: V } = SHAPE;
  const norm = (x, weight) => {
    const mean = np.mean(np.square(x.ref), -1, { keepdims: true });
    return x.mul(np.reciprocal(np.sqrt(mean.add(NORM_EPS)))).mul(weight);
  };
  const linear = (x, weight) => (linearByEinsum ? np.einsum("tk,nk->tn", x, weight) : np.matmul(x, weight.transpose()));
  const rotate = (x, { cos, sin }) => {
    const [first, second] = np.split(x, 2, -1);
    const turned = first.ref.mul(cos.ref).sub(second.ref.mul(sin.ref));
    return np.concatenate([turned, second.mul(cos.ref).add(first.mul(sin.ref))], -1);
  };
  const einsum = (q, k, v, mask) => {
    const grouped = q.mul(1 / Math.sqrt(D)).reshape([B, T, Hk, H / Hk, D]);
    const scores = np.einsum("bthgd,bshd->bhgts", grouped, k).add(mask.ref);
    return np.einsum("bhgts,bshd->bthgd", nn.softmax(scores, -1), v);
  };
  const attend = attention === "einsum" ? einsum : (q, k, v) => nn.dotProductAttention(q, k, v, { isCausal: true });
  return (p, tokens, targets, tables) => {
    const embedding = p["model.embed_tokens.weight"];
    let x = np.take(embedding.ref, tokens, 0);
    for (let n = 0; n < layers; n++) {
      const weight = (name) => p[`model.layers.${n}.${name}.weight`];
      const normed = norm(x.ref, weight("input_layernorm"));
      const q = rotate(linear(normed.ref, weight("self_attn.q_proj")).reshape([B, T, H, D]), tables);
      const k = rotate(linear(normed.ref, weight("self_attn.k_proj")).reshape([B, T, Hk, D]), tables);
      const v = linear(normed, weight("self_attn.v_proj")).reshape([B, T, Hk, D]);
      const out = attend(q, k, v, tables.mask).reshape([B * T, H * D]);
      x = x.add(linear(out, weight("self_attn.o_proj")));
      const inner = norm(x.ref, weight("post_attention_layernorm"));
      const gate = nn.silu(linear(inner.ref, weight("mlp.gate_proj")));
      x = x.add(linear(gate.mul(linear(inner, weight("mlp.up_proj"))), weight("mlp.down_proj")));
    }
    tree.dispose(tables);
    const logits = linear(norm(x, p["model.norm.weight"]), embedding);
    return np.mean(nn.logSoftmax(logits, -1).mul(nn.oneHot(targets, V)).sum(-1)).neg();
  };
}

/** AdamW on one tensor; norms do not decay. */
const adamW = (weightDecay) => (p, g, mean, square, scales) => {
  const m = mean.mul(ADAM.beta1).add(g.ref.mul(1 - ADAM.beta1));
  const s = square.mul(ADAM.beta2).add(np.square(g).mul(1 - ADAM.beta2));
  const [forMean, forSquare] = np.split(scales, 2, 0);
  const step = m.ref.mul(forMean).div(np.sqrt(s.ref.mul(forSquare)).add(ADAM.epsilon));
  const decayed = weightDecay > 0 ? p.mul(1 - ADAM.learningRate * weightDecay) : p;
  return [decayed.sub(step.mul(ADAM.learningRate)), m, s];
};

async function create({ B, T }, form) {
  const { attention, oneCall } = form;
  const loss = lossOf({ B, T }, form);
  const state = { p: {}, m: {}, s: {} };
  const decays = {};
  for (const [name, { shape, data }] of Object.entries(weights())) {
    state.p[name] = np.array(data, { shape });
    state.m[name] = np.zeros(shape);
    state.s[name] = np.zeros(shape);
    decays[name] = shape.length > 1 ? ADAM.weightDecay : 0;
  }
  const half = SHAPE.headDim / 2;
  const { cos, sin } = rotationTables(T, SHAPE.headDim);
  const tables = { cos: np.array(cos, { shape: [1, T, 1, half] }), sin: np.array(sin, { shape: [1, T, 1, half] }) };
  if (attention === "einsum") tables.mask = np.array(denseMask({ Tq: T, Tk: T }), { shape: [T, T] });

  /** All parameters by one function of each. */
  const update = (of, { p, m, s }, gradients, scales) => {
    const next = { p: {}, m: {}, s: {} };
    for (const name of Object.keys(p)) {
      const call = of[decays[name]];
      [next.p[name], next.m[name], next.s[name]] = call(p[name], gradients[name], m[name], s[name], scales.ref);
    }
    scales.dispose();
    return next;
  };
  const raw = { 0: adamW(0), [ADAM.weightDecay]: adamW(ADAM.weightDecay) };
  const compiled = { 0: jit(raw[0]), [ADAM.weightDecay]: jit(raw[ADAM.weightDecay]) };
  const differentiate = jit(valueAndGrad(loss));
  const whole = jit((now, tokens, targets, tables, scales) => {
    const [value, gradients] = valueAndGrad(loss)(tree.ref(now.p), tokens, targets, tables);
    return [value, update(raw, now, gradients, scales)];
  });

  let now = state;
  let steps = 0;
  const step = async () => {
    const rows = batch(B, T, steps++);
    const part = (from) => {
      const flat = new Int32Array(B * T);
      for (let b = 0; b < B; b++) flat.set(rows.subarray(b * (T + 1) + from, b * (T + 1) + from + T), b * T);
      return np.array(flat, { shape: [B * T], dtype: np.int32 });
    };
    const corrections = [1 / (1 - ADAM.beta1 ** steps), 1 / (1 - ADAM.beta2 ** steps)];
    const scales = np.array(Float32Array.from(corrections), { shape: [2] });
    let value;
    if (oneCall) [value, now] = whole(now, part(0), part(1), tree.ref(tables), scales);
    else {
      const [loss, gradients] = differentiate(tree.ref(now.p), part(0), part(1), tree.ref(tables));
      [value, now] = [loss, update(compiled, now, gradients, scales)];
    }
    await blockUntilReady(now.p);
    return value.item();
  };
  const losses = [];
  while (losses.length < COMPARED_STEPS) losses.push(await step());
  return {
    run: step,
    output: () => losses,
    notes: () => ({ losses }),
    dispose: () => {
      tree.dispose(now);
      tree.dispose(tables);
      for (const one of [...Object.values(compiled), differentiate, whole]) one.dispose?.();
    },
  };
}

/** Gradients of attention: the output's sum weighted by dOut, by queries, keys and values. */
export function gradientFormulations({ dims }) {
  const { Tq: T, H, Hk, D } = dims;
  const { q, k, v } = attentionInputs(dims);
  const dOut = numbers(T * H * D, 4);
  const array = (data, shape) => np.array(data, { shape });
  const formulation = (name, make) => ({
    name,
    create: async () => {
      const { inputs, constants, attend, read } = make();
      const compiled = jit(grad((inputs, dOut, mask) => np.sum(attend(inputs, mask).mul(dOut))));
      let result;
      return {
        run: async () => {
          if (result) tree.dispose(result);
          result = compiled(tree.ref(inputs), ...constants.map((one) => one.ref));
          await blockUntilReady(result);
        },
        output: () => joined(["q", "k", "v"].map((name) => read(result[name].ref.dataSync(), name))),
        dispose: () => {
          for (const one of [inputs, constants, ...(result ? [result] : [])]) tree.dispose(one);
          compiled.dispose?.();
        },
      };
    },
  });
  return [
    formulation("einsum", () => ({
      inputs: {
        q: array(headMajor(q, T, H, D), [Hk, H / Hk, T, D]),
        k: array(headMajor(k, T, Hk, D), [Hk, T, D]),
        v: array(headMajor(v, T, Hk, D), [Hk, T, D]),
      },
      constants: [array(headMajor(dOut, T, H, D), [Hk, H / Hk, T, D]), array(denseMask(dims), [T, T])],
      attend: ({ q, k, v }, mask) => {
        const scores = np.einsum("hgtd,hsd->hgts", q.mul(1 / Math.sqrt(D)), k).add(mask);
        return np.einsum("hgts,hsd->hgtd", nn.softmax(scores, -1), v);
      },
      read: (y, name) => tokenMajor(y, T, name === "q" ? H : Hk, D),
    })),
    formulation("dotProductAttention", () => ({
      inputs: { q: array(q, [T, H, D]), k: array(k, [T, Hk, D]), v: array(v, [T, Hk, D]) },
      constants: [array(dOut, [T, H, D])],
      attend: ({ q, k, v }) => nn.dotProductAttention(q, k, v, { isCausal: true }),
      read: (y) => y,
    })),
  ];
}
