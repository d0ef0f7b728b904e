import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED, F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { createEngine } from "../engine/index.ts";
import { causal, sameSegment, slidingWindow } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import {
  type AttentionFunctionOptions,
  dotProductAttention,
  dotProductAttentionWithRope,
  flattenParameters,
  initializers,
  MultiHeadAttention,
  type MultiHeadAttentionOptions,
  RMSNorm,
  Rngs,
  RoPE,
  random,
} from "./index.ts";

type Extra = Partial<MultiHeadAttentionOptions>;

/** 6 heads of 4 over 2 key-value heads, 5 features in, random biases. */
function grouped(extra: Extra = {}): MultiHeadAttention {
  const sizes = { numHeads: 6, numKvHeads: 2, inFeatures: 5, qkvFeatures: 24, outFeatures: 7 };
  return new MultiHeadAttention({ ...sizes, biasInit: initializers.normal(1), rngs: new Rngs(3), ...extra });
}

const rope = new RoPE({ headDim: 4, theta: 100 });
const withRope: Extra = { attentionFunction: dotProductAttentionWithRope({ rope }) };

/** Tokens from `start` to `end` of [B, T, C]. */
function tokens(x: Tensor<"f32">, start: number, end: number): Tensor<"f32"> {
  const [B, T, C] = x.shape;
  const rows = Array.from({ length: B }, (_, b) => [...x.data.subarray((b * T + start) * C, (b * T + end) * C)]);
  return tensor("f32", [B, end - start, C], Float32Array.from(rows.flat()));
}

/** Tokens of [B, T, C] next to each other. */
function joined(parts: readonly Tensor<"f32">[]): number[] {
  const [B] = parts[0].shape;
  return Array.from({ length: B }, (_, b) =>
    parts.flatMap(({ shape, data }) => [...data.subarray(b * shape[1] * shape[2], (b + 1) * shape[1] * shape[2])]),
  ).flat();
}

/** Cuts 0 to T into pieces. */
const pieces = (T: number) =>
  fc.subarray(Array.from({ length: T - 1 }, (_, i) => i + 1)).map((cuts) => [0, ...cuts, T]);

describe("decoding", () => {
  const T = 11;
  const x = values([2, T, 5], 1);
  const variants: [string, Extra][] = [
    ["plain", {}],
    ["rotary", withRope],
    ["rotary with qk-norm", { ...withRope, qkNorm: "rms" }],
    [
      "rotary with kept angles",
      { attentionFunction: dotProductAttentionWithRope({ rope: new RoPE({ headDim: 4, maxPositions: 64 }) }) },
    ],
  ];

  it.each(variants)("in pieces of any length equals the causal full pass: %s", async (_, extra) => {
    const module = grouped(extra);
    const full = (await module.forward(x, { mask: causal() })).out;
    await fc.assert(
      fc.asyncProperty(pieces(T), async (cuts) => {
        const cache = module.initCache({ batch: [2], maxLength: T + 2 });
        const outs: Tensor<"f32">[] = [];
        for (let i = 1; i < cuts.length; i++) {
          outs.push((await module.forward(tokens(x, cuts[i - 1], cuts[i]), { cache })).out);
        }
        expect(cache.length).toBe(T);
        expectClose(joined(outs), full.data, F32_STORED);
      }),
      { numRuns: 12 },
    );
  });

  it("with explicit positions, a window and segments equals the full pass: packed and left-padded sequences", async () => {
    const module = grouped(withRope);
    // Sequence 0 holds two documents, sequence 1 starts with two tokens of padding.
    const positions = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const segments = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const mask = sameSegment().and(slidingWindow(5));
    const slice = (row: number[], start: number, end: number) =>
      Int32Array.from([0, T].flatMap((at) => row.slice(at + start, at + end)));
    const full = await module.forward(x, {
      ...{ mask: [causal(), mask], queryPositions: positions, querySegments: Int32Array.from(segments) },
    });
    const cache = module.initCache({ batch: [2], maxLength: T });
    const outs: Tensor<"f32">[] = [];
    for (const [start, end] of [
      [0, 3],
      [3, 4],
      [4, 9],
      [9, 10],
      [10, 11],
    ]) {
      const { out } = await module.forward(tokens(x, start, end), {
        ...{ cache, mask, queryPositions: slice(positions, start, end), querySegments: slice(segments, start, end) },
      });
      outs.push(out);
    }
    expectClose(joined(outs), full.out.data, F32_STORED);

    // Each document alone gives the same rows.
    const second = await module.forward(tokens(tensor("f32", [1, T, 5], x.data.subarray(0, T * 5)), 4, 11), {
      mask: [causal(), slidingWindow(5)],
    });
    expectClose(full.out.data.subarray(4 * 7, 11 * 7), second.out.data, F32_STORED);
    const unpadded = await module.forward(tokens(tensor("f32", [1, T, 5], x.data.subarray(T * 5)), 2, 11), {
      mask: [causal(), slidingWindow(5)],
    });
    expectClose(full.out.data.subarray((T + 2) * 7), unpadded.out.data, F32_STORED);
  });

  it("continues after the last position of each sequence", async () => {
    const module = grouped(withRope);
    const cache = module.initCache({ batch: [2], maxLength: 5 });
    await module.forward(tokens(x, 0, 2), { cache, queryPositions: [3, 4, 10, 20] });
    await module.forward(tokens(x, 2, 4), { cache });
    expect([...cache.positions]).toEqual([3, 4, 5, 6, 0, 10, 20, 21, 22, 0]);
    cache.reset();
    expect([cache.length, ...cache.positions]).toEqual(new Array(11).fill(0));
    await module.forward(tokens(x, 2, 3), { cache });
    expect(cache.length).toBe(1);
  });

  it("takes masks over the slots in use or, as Flax's, over all slots", async () => {
    const module = grouped();
    const hide = (length: number) =>
      tensor(
        "u8",
        [length],
        Uint8Array.from({ length }, (_, j) => Number(j !== 1)),
      );
    const full = await module.forward(x, { mask: [causal(), hide(T)] });
    const cache = module.initCache({ batch: [2], maxLength: 17 });
    await module.forward(tokens(x, 0, 8), { cache, mask: hide(17) });
    const { out } = await module.forward(tokens(x, 8, T), { cache, mask: hide(T) });
    expectClose(out.data, joined([tokens(full.out, 8, T)]), F32_STORED);
  });

  it("works without batch axes and on an engine", async () => {
    using engine = await createEngine({ backend: "wasm", threads: 0 });
    const one = tensor("f32", [T, 5], x.data.subarray(0, T * 5));
    const module = grouped({ ...withRope, engine });
    const full = await grouped(withRope).forward(one, { mask: causal() });
    const cache = module.initCache({ maxLength: T });
    for (let t = 0; t < T; t++) {
      const token = tensor("f32", [1, 5], one.data.subarray(t * 5, t * 5 + 5));
      const { out } = await module.forward(token, { cache });
      expectClose(out.data, full.out.data.subarray(t * 7, t * 7 + 7), F32_COMPUTED);
    }
  });

  it("refuses what a cache cannot hold, and leaves the cache as it was", async () => {
    const module = grouped();
    const cache = module.initCache({ batch: [2], maxLength: 4 });
    await module.forward(tokens(x, 0, 3), { cache });
    const refuses = (inputs: Tensor<"f32">, call: object, message: string) =>
      expect(module.forward(inputs, { cache, ...call })).rejects.toThrow(message);
    await refuses(
      tokens(x, 3, 5),
      {},
      "DecodeCache: the tokens must fit into the free slots; got tokens=2, length=3, maxLength=4. " +
        "Make a cache with a larger maxLength.",
    );
    await refuses(
      tokens(x, 3, 4),
      { mask: tensor("u8", [3], Uint8Array.of(1, 1, 1)) },
      "dotProductAttention: a mask must be broadcastable to [..., H, Tq, Tk]; got mask=[3], target=[2,6,1,4].",
    );
    await refuses(
      values([3, 1, 5], 1),
      {},
      "DecodeCache: keys and values must have the batch axes and heads of the cache; " +
        "got key=[3,1,2,4], value=[3,1,2,4], batch=[2], heads=[2,4].",
    );
    await refuses(
      tokens(x, 3, 4),
      { inputsK: tokens(x, 3, 4) },
      'MultiHeadAttention.forward: with a cache, keys must be those of the queries\' own tokens; got given="inputsK". ' +
        "The cache knows the positions and segments of earlier tokens.",
    );
    await refuses(
      tokens(x, 3, 4),
      { querySegments: Int32Array.of(0, 0) },
      "DecodeCache: segments in all calls or in none; got segments=true.",
    );
    expect(cache.length).toBe(3);
    const both = [module.forward(tokens(x, 3, 4), { cache }), module.forward(tokens(x, 3, 4), { cache })];
    const [first, second] = await Promise.allSettled(both);
    expect(first.status).toBe("fulfilled");
    expect(second).toMatchObject({
      reason: { message: "DecodeCache: one call at a time. Await each step before the next one." },
    });
    expect(cache.length).toBe(4);
    expect(() => module.initCache({ maxLength: 0 })).toThrow(
      "DecodeCache: maxLength must be a positive integer; got maxLength=0.",
    );
    expect(() => module.initCache({ batch: [2 ** 20], maxLength: 2 ** 20 })).toThrow(
      "DecodeCache: at most 2^30 numbers; got shape=[1048576,1048576,2,4].",
    );
  });
});

describe("cross-attention", () => {
  const inputsQ = values([2, 5, 5], 1);
  const inputsK = values([2, 7, 3], 2);
  const inputsV = values([2, 7, 3], 3);

  it("makes keys and values of their own inputs, values of the keys' where they have none", async () => {
    const module = grouped({ inKvFeatures: 3 });
    const separate = await module.forward(inputsQ, { inputsK, inputsV });
    const q = module.query.forward(inputsQ);
    const { out } = await dotProductAttention(q, module.key.forward(inputsK), module.value.forward(inputsV));
    expect(separate.out).toEqual(module.out.forward(out));
    const shared = await module.forward(inputsQ, { inputsK });
    expect(shared.out).toEqual((await module.forward(inputsQ, { inputsK, inputsV: inputsK })).out);
    expect(shared.out.data).not.toEqual(separate.out.data);
  });

  it("rotates queries and keys by separate positions; equal shifts of both change nothing", async () => {
    const module = grouped({ ...withRope, inKvFeatures: 3 });
    const at = async (queryFrom: number, keyFrom: number) => {
      const positions = (length: number, from: number) => Array.from({ length }, (_, t) => from + 2 * t);
      const call = { inputsK, inputsV, queryPositions: positions(5, queryFrom), keyPositions: positions(7, keyFrom) };
      return (await module.forward(inputsQ, call)).out.data;
    };
    const here = await at(10, 0);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: -5000, max: 5000 }), async (shift) => {
        expectClose(await at(10 + shift, shift), here, F32_COMPUTED);
      }),
      { numRuns: 10 },
    );
    expect(await at(11, 0)).not.toEqual(here);
  });

  it("refuses inputs that do not fit", async () => {
    const module = grouped({ inKvFeatures: 3 });
    const refuses = (inputs: Tensor<"f32">, call: object, message: string) =>
      expect(module.forward(inputs, call)).rejects.toThrow(message);
    await refuses(
      inputsQ,
      { inputsV },
      "MultiHeadAttention.forward: inputsK must be given with inputsV. Pass inputs that keys and values share as inputsK.",
    );
    await refuses(inputsQ, {}, "MultiHeadAttention.forward: inputsK must be [..., T, 3]; got shape=[2,5,5].");
    await refuses(
      values([5], 1),
      { inputsK },
      "MultiHeadAttention.forward: inputsQ must be [..., T, 5]; got shape=[5].",
    );
    await refuses(
      inputsQ,
      { inputsK, inputsV: values([2, 6, 3], 1) },
      "MultiHeadAttention.forward: inputsK and inputsV must have the same batch axes and length; " +
        "got inputsK=[2,7,3], inputsV=[2,6,3].",
    );
    await refuses(
      inputsQ,
      { inputsK: values([3, 7, 3], 1) },
      "dotProductAttention: query, key and value must have the same batch axes; " +
        "got query=[2,5,6,4], key=[3,7,2,4], value=[3,7,2,4].",
    );
  });
});

describe("the attention function", () => {
  const x = values([2, 5, 5], 1);

  /** What the function was told, by name. */
  async function told(call: object, extra: Extra = {}): Promise<string[]> {
    let names: string[] = [];
    const attentionFunction = (
      query: Tensor<"f32">,
      _k: unknown,
      _v: unknown,
      options: AttentionFunctionOptions = {},
    ) => {
      names = Object.keys(options).sort();
      return { out: query };
    };
    await grouped({ ...extra, attentionFunction }).forward(x, call);
    return names;
  }

  it("is told nothing that was not given, and positions only when given", async () => {
    expect(await told({})).toEqual([]);
    expect(await told({ mask: causal() })).toEqual(["mask"]);
    expect(await told({ mask: undefined, queryPositions: undefined })).toEqual([]);
    expect(await told({ inputsK: x, queryPositions: [0, 1, 2, 3, 4] })).toEqual(["queryPositions"]);
  });

  it("is told the keys' positions and segments in self-attention: those of the queries", async () => {
    const rows = { queryPositions: [0, 1, 2, 3, 4], querySegments: new Int32Array(10) };
    expect(await told(rows)).toEqual(["keyPositions", "keySegments", "queryPositions", "querySegments"]);
  });

  it("is told of positions when decoding, which only the cache knows", async () => {
    const cache = grouped().initCache({ batch: [2], maxLength: 5 });
    expect(await told({ cache })).toEqual(["keyPositions", "mask", "queryPositions"]);
  });

  it("must keep the shape of the queries", async () => {
    const module = grouped({ attentionFunction: (_query, key) => ({ out: key }) });
    await expect(module.forward(x)).rejects.toThrow(
      "MultiHeadAttention: the attention function must keep the shape of its queries; " +
        "got query=[2,5,6,4], out=[2,5,2,4].",
    );
  });

  it("returns weights only when asked, and must return them then", async () => {
    const module = grouped(withRope);
    expect(Object.keys(await module.forward(x, { mask: causal() }))).toEqual(["out"]);
    const { weights } = await module.forward(x, { mask: causal(), captureWeights: true });
    expect(weights.shape).toEqual([2, 6, 5, 5]);
    weights.data.forEach((weight, n) => {
      const [i, j] = [Math.floor(n / 5) % 5, n % 5];
      expect(j > i ? weight === 0 : weight > 0).toBe(true);
    });
    const sums = Array.from({ length: 60 }, (_, row) =>
      weights.data.subarray(row * 5, row * 5 + 5).reduce((a, b) => a + b),
    );
    expectClose(sums, new Array(60).fill(1), F32_STORED);
    const without = grouped({ attentionFunction: (query) => ({ out: query }) });
    await expect(without.forward(x, { captureWeights: true })).rejects.toThrow(
      "MultiHeadAttention: an attention function that returns weights; got captureWeights=true. dotProductAttention does.",
    );
  });
});

describe("MultiHeadAttention", () => {
  const x = values([2, 5, 5], 1);

  it("names its parameters as Flax does, and loads them", async () => {
    const module = grouped({ qkNorm: "layer" });
    const shapes = Object.entries(flattenParameters(module.parameters())).map(
      ([name, { shape }]) => `${name} ${shape}`,
    );
    expect(shapes).toEqual([
      ...[
        "query.kernel 5,6,4",
        "query.bias 6,4",
        "key.kernel 5,2,4",
        "key.bias 2,4",
        "value.kernel 5,2,4",
        "value.bias 2,4",
      ],
      ...["query_ln.scale 4", "key_ln.scale 4", "out.kernel 6,4,7", "out.bias 7"],
    ]);
    const other = grouped({ qkNorm: "layer", rngs: new Rngs(99) });
    other.load(module.parameters());
    expect((await other.forward(x)).out).toEqual((await module.forward(x)).out);
    expect(Object.keys(flattenParameters(grouped({ useBias: false }).parameters()))).toEqual([
      ...["query.kernel", "key.kernel", "value.kernel", "out.kernel"],
    ]);
  });

  it("draws parameters in Flax's order, norms before the output", () => {
    const key = (n: number) => random.foldIn(random.key(3), n);
    const lecun = initializers.lecunNormal();
    const kernels = (extra: Extra) => {
      const { query, key: keys, value, out } = grouped({ biasInit: initializers.zeros(), ...extra });
      return [query, keys, value, out].map(({ kernel }) => kernel.data);
    };
    const want = (counts: number[]) =>
      [
        [5, 24],
        [5, 8],
        [5, 8],
        [24, 7],
      ].map((shape, i) => lecun(key(counts[i]), shape).data);
    expect(kernels({})).toEqual(want([0, 2, 4, 6]));
    expect(kernels({ useBias: false })).toEqual(want([0, 1, 2, 3]));
    expect(kernels({ qkNorm: "layer" })).toEqual(want([0, 2, 4, 8]));
  });

  it("takes an RMSNorm for queries and keys", async () => {
    const module = grouped({ qkNorm: "rms" });
    expect(module.queryNorm).toBeInstanceOf(RMSNorm);
    const { weights } = await module.forward(x, { captureWeights: true });
    const norm = (t: Tensor<"f32">) => new RMSNorm(4, { rngs: new Rngs(0) }).forward(t);
    const [q, k] = [norm(module.query.forward(x)), norm(module.key.forward(x))];
    const direct = await dotProductAttention(q, k, k, { captureWeights: true });
    expect(weights).toEqual(direct.weights);
  });

  it("drops weights unless deterministic, by keys of the dropout stream", async () => {
    const module = grouped({ dropoutRate: 0.5, rngs: new Rngs({ params: 3, dropout: 4 }) });
    const plain = (await grouped({ rngs: new Rngs(3) }).forward(x)).out.data;
    expect((await module.forward(x, { deterministic: true })).out.data).toEqual(plain);
    const draw = async (rngs?: Rngs) =>
      (await module.forward(x, { deterministic: false, ...(rngs === undefined ? {} : { rngs }) })).out.data;
    const [first, second] = [await draw(), await draw()];
    expect(first).not.toEqual(plain);
    expect(second).not.toEqual(first);
    // The module's stream is forked: foldIn(foldIn(seed, 0), 0) is its first key.
    expect(await draw(new Rngs(random.foldIn(random.key(4), 0)))).toEqual(first);
    await expect(module.forward(x)).rejects.toThrow(
      "MultiHeadAttention.forward: deterministic must be given, to the module or the call, with a dropout rate; " +
        "got dropoutRate=0.5. Pass true to drop nothing.",
    );
    const always = grouped({ dropoutRate: 0.5, deterministic: true, rngs: new Rngs(3) });
    expect((await always.forward(x)).out.data).toEqual(plain);
  });

  it("refuses sizes and options that make no sense", () => {
    const refuses = (extra: Extra, message: string) => expect(() => grouped(extra)).toThrow(message);
    refuses(
      { qkvFeatures: 25 },
      "MultiHeadAttention: qkvFeatures must be a multiple of numHeads; got qkvFeatures=25, numHeads=6.",
    );
    refuses(
      { numKvHeads: 4 },
      "MultiHeadAttention: numHeads must be a multiple of numKvHeads; got numHeads=6, numKvHeads=4.",
    );
    refuses({ numHeads: 0 }, "MultiHeadAttention: numHeads must be a positive integer; got numHeads=0.");
    refuses({ dropoutRate: 1 }, "MultiHeadAttention: dropoutRate must be from 0 to below 1; got dropoutRate=1.");
    refuses({ qkNorm: "group" as "rms" }, 'MultiHeadAttention: qkNorm must be "layer" or "rms"; got qkNorm="group".');
  });
});
