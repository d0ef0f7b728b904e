import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED, F64_COMPUTED } from "../../test/support/tolerances.ts";
import { causal, full, sameSegment, slidingWindow } from "../mask/index.ts";
import { f32, type Tensor, tensor, zeros } from "../tensor.ts";
import { referenceAttention, referenceState } from "./reference.ts";
import type { DenseAttentionRequest } from "./spec.ts";
import { finishState, mergeStates, sinkState } from "./state.ts";

/** Values in [−1, 1) that differ from place to place; the same for the same salt. */
function values(shape: readonly number[], salt: number): Tensor<"f32"> {
  const size = shape.reduce((a, b) => a * b, 1);
  return f32(
    shape,
    Array.from({ length: size }, (_, i) => (((i + 1) * (salt * 7919 + 104729)) % 2003) / 1001.5 - 1),
  );
}

describe("referenceAttention", () => {
  it("gives the softmax average of two keys, worked by hand", () => {
    // scores ln 3 and 0: weights 3/4 and 1/4, lse ln 4.
    const { out, lse, maxLogits } = referenceAttention({
      q: f32([1, 1, 1], [1]),
      k: f32([2, 1, 1], [Math.log(3), 0]),
      v: f32([2, 1, 2], [4, 8, 0, 4]),
      scale: 1,
    });
    expect(out.shape).toEqual([1, 1, 2]);
    expect(out.data[0]).toBeCloseTo(3, 6);
    expect(out.data[1]).toBeCloseTo(7, 6);
    expect(lse.data[0]).toBeCloseTo(Math.log(4), 6);
    expect(maxLogits.data[0]).toBeCloseTo(Math.log(3), 6);
  });

  it("divides scores by sqrt(D) when no scale is given", () => {
    const request = { q: values([3, 1, 5], 1), k: values([7, 1, 5], 2), v: values([7, 1, 2], 3) };
    const scaled = referenceAttention({ ...request, scale: 1 / Math.sqrt(5) });
    expect(referenceAttention(request).out.data).toEqual(scaled.out.data);
  });

  it("lets query head h read key-value head floor(h / (H / Hk))", () => {
    const q = zeros("f32", [1, 6, 3]);
    const v = f32([1, 2, 1], [10, 20]); // one key, so the output is the value of the head that was read
    const { out } = referenceAttention({ q, k: zeros("f32", [1, 2, 3]), v });
    expect([...out.data]).toEqual([10, 10, 10, 20, 20, 20]);
  });

  it("aligns causal queries to the end of the keys when no positions are given", () => {
    const request = { q: zeros("f32", [2, 1, 1]), k: zeros("f32", [5, 1, 1]), v: f32([5, 1, 1], [1, 2, 3, 4, 5]) };
    const { out } = referenceAttention({ ...request, mask: causal() });
    expect([...out.data]).toEqual([2.5, 3]);
  });

  it("gives zeros and −Infinity to rows that see nothing, and to padding", () => {
    const { out, lse, maxLogits } = referenceAttention({
      q: values([3, 2, 5], 1),
      k: values([7, 2, 5], 2),
      v: values([7, 2, 3], 3),
      mask: full(),
      querySegments: Int32Array.of(-1, 4, 9),
      keySegments: new Int32Array(7).fill(-1),
    });
    expect([...out.data]).toEqual(Array(18).fill(0));
    expect([...lse.data]).toEqual(Array(6).fill(-Infinity));
    expect([...maxLogits.data]).toEqual([-Infinity, -Infinity]);
  });

  it("keeps a masked key out even when its score would win", () => {
    const { out } = referenceAttention({
      q: f32([1, 1, 1], [1]),
      k: f32([2, 1, 1], [3e38, 1]),
      v: f32([2, 1, 1], [99, 5]),
      mask: sameSegment(),
      querySegments: Int32Array.of(1),
      keySegments: Int32Array.of(2, 1),
    });
    expect(out.data[0]).toBe(5);
  });

  it("applies soft cap, then ALiBi, then bias", () => {
    const { lse } = referenceAttention({
      q: f32([1, 1, 1], [6]),
      k: f32([1, 1, 1], [1]),
      v: f32([1, 1, 1], [1]),
      scale: 0.5,
      softcap: 2,
      alibiSlopes: [0.25],
      queryPositions: Int32Array.of(11),
      keyPositions: Int32Array.of(7),
      bias: f32([1], [0.125]),
    });
    expect(lse.data[0]).toBeCloseTo(2 * Math.tanh(3 / 2) - 0.25 * 4 + 0.125, 6);
  });

  it("broadcasts a bias of [H, 1, Tk] over batch and queries", () => {
    const bias = f32([2, 1, 3], [0, 0, Math.log(2), Math.log(5), 0, 0]);
    const { out } = referenceAttention({
      q: zeros("f32", [2, 1, 2, 1]),
      k: zeros("f32", [2, 3, 1, 1]),
      v: f32([2, 3, 1, 1], [0, 0, 1, 1, 0, 0]),
      bias,
    });
    expect(out.data[0]).toBeCloseTo(2 / 4, 6);
    expect(out.data[1]).toBeCloseTo(1 / 7, 6);
    expect(out.data[2]).toBeCloseTo(1 / 4, 6);
    expect(out.data[3]).toBeCloseTo(5 / 7, 6);
  });

  it("counts a sink once in the denominator and gives it no value", () => {
    const request = { q: zeros("f32", [1, 1, 1]), k: zeros("f32", [3, 1, 1]), v: f32([3, 1, 1], [1, 2, 3]) };
    const { out, lse, maxLogits } = referenceAttention({ ...request, sinks: [Math.log(3)] });
    expect(out.data[0]).toBeCloseTo(6 / 6, 6);
    expect(lse.data[0]).toBeCloseTo(Math.log(6), 6);
    expect(maxLogits.data[0]).toBe(0);
  });

  it("gives only the sink's logit as lse to a row that sees no key", () => {
    const { out, lse } = referenceAttention({
      q: zeros("f32", [1, 1, 1]),
      k: zeros("f32", [1, 1, 1]),
      v: f32([1, 1, 1], [7]),
      mask: full().not(),
      sinks: [-2.5],
    });
    expect(out.data[0]).toBe(0);
    expect(lse.data[0]).toBe(-2.5);
  });

  it("treats every batch row and head as if it stood alone", () => {
    const [B, Tq, Tk, H, Hk, D, Dv] = [2, 3, 5, 4, 2, 7, 3];
    const q = values([B, Tq, H, D], 1);
    const k = values([B, Tk, Hk, D], 2);
    const v = values([B, Tk, Hk, Dv], 3);
    const whole = referenceAttention({ q, k, v, mask: causal() });
    const pick = (t: Tensor<"f32">, b: number, h: number): Tensor<"f32"> => {
      const [, length, heads, width] = t.shape;
      const rows = Array.from({ length }, (_, i) => {
        const at = ((b * length + i) * heads + h) * width;
        return [...t.data.subarray(at, at + width)];
      });
      return f32([length, 1, width], rows.flat());
    };
    for (let b = 0; b < B; b++) {
      for (let h = 0; h < H; h++) {
        const kvHead = h < 2 ? 0 : 1;
        const alone = referenceAttention({
          q: pick(q, b, h),
          k: pick(k, b, kvHead),
          v: pick(v, b, kvHead),
          mask: causal(),
        });
        expect([...alone.out.data]).toEqual([...pick(whole.out as Tensor<"f32">, b, h).data]);
      }
    }
  });

  it("gives for packed documents what each gives alone", () => {
    const lengths = [3, 5, 2];
    const total = 10;
    const q = values([total, 2, 5], 1);
    const k = values([total, 1, 5], 2);
    const v = values([total, 1, 3], 3);
    const segments = Int32Array.from(lengths.flatMap((length, s) => Array(length).fill(s)));
    const positions = Int32Array.from(lengths.flatMap((length) => [...Array(length).keys()]));
    const packed = referenceAttention({
      q,
      k,
      v,
      mask: causal().and(slidingWindow(4)).and(sameSegment()),
      querySegments: segments,
      keySegments: segments,
      queryPositions: positions,
      keyPositions: positions,
    });
    let start = 0;
    for (const length of lengths) {
      const cut = (t: Tensor<"f32">): Tensor<"f32"> => {
        const width = t.shape[1] * t.shape[2];
        return f32([length, t.shape[1], t.shape[2]], t.data.subarray(start * width, (start + length) * width));
      };
      const alone = referenceAttention({ q: cut(q), k: cut(k), v: cut(v), mask: causal().and(slidingWindow(4)) });
      expect([...packed.out.data.subarray(start * 6, (start + length) * 6)]).toEqual([...alone.out.data]);
      start += length;
    }
  });

  it("keeps f64 inputs in f64", () => {
    const q = tensor("f64", [1, 1, 1], Float64Array.of(1));
    const { lse } = referenceAttention({ q, k: tensor("f64", [1, 1, 1], Float64Array.of(1 / 3)), v: q, scale: 1 });
    expect(lse.dtype).toBe("f64");
    expect(lse.data[0]).toBe(1 / 3);
  });

  it("gives no NaN for finite inputs, however large", () => {
    const extreme = fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-3e38), max: Math.fround(3e38) });
    fc.assert(
      fc.property(
        fc.array(extreme, { minLength: 12, maxLength: 12 }),
        fc.array(extreme, { minLength: 15, maxLength: 15 }),
        (a, b) => {
          const { out, lse } = referenceAttention({
            q: f32([2, 2, 3], a),
            k: f32([5, 1, 3], b),
            v: f32([5, 1, 3], b),
            mask: causal(),
            scale: 1,
          });
          expect(out.data.some(Number.isNaN)).toBe(false);
          expect(lse.data.some(Number.isNaN)).toBe(false);
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe("states", () => {
  it("merge over any split of the keys, in any order, to the whole", () => {
    const Tk = 11;
    const request = {
      q: values([3, 2, 5], 1),
      k: values([Tk, 1, 5], 2),
      v: values([Tk, 1, 3], 3),
      mask: causal().and(slidingWindow(6)),
      queryPositions: Int32Array.of(4, 10, 30), // the last sees nothing
      keyPositions: Int32Array.from({ length: Tk }, (_, i) => i),
    } satisfies DenseAttentionRequest;
    const sinks = [0.3, -1.7];
    const whole = referenceAttention({ ...request, sinks });
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 3 }), { minLength: Tk, maxLength: Tk }), (owner) => {
        const parts = [2, 0, 3, 1].map((part) => {
          const kept = [...owner.keys()].filter((j) => owner[j] === part);
          const cut = (t: Tensor<"f32">): Tensor<"f32"> => {
            const width = t.shape[2];
            return f32(
              [kept.length, 1, width],
              kept.flatMap((j) => [...t.data.subarray(j * width, (j + 1) * width)]),
            );
          };
          return referenceState({
            ...request,
            k: cut(request.k),
            v: cut(request.v),
            keyPositions: Int32Array.from(kept),
          });
        });
        const merged = mergeStates(
          sinkState(sinks, parts[0].shape),
          mergeStates(parts[0], parts[1]),
          parts[2],
          parts[3],
        );
        const { out, lse } = finishState(merged, "f32");
        expectClose(out.data, whole.out.data, F32_COMPUTED);
        expectClose(lse.data, whole.lse.data, F32_COMPUTED);
      }),
      { numRuns: 50 },
    );
  });
});

describe("attention requests", () => {
  const good = (): DenseAttentionRequest => ({
    q: values([3, 4, 5], 1),
    k: values([7, 2, 5], 2),
    v: values([7, 2, 3], 3),
  });
  const message = (change: Partial<DenseAttentionRequest>): string => {
    try {
      referenceAttention({ ...good(), ...change });
    } catch (error) {
      return (error as Error).message;
    }
    return "accepted";
  };

  it.each<[string, Partial<DenseAttentionRequest>, string]>([
    [
      "ranks differ",
      { k: values([1, 7, 2, 5], 1) },
      "attention: q, k and v must all be [B, T, H, D] or all be [T, H, D]; got q=[3,4,5], k=[1,7,2,5], v=[7,2,3]. Add or drop the batch axis.",
    ],
    ["lengths differ", { v: values([6, 2, 3], 1) }, "attention: k and v must have the same length; got k=7, v=6."],
    [
      "kv heads differ",
      { v: values([7, 4, 3], 1) },
      "attention: k and v must have the same number of heads; got k=2, v=4.",
    ],
    ["head dims differ", { k: values([7, 2, 3], 1) }, "attention: q and k must have the same head dim; got q=5, k=3."],
    [
      "heads are not a multiple",
      { q: values([3, 5, 5], 1) },
      "attention: numHeads must be a multiple of numKvHeads; got numHeads=5, numKvHeads=2. Check num_key_value_heads in config.json.",
    ],
    ["scale is not finite", { scale: Number.NaN }, "attention: scale must be a finite number; got scale=NaN."],
    [
      "softcap is zero",
      { softcap: 0 },
      "attention: softcap must be a positive number; got softcap=0. Leave it out for no cap.",
    ],
    [
      "sinks miss a head",
      { sinks: [1, 2] },
      "attention: sinks must have one entry per query head; got length=2, heads=4.",
    ],
    [
      "bias does not broadcast",
      { bias: values([3, 3], 1) },
      "attention: bias must be broadcastable to [B, H, Tq, Tk]; got bias=[3,3], target=[1,4,3,7].",
    ],
    [
      "only one side has segments",
      { querySegments: new Int32Array(3) },
      "attention: querySegments and keySegments must be given together; got querySegments=true, keySegments=false. A query and a key can only be compared when both know their segment.",
    ],
    [
      "positions are too few",
      { keyPositions: new Int32Array(6) },
      "attention: keyPositions must have 7 entries; got length=6.",
    ],
  ])("are refused when %s", (_, change, expected) => {
    expect(message(change)).toBe(expected);
  });

  it("are refused when batch sizes differ", () => {
    const change = { q: values([2, 3, 4, 5], 1), k: values([1, 7, 2, 5], 2), v: values([1, 7, 2, 3], 3) };
    expect(message(change)).toBe("attention: q, k and v must have the same batch size; got q=2, k=1, v=1.");
  });
});

it("states of one part keep full f64 precision", () => {
  const request = { q: values([2, 1, 3], 1), k: values([5, 1, 3], 2), v: values([5, 1, 2], 3) };
  const f64 = (t: Tensor<"f32">): Tensor<"f64"> => tensor("f64", t.shape, Float64Array.from(t.data));
  const exact = referenceAttention({ q: f64(request.q), k: f64(request.k), v: f64(request.v) });
  const state = finishState(referenceState(request), "f64");
  expectClose(state.out.data, exact.out.data, F64_COMPUTED);
});
