import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED, F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { createEngine } from "../engine/index.ts";
import { causal, sameSegment, slidingWindow } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import {
  dotProductAttention,
  dotProductAttentionWithRope,
  flattenParameters,
  initializers,
  MultiHeadAttention,
  type MultiHeadAttentionCall,
  type MultiHeadAttentionOptions,
  Rngs,
  RoPE,
  random,
} from "./index.ts";

/** 4 heads of 4 over 2 key-value heads; two sequences of 3 queries and 5 keys. */
const [B, H, Hk, D, IN, IN_KV, OUT] = [2, 4, 2, 4, 5, 3, 7];
const THETA = 30;
const RATE = 0.3;

/** What a case does, in terms of the formula. */
type Formula = {
  readonly Tq: number;
  readonly Tk: number;
  readonly inKv: number;
  readonly qkNorm?: "layer" | "rms";
  /** [B, Tq] and [B, Tk]; no rotation without. */
  readonly positions?: readonly [queries: readonly number[], keys: readonly number[]];
  readonly visible?: (b: number, h: number, i: number, j: number) => boolean;
  /** [Tq, Tk] or [B, H, Tq, Tk], 1 to keep. */
  readonly keep?: ArrayLike<number>;
};

type Inputs = Readonly<Record<string, ArrayLike<number>>>;

/** [rows, columns] · [columns, outputs] + bias. */
function linear(x: ArrayLike<number>, kernel: ArrayLike<number>, bias: ArrayLike<number>): Float64Array {
  const outputs = bias.length;
  const inputs = kernel.length / outputs;
  return Float64Array.from({ length: (x.length / inputs) * outputs }, (_, at) => {
    const [row, o] = [Math.floor(at / outputs), at % outputs];
    let sum = bias[o];
    for (let i = 0; i < inputs; i++) sum += x[row * inputs + i] * kernel[i * outputs + o];
    return sum;
  });
}

/** Every head's norm and rotation, in place. */
function prepare(
  x: Float64Array,
  heads: number,
  { qkNorm }: Formula,
  scale?: ArrayLike<number>,
  at?: readonly number[],
) {
  for (let row = 0; row < x.length / D; row++) {
    const head = x.subarray(row * D, (row + 1) * D);
    if (qkNorm !== undefined) {
      const mean = qkNorm === "layer" ? head.reduce((a, b) => a + b) / D : 0;
      const size = Math.sqrt(head.reduce((sum, value) => sum + (value - mean) ** 2, 0) / D + 1e-6);
      head.forEach((value, d) => {
        head[d] = ((value - mean) / size) * (scale as ArrayLike<number>)[d];
      });
    }
    if (at === undefined) continue;
    for (let pair = 0; pair < D / 2; pair++) {
      const angle = at[Math.floor(row / heads)] * THETA ** ((-2 * pair) / D);
      const [first, second] = [head[pair], head[pair + D / 2]];
      head[pair] = first * Math.cos(angle) - second * Math.sin(angle);
      head[pair + D / 2] = second * Math.cos(angle) + first * Math.sin(angle);
    }
  }
  return x;
}

/** The whole module by its definition, in f64. */
function forward(inputs: Inputs, formula: Formula): Float64Array {
  const { Tq, Tk, positions, visible = () => true, keep } = formula;
  const project = (x: string, name: string) => linear(inputs[x], inputs[`${name}.kernel`], inputs[`${name}.bias`]);
  const q = prepare(project("q", "query"), H, formula, inputs["query_ln.scale"], positions?.[0]);
  const k = prepare(project("k", "key"), Hk, formula, inputs["key_ln.scale"], positions?.[1]);
  const v = project("v", "value");
  const attended = new Float64Array(B * Tq * H * D);
  for (let row = 0; row < B * Tq * H; row++) {
    const [b, i, h] = [Math.floor(row / (Tq * H)), Math.floor(row / H) % Tq, row % H];
    const key = (j: number): number => ((b * Tk + j) * Hk + Math.floor((h * Hk) / H)) * D;
    const weights = Array.from({ length: Tk }, (_, j) => {
      if (!visible(b, h, i, j)) return 0;
      let dot = 0;
      for (let d = 0; d < D; d++) dot += q[row * D + d] * k[key(j) + d];
      return Math.exp(dot / Math.sqrt(D));
    });
    const total = weights.reduce((a, b) => a + b);
    if (total === 0) continue;
    for (let j = 0; j < Tk; j++) {
      const pair = ((b * H + h) * Tq + i) * Tk + j;
      const kept = keep === undefined ? 1 : keep[pair % keep.length] / (1 - RATE);
      for (let d = 0; d < D; d++) attended[row * D + d] += (weights[j] / total) * kept * v[key(j) + d];
    }
  }
  return linear(attended, inputs["out.kernel"], inputs["out.bias"]);
}

function differences(x: ArrayLike<number>, f: (x: Float64Array) => number): number[] {
  const step = 1e-5;
  return Array.from(x, (_, i) => {
    const at = (by: number): number => {
      const moved = Float64Array.from(x);
      moved[i] += by;
      return f(moved);
    };
    return (at(step) - at(-step)) / (2 * step);
  });
}

const range = (T: number): number[] => Array.from({ length: B * T }, (_, at) => at % T);
const withRope = { attentionFunction: dotProductAttentionWithRope({ rope: new RoPE({ headDim: D, theta: THETA }) }) };
const dropout = { dropoutRate: RATE, deterministic: false } as const;
/** The key of the first call with `new Rngs({ params: 1, dropout: 9 })` of its own. */
const DROPOUT_KEY = random.foldIn(random.key(9), 0);
const segments = Int32Array.of(0, 0, 1, 1, 1, 0, 1, 1, 1, -1);
const headMask = Uint8Array.from({ length: H * 3 * 5 }, (_, at) =>
  Number((at * 7) % 5 < 3 && Math.floor(at / 5) % 3 !== 1),
);

type Case = {
  readonly options?: Partial<MultiHeadAttentionOptions>;
  readonly call?: MultiHeadAttentionCall;
  /** Which inputs are tensors of their own. */
  readonly own?: "k" | "kv";
  readonly formula: Formula;
};

const SELF = { Tq: 5, Tk: 5, inKv: IN };
const CROSS = { Tq: 3, Tk: 5, inKv: IN_KV };
const CASES: Record<string, Case> = {
  "grouped heads": { formula: SELF },
  "rotary, causal": {
    options: withRope,
    call: { mask: causal() },
    formula: { ...SELF, positions: [range(5), range(5)], visible: (_b, _h, i, j) => j <= i },
  },
  "rotary with RMS norms of queries and keys, packed documents and a window": {
    options: { ...withRope, qkNorm: "rms" },
    call: {
      mask: causal().and(sameSegment()).and(slidingWindow(2)),
      queryPositions: [0, 1, 0, 1, 2, 0, 3, 4, 5, 0],
      querySegments: segments,
    },
    formula: {
      ...SELF,
      qkNorm: "rms",
      positions: [
        [0, 1, 0, 1, 2, 0, 3, 4, 5, 0],
        [0, 1, 0, 1, 2, 0, 3, 4, 5, 0],
      ],
      visible: (b, _h, i, j) => {
        const [mine, other] = [segments[b * 5 + i], segments[b * 5 + j]];
        return mine >= 0 && mine === other && j <= i && i - j < 2;
      },
    },
  },
  "cross-attention at positions of their own, with layer norms of queries and keys": {
    options: { ...withRope, qkNorm: "layer" },
    call: { mask: causal(), queryPositions: [4, 2, 7], keyPositions: [0, 1, 2, 6, 9] },
    own: "k",
    formula: {
      ...CROSS,
      qkNorm: "layer",
      positions: [
        [4, 2, 7, 4, 2, 7],
        [0, 1, 2, 6, 9, 0, 1, 2, 6, 9],
      ],
      visible: (_b, _h, i, j) => [0, 1, 2, 6, 9][j] <= [4, 2, 7][i],
    },
  },
  "keys and values of different inputs, a mask of every head, a row that sees nothing": {
    call: { mask: tensor("u8", [H, 3, 5], headMask) },
    own: "kv",
    formula: { ...CROSS, visible: (_b, h, i, j) => headMask[(h * 3 + i) * 5 + j] === 1 },
  },
  "dropout that is the same in every head": {
    options: { ...dropout },
    call: { mask: causal() },
    formula: { ...SELF, keep: random.bernoulli(DROPOUT_KEY, 1 - RATE, [5, 5]).data, visible: (_b, _h, i, j) => j <= i },
  },
  "rotary with dropout of every head's own": {
    options: { ...withRope, ...dropout, broadcastDropout: false },
    own: "k",
    call: { queryPositions: [0, 1, 2], keyPositions: [0, 1, 2, 3, 4] },
    formula: {
      ...CROSS,
      positions: [range(3), range(5)],
      keep: random.bernoulli(DROPOUT_KEY, 1 - RATE, [B, H, 3, 5]).data,
    },
  },
};

/** The module and the inputs of a case. */
function arrange({ options = {}, own, formula }: Case) {
  const inKvFeatures = formula.inKv;
  const module = new MultiHeadAttention({
    ...{ numHeads: H, numKvHeads: Hk, inFeatures: IN, qkvFeatures: H * D, outFeatures: OUT, inKvFeatures },
    ...{ biasInit: initializers.normal(0.5), rngs: new Rngs({ params: 1, dropout: 2 }), ...options },
  });
  // Scales that differ.
  for (const [name, { data }] of Object.entries(flattenParameters<Tensor<"f32">>(module.parameters()))) {
    if (name.endsWith("scale")) data.set([0.5, 1.5, 2.5, 3.5]);
  }
  const q = values([B, formula.Tq, IN], 1);
  const k = own === undefined ? q : values([B, formula.Tk, inKvFeatures], 2);
  const v = own === "kv" ? values([B, formula.Tk, inKvFeatures], 3) : k;
  const call = { ...(own && { inputsK: k }), ...(own === "kv" && { inputsV: v }), rngs: new Rngs({ dropout: 9 }) };
  return { module, q, k, v, call };
}

describe("gradients of multi-head attention equal central differences", () => {
  it.each(Object.keys(CASES))("%s", async (name) => {
    const one = CASES[name];
    const { module, q, k, v, call } = arrange(one);
    const { out, backward } = await module.vjp(q, { ...one.call, ...call });
    const parameters = flattenParameters<Tensor<"f32">>(module.parameters());
    const present: Inputs = {
      ...{ q: q.data, k: k.data, v: v.data },
      ...Object.fromEntries(Object.entries(parameters).map(([name, { data }]) => [name, data])),
    };
    expectClose(out.data, forward(present, one.formula), F32_STORED);

    const dOut = values(out.shape, 5);
    const loss = (moved: Inputs): number =>
      forward({ ...present, ...moved }, one.formula).reduce((sum, value, i) => sum + dOut.data[i] * value, 0);
    const gradients = await backward(dOut);
    const own = flattenParameters<Tensor<"f32">>(gradients.parameters);
    expect(Object.keys(own)).toEqual(Object.keys(parameters));
    for (const [name, { shape, data }] of Object.entries(own)) {
      expect(shape).toEqual(parameters[name].shape);
      const want = differences(present[name], (moved) => loss({ [name]: moved }));
      expectClose(data, want, F32_STORED);
    }
    // Inputs that are the same tensor move together.
    const inputs = { dInputsQ: q, ...(one.own && { dInputsK: k }), ...(one.own === "kv" && { dInputsV: v }) };
    expect(Object.keys(gradients).sort()).toEqual([...Object.keys(inputs), "parameters"].sort());
    for (const [name, input] of Object.entries(inputs)) {
      const moving = Object.entries({ q, k, v }).filter(([, t]) => t === input);
      const want = differences(input.data, (moved) => loss(Object.fromEntries(moving.map(([name]) => [name, moved]))));
      const got = gradients[name as keyof typeof inputs] as Tensor<"f32">;
      expect(got.shape).toEqual(input.shape);
      expectClose(got.data, want, F32_STORED);
    }
  });

  it("captures weights, too", async () => {
    const { module, q } = arrange(CASES["rotary, causal"]);
    const { out, weights } = await module.vjp(q, { mask: causal(), captureWeights: true });
    const plain = await module.forward(q, { mask: causal(), captureWeights: true });
    expect([out.data, weights?.data]).toEqual([plain.out.data, plain.weights.data]);
  });
});

describe("on an engine", () => {
  it.each(["rotary, causal", "rotary with RMS norms of queries and keys, packed documents and a window"])(
    "gradients are those of the host: %s",
    async (name) => {
      using engine = await createEngine({ backend: "wasm", threads: 0, maxBytes: 2 ** 26 });
      const { options, call = {} } = CASES[name];
      const { module, q } = arrange(CASES[name]);
      const onEngine = arrange({ ...CASES[name], options: { ...options, engine } }).module;
      const [want, got] = await Promise.all([module, onEngine].map((one) => one.vjp(q, call)));
      expectClose(got.out.data, want.out.data, F32_COMPUTED);
      const dOut = values(want.out.shape, 5);
      const [wanted, given] = await Promise.all([want, got].map(({ backward }) => backward(dOut)));
      expectClose(given.dInputsQ.data, wanted.dInputsQ.data, F32_COMPUTED);
      for (const [name, { data }] of Object.entries(flattenParameters<Tensor<"f32">>(wanted.parameters))) {
        expectClose(flattenParameters<Tensor<"f32">>(given.parameters)[name].data, data, F32_COMPUTED);
      }
    },
  );

  it("with dropout, the way back drops what the way there has dropped", async () => {
    using engine = await createEngine({ backend: "reference" });
    const [q, k, v] = [1, 2, 3].map((salt) => values([3, 2, 4], salt));
    const options = {
      ...{ engine, differentiate: true },
      dropout: { rate: 0.5, key: random.key(3), broadcast: false },
    };
    const { out, backward } = await dotProductAttention(q, k, v, options);
    const dOut = values(out.shape, 5);
    // The output is linear in the values: Σ dv·v = Σ dOut·out.
    const gradients = await backward?.(dOut);
    const dValue = gradients?.dValue as Tensor<"f32">;
    const sum = (a: Float32Array, b: Float32Array): number => a.reduce((total, value, i) => total + value * b[i], 0);
    expectClose([sum(dValue.data, v.data)], [sum(dOut.data, out.data)], F32_STORED);
    expect(dValue.data.some((value) => value === 0)).toBe(false);
  });

  it("refuses one that has no gradients", async () => {
    using engine = await createEngine({ backend: "reference" });
    const attentionOnly = { attention: engine.attention.bind(engine) };
    const { module, q } = arrange({ options: { engine: attentionOnly }, formula: SELF });
    expect((await module.forward(q)).out.shape).toEqual([B, 5, OUT]);
    await expect(module.vjp(q)).rejects.toThrow(
      "dotProductAttention: an engine with attentionGradients; got differentiate=true.",
    );
  });
});

describe("gradients of a bias", () => {
  it.each([undefined, { rate: RATE, key: DROPOUT_KEY, broadcast: true }])("dropout %j", async (dropped) => {
    const [q, k, v] = [values([3, 2, 2], 1), values([5, 1, 2], 2), values([5, 1, 3], 3)];
    const bias = values([2, 1, 5], 4); // one row for all queries
    const keep = dropped && random.bernoulli(DROPOUT_KEY, 1 - RATE, [3, 5]).data;
    const out = (bias: ArrayLike<number>): number[] =>
      Array.from({ length: 18 }, (_, at) => {
        const [i, h, d] = [Math.floor(at / 6), Math.floor(at / 3) % 2, at % 3];
        let [sum, total] = [0, 0];
        for (let j = 0; j < 5; j++) {
          const dot = q.data[(i * 2 + h) * 2] * k.data[j * 2] + q.data[(i * 2 + h) * 2 + 1] * k.data[j * 2 + 1];
          const weight = Math.exp(dot / Math.SQRT2 + bias[h * 5 + j]);
          total += weight;
          sum += weight * v.data[j * 3 + d] * (keep ? keep[i * 5 + j] / (1 - RATE) : 1);
        }
        return sum / total;
      });
    const result = await dotProductAttention(q, k, v, {
      ...{ bias, differentiate: true },
      ...(dropped && { dropout: dropped }),
    });
    expectClose(result.out.data, out(bias.data), F32_STORED);
    const dOut = values([3, 2, 3], 6);
    const gradients = await result.backward?.(dOut);
    const want = differences(bias.data, (bias) => out(bias).reduce((sum, value, i) => sum + dOut.data[i] * value, 0));
    expect(gradients?.dBias?.shape).toEqual([2, 1, 5]);
    expectClose(gradients?.dBias?.data as Float32Array, want, F32_STORED);
  });
});

describe("what has no gradients is refused", () => {
  it("an attention function without backward", async () => {
    const { module, q } = arrange({ options: { attentionFunction: (query) => ({ out: query }) }, formula: SELF });
    await expect(module.vjp(q)).rejects.toThrow(
      "MultiHeadAttention: an attention function that returns backward; got differentiate=true. dotProductAttention does.",
    );
  });

  it("a cache", async () => {
    const { module, q } = arrange({ formula: SELF });
    const cache = module.initCache({ batch: [B], maxLength: 5 });
    await expect(module.vjp(q, { cache } as never)).rejects.toThrow(
      "MultiHeadAttention.vjp: no cache. Pass all tokens at once, with mask: causal().",
    );
    expect(cache.length).toBe(0);
  });
});
