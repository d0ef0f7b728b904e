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
  RoPE,
  random,
} from "./index.ts";

type Sizes = { B: number; Tq: number; Tk: number; H: number; Hk: number; D: number };
type Visible = (b: number, h: number, i: number, j: number) => boolean;

function inputs({ B, Tq, Tk, H, Hk, D }: Sizes): [Tensor<"f32">, Tensor<"f32">, Tensor<"f32">] {
  return [values([B, Tq, H, D], 1), values([B, Tk, Hk, D], 2), values([B, Tk, Hk, D], 3)];
}

/** Weights [B, H, Tq, Tk] by the formula. */
function weightsOf(q: Tensor<"f32">, k: Tensor<"f32">, visible: Visible): number[] {
  const [B, Tq, H, D] = q.shape;
  const [, Tk, Hk] = k.shape;
  const weights: number[] = [];
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let i = 0; i < Tq; i++) {
        const row = Array.from({ length: Tk }, (_, j) => {
          if (!visible(b, h, i, j)) return 0;
          let dot = 0;
          for (let d = 0; d < D; d++) {
            dot +=
              q.data[((b * Tq + i) * H + h) * D + d] * k.data[((b * Tk + j) * Hk + Math.floor((h * Hk) / H)) * D + d];
          }
          return Math.exp(dot / Math.sqrt(D));
        });
        const sum = row.reduce((a, c) => a + c, 0);
        weights.push(...row.map((value) => (sum === 0 ? 0 : value / sum)));
      }
    }
  }
  return weights;
}

/** Σ weights · v, [B, Tq, H, D]. */
function outOf(weights: ArrayLike<number>, { B, Tq, Tk, H, Hk, D }: Sizes, v: Tensor<"f32">): number[] {
  return Array.from({ length: B * Tq * H * D }, (_, n) => {
    const [d, h, i, b] = [n % D, Math.floor(n / D) % H, Math.floor(n / (D * H)) % Tq, Math.floor(n / (D * H * Tq))];
    let sum = 0;
    for (let j = 0; j < Tk; j++) {
      sum += weights[((b * H + h) * Tq + i) * Tk + j] * v.data[((b * Tk + j) * Hk + Math.floor((h * Hk) / H)) * D + d];
    }
    return sum;
  });
}

const SIZES = { B: 2, Tq: 5, Tk: 7, H: 6, Hk: 3, D: 4 };
const everyone: Visible = () => true;

function maskTensor(shape: readonly number[], allowed: (index: number) => boolean): Tensor<"u8"> {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    "u8",
    shape,
    Uint8Array.from({ length: size }, (_, i) => Number(allowed(i))),
  );
}

describe("dotProductAttention", () => {
  it("is the formula, for grouped heads", async () => {
    const [q, k, v] = inputs(SIZES);
    const { out, ...rest } = await dotProductAttention(q, k, v);
    expect(out.shape).toEqual([2, 5, 6, 4]);
    expect(rest).toEqual({});
    expectClose(out.data, outOf(weightsOf(q, k, everyone), SIZES, v), F32_STORED);
  });

  it("takes any batch axes, or none", async () => {
    const [q, k, v] = inputs({ ...SIZES, B: 6 });
    const flat = await dotProductAttention(q, k, v);
    const split = (t: Tensor<"f32">) => tensor("f32", [2, 3, ...t.shape.slice(1)], t.data);
    const { out } = await dotProductAttention(split(q), split(k), split(v));
    expect(out.shape).toEqual([2, 3, 5, 6, 4]);
    expect(out.data).toEqual(flat.out.data);
    const first = (t: Tensor<"f32">) => tensor("f32", t.shape.slice(1), t.data.subarray(0, t.data.length / 6));
    const alone = await dotProductAttention(first(q), first(k), first(v), { captureWeights: true });
    expect([alone.out.shape, alone.weights?.shape]).toEqual([
      [5, 6, 4],
      [6, 5, 7],
    ]);
    expect(alone.out.data).toEqual(flat.out.data.subarray(0, 120));
  });

  it("joins array masks of any broadcast shape and expressions by AND", async () => {
    const [q, k, v] = inputs(SIZES);
    const shapes = [[2, 6, 5, 7], [2, 1, 5, 7], [1, 6, 1, 7], [6, 5, 1], [5, 7], [7], []];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...shapes), fc.nat(99), fc.boolean(), async (shape, salt, windowed) => {
        const array = maskTensor(shape, (i) => (i * 7 + salt) % 3 > 0);
        const padded = [...new Array<number>(4 - shape.length).fill(1), ...shape];
        const at = (...index: number[]) =>
          index.reduce((sum, n, axis) => sum * padded[axis] + (padded[axis] === 1 ? 0 : n), 0);
        const visible: Visible = (b, h, i, j) =>
          array.data[at(b, h, i, j)] !== 0 && (!windowed || (j <= i + 2 && j > i + 2 - 3)); // queries stand at the end
        const mask = windowed ? [slidingWindow(3), array] : array;
        const { out, weights } = await dotProductAttention(q, k, v, { mask, captureWeights: true });
        const want = weightsOf(q, k, visible);
        expectClose(weights?.data ?? [], want, F32_STORED);
        expectClose(out.data, outOf(want, SIZES, v), F32_STORED);
      }),
      { numRuns: 40 },
    );
  });

  it("gives 0 where a query sees nothing", async () => {
    const [q, k, v] = inputs(SIZES);
    const mask = maskTensor([5, 1], (i) => i !== 2);
    const { out, weights } = await dotProductAttention(q, k, v, { mask, captureWeights: true });
    expect(out.data.subarray(2 * 24, 3 * 24)).toEqual(new Float32Array(24));
    expect(weights?.data.subarray(2 * 7, 3 * 7)).toEqual(new Float32Array(7));
  });

  it("passes rows, bias and scale on to attention", async () => {
    const sizes = { B: 2, Tq: 5, Tk: 5, H: 2, Hk: 1, D: 3 };
    const [q, k, v] = inputs(sizes);
    const segments = Int32Array.of(0, 0, 1, 1, -1, 3, 3, 3, 3, 4);
    const positions = [0, 1, 0, 1, 2, 5, 6, 7, 8, 9];
    const bias = values([2, 5, 5], 7);
    const { out } = await dotProductAttention(q, k, v, {
      ...{ mask: [causal(), sameSegment()], querySegments: segments, keySegments: segments },
      ...{ queryPositions: positions, keyPositions: positions, bias, scale: 1 / Math.sqrt(3) },
    });
    const biased = weightsOf(q, k, everyone).map((weight, n) => weight * Math.exp(bias.data[n % 50]));
    const visible = (b: number, i: number, j: number) =>
      segments[b * 5 + i] >= 0 &&
      segments[b * 5 + i] === segments[b * 5 + j] &&
      positions[b * 5 + j] <= positions[b * 5 + i];
    const masked = biased.map((weight, n) => (visible(Math.floor(n / 50), Math.floor(n / 5) % 5, n % 5) ? weight : 0));
    const want = masked.map((weight, n) => {
      const sum = masked.slice(n - (n % 5), n - (n % 5) + 5).reduce((a, b) => a + b, 0);
      return sum === 0 ? 0 : weight / sum;
    });
    expectClose(out.data, outOf(want, sizes, v), F32_STORED);
  });

  it("drops weights with Flax's draws, and captures them from before", async () => {
    const [q, k, v] = inputs(SIZES);
    const key = random.key(5);
    const all = weightsOf(q, k, everyone);
    for (const broadcast of [true, false]) {
      const dropout = { rate: 0.4, key, broadcast };
      const { out, weights } = await dotProductAttention(q, k, v, { dropout, captureWeights: true });
      const keep = random.bernoulli(key, 0.6, broadcast ? [1, 1, 5, 7] : [2, 6, 5, 7]).data;
      const dropped = all.map((weight, n) => (keep[broadcast ? n % 35 : n] * weight) / 0.6);
      expectClose(weights?.data ?? [], all, F32_STORED);
      expectClose(out.data, outOf(dropped, SIZES, v), F32_STORED);
    }
  });

  it("computes on an engine where one is given", async () => {
    using engine = await createEngine({ backend: "wasm", threads: 0 });
    const [q, k, v] = inputs(SIZES);
    const mask = [causal(), maskTensor([6, 5, 7], (i) => i % 4 !== 1)];
    const options: AttentionFunctionOptions = { mask, captureWeights: true };
    const [host, there] = [
      await dotProductAttention(q, k, v, options),
      await dotProductAttention(q, k, v, { ...options, engine }),
    ];
    expectClose(there.out.data, host.out.data, F32_COMPUTED);
    expect(there.weights).toEqual(host.weights);
    const dropout = { rate: 0.5, key: random.key(1), broadcast: false };
    const dropped = await dotProductAttention(q, k, v, { engine, dropout });
    expect(dropped.out.data).not.toEqual(there.out.data);
    await expect(dotProductAttention(q, k, v, { engine, dropout: { ...dropout, broadcast: true } })).rejects.toThrow(
      "dotProductAttention: dropout that is the same in every head and batch entry needs the host; got broadcast=true. " +
        "Set broadcastDropout to false, or leave out the engine.",
    );
  });

  it("refuses what does not fit", async () => {
    const [q, k, v] = inputs(SIZES);
    const refuses = (options: AttentionFunctionOptions, message: string) =>
      expect(dotProductAttention(q, k, v, options)).rejects.toThrow(message);
    await refuses(
      { mask: maskTensor([2, 3, 5, 7], () => true) },
      "dotProductAttention: a mask must be broadcastable to [..., H, Tq, Tk]; got mask=[2,3,5,7], target=[2,6,5,7].",
    );
    await refuses(
      { mask: values([5, 7], 1) as never },
      'dotProductAttention: a mask must be an expression or a u8 tensor; got dtype="f32".',
    );
    await refuses(
      { queryPositions: [1, 2] },
      "dotProductAttention: queryPositions must be [T] or [B, T]; got length=2, T=5, B=2.",
    );
    await refuses(
      { queryPositions: [1, 2, 3, 4, 5.5] },
      "dotProductAttention: queryPositions must be integers below 2^30 in magnitude; got index=4, position=5.5.",
    );
    await expect(dotProductAttention(q, values([3, 7, 3, 4], 1), v)).rejects.toThrow(
      "dotProductAttention: query, key and value must have the same batch axes; " +
        "got query=[2,5,6,4], key=[3,7,3,4], value=[2,7,3,4].",
    );
    await expect(dotProductAttention(values([5, 4], 1), k, v)).rejects.toThrow(
      "dotProductAttention: query, key and value must be [..., T, H, D]; got query=[5,4], key=[2,7,3,4], value=[2,7,3,4].",
    );
  });
});

describe("dotProductAttentionWithRope", () => {
  const rope = new RoPE({ headDim: 4, theta: 100 });
  const attend = dotProductAttentionWithRope({ rope });

  it("rotates queries and keys by their own positions, and masks by them", async () => {
    const [q, k, v] = inputs(SIZES);
    const [queryPositions, keyPositions] = [
      [2, 3, 5, 6, 9],
      [0, 2, 3, 4, 7, 8, 11],
    ];
    const { out } = await attend(q, k, v, { queryPositions, keyPositions, mask: causal() });
    const turned = [rope.forward(q, { positions: queryPositions }), rope.forward(k, { positions: keyPositions })];
    const visible: Visible = (_b, _h, i, j) => keyPositions[j] <= queryPositions[i];
    expectClose(out.data, outOf(weightsOf(turned[0], turned[1], visible), SIZES, v), F32_STORED);
  });

  it("does not change when all positions move together", async () => {
    const [q, k, v] = inputs(SIZES);
    const moved = async (by: number) => {
      const positions = (length: number) => Array.from({ length }, (_, t) => 3 * t + by);
      return (await attend(q, k, v, { queryPositions: positions(5), keyPositions: positions(7) })).out.data;
    };
    expectClose(await moved(1000), await moved(0), F32_COMPUTED);
  });

  it("turns both sides by the frequencies of one length", async () => {
    const schedule = { type: "dynamic", dim: 4, theta: 100, factor: 2, maxLength: 8 } as const;
    const [q, k, v] = inputs({ ...SIZES, Tq: 1 });
    const options = { queryPositions: [3], keyPositions: [0, 5, 10, 15, 20, 25, 30] };
    const [free, pinned] = [{}, { length: 31 }].map((length) => new RoPE({ headDim: 4, schedule, ...length }));
    const [a, b] = await Promise.all(
      [free, pinned].map((one) => dotProductAttentionWithRope({ rope: one })(q, k, v, options)),
    );
    expect(a.out.data).toEqual(b.out.data);
  });

  it("starts both sides at 0 without positions, and refuses to guess where lengths differ", async () => {
    const [q, k, v] = inputs({ ...SIZES, Tq: 7 });
    const range = [0, 1, 2, 3, 4, 5, 6];
    const [plain, told] = [
      await attend(q, k, v),
      await attend(q, k, v, { queryPositions: range, keyPositions: range }),
    ];
    expect(plain.out.data).toEqual(told.out.data);
    const [short] = inputs(SIZES);
    await expect(attend(short, k, v)).rejects.toThrow(
      "dotProductAttentionWithRope: queryPositions and keyPositions must be given together, and must be given where " +
        "lengths differ; got Tq=5, Tk=7, queryPositions=false, keyPositions=false. " +
        "Only the caller knows where queries stand among the keys.",
    );
    await expect(attend(q, k, v, { queryPositions: range })).rejects.toThrow("queryPositions=true, keyPositions=false");
  });

  it("hands everything else to the attention function it is given", async () => {
    const [q, k, v] = inputs({ ...SIZES, Tq: 7 });
    const seen: AttentionFunctionOptions[] = [];
    const spy = dotProductAttentionWithRope({
      rope,
      attention: (query, _key, _value, options = {}) => {
        seen.push(options);
        return { out: query };
      },
    });
    await spy(q, k, v, { captureWeights: true, scale: 2 });
    expect(seen).toMatchObject([{ captureWeights: true, scale: 2 }]);
    expect(seen[0].queryPositions).toHaveLength(14);
  });
});
