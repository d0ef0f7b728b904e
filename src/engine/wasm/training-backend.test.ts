import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../../test/support/tolerances.ts";
import { values } from "../../../test/support/values.ts";
import type { KvView } from "../../attention/index.ts";
import { causal, sameSegment, slidingWindow } from "../../mask/index.ts";
import { sizeOf, type Tensor } from "../../tensor.ts";
import type { AttendCall } from "../backend.ts";
import { createReferenceTrainingBackend } from "../reference/training-backend.ts";
import type { TrainingBackend } from "../training-backend.ts";
import { detectFeatures } from "./features.ts";
import { createWasmTrainingBackend } from "./training-backend.ts";

/** Tensors of one backend, which start out equal in both. */
type Tensors = Record<string, Tensor<"f32">>;

const MODES = detectFeatures().relaxed ? [{ relaxed: false }, { relaxed: true }] : [{ relaxed: false }];

const size = (max: number): fc.Arbitrary<number> => fc.integer({ min: 1, max });
const RUNS = { numRuns: 40 };

describe.each(MODES)("training on WASM does what the reference does, %o", (features) => {
  const reference = createReferenceTrainingBackend();
  const wasm = createWasmTrainingBackend({ threads: 0, maxBytes: 2 ** 26, features });

  /**
   * Runs operations on both backends and compares all tensors.
   *
   * @param scales - magnitudes of values, where not 1
   */
  async function compare(
    shapes: Record<string, readonly number[]>,
    run: (backend: TrainingBackend, t: Tensors) => void,
    { tolerance = F32_COMPUTED, scales = {} }: { tolerance?: number; scales?: Record<string, number> } = {},
  ): Promise<void> {
    const backends = [reference, await wasm];
    const all = backends.map((backend) => {
      const tensors: Tensors = {};
      for (const [n, [name, shape]] of Object.entries(shapes).entries()) {
        tensors[name] = backend.allocate(shape);
        tensors[name].data.set(values(shape, n).data.map((value) => value * (scales[name] ?? 1)));
      }
      return tensors;
    });
    for (const [n, backend] of backends.entries()) {
      run(backend, all[n]);
      await backend.flush();
    }
    const [want, got] = all;
    for (const name of Object.keys(shapes)) expectClose(got[name].data, want[name].data, tolerance);
    for (const t of Object.values(got)) backends[1].release(t);
    await backends[1].flush();
  }

  it("in linear layers", async () => {
    await fc.assert(
      fc.asyncProperty(size(70), size(40), size(40), fc.boolean(), fc.boolean(), async (T, N, K, accumulate, bias) => {
        // Sums of up to 70 products of numbers up to 1.
        await compare(
          { x: [T, K], weight: [N, K], dOut: [T, N], dx: [T, K], dWeight: [N, K], dBias: [N] },
          (backend, { x, weight, dOut, dx, dWeight, dBias }) => {
            backend.linearInputBackward(dx, dOut, weight, accumulate);
            if (bias) backend.linearWeightBackward(dWeight, dOut, x, dBias);
            else backend.linearWeightBackward(dWeight, dOut, x);
          },
        );
      }),
      RUNS,
    );
  });

  it("in linear layers larger than a block of the kernel", async () => {
    const [T, N, K] = [293, 139, 523];
    await compare(
      { x: [T, K], weight: [N, K], dOut: [T, N], dx: [T, K], dWeight: [N, K], dBias: [N] },
      (backend, { x, weight, dOut, dx, dWeight, dBias }) => {
        backend.linearInputBackward(dx, dOut, weight, true);
        backend.linearWeightBackward(dWeight, dOut, x, dBias);
      },
    );
  });

  it("in norms of rows and of heads, in place or accumulating", async () => {
    await fc.assert(
      fc.asyncProperty(
        size(70),
        size(3),
        size(37),
        fc.boolean(),
        fc.boolean(),
        async (T, H, C, accumulate, inPlace) => {
          await compare(
            { x: [T, H, C], weight: [C], dOut: [T, H, C], dx: [T, H, C], dWeight: [C] },
            (backend, { x, weight, dOut, dx, dWeight }) => {
              const target = inPlace && !accumulate ? dOut : dx;
              backend.rmsNormBackward(target, dWeight, dOut, x, weight, 1e-2, accumulate);
            },
          );
        },
      ),
      RUNS,
    );
  });

  it("in layer norms of rows, about 0 or far from it, in place or accumulating, with a bias and without", async () => {
    const flags = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
    await fc.assert(
      fc.asyncProperty(size(70), size(37), fc.constantFrom(0, 1000), flags, async (T, C, offset, flags) => {
        const [accumulate, inPlace, bias] = flags;
        await compare(
          { x: [T, C], weight: [C], bias: [C], out: [T, C], dOut: [T, C], dx: [T, C], dWeight: [C], dBias: [C] },
          (backend, { x, weight, bias: added, out, dOut, dx, dWeight, dBias }) => {
            for (let at = 0; at < x.data.length; at++) x.data[at] += offset;
            const norm = [dOut, x, weight, 1e-2, accumulate] as const;
            backend.layerNorm(out, x, weight, 1e-2, ...(bias ? [added] : []));
            backend.layerNormBackward(inPlace && !accumulate ? dOut : dx, dWeight, ...norm, ...(bias ? [dBias] : []));
          },
          { tolerance: 3 * F32_COMPUTED }, // 1/sqrt(variance + eps) is up to 10
        );
      }),
      RUNS,
    );
  });

  it("in rotations", async () => {
    const pairing = fc.constantFrom("half" as const, "interleaved" as const);
    await fc.assert(
      fc.asyncProperty(size(11), size(3), size(9), size(3), pairing, async (T, H, pairs, offset, pairing) => {
        const table = {
          cos: values([T, pairs], 1).data,
          sin: values([T, pairs], 2).data,
          rotaryDim: 2 * pairs,
          rotaryOffset: offset,
          pairing,
        };
        await compare({ x: [T, H, 2 * pairs + offset + 1] }, (backend, { x }) => backend.rotateBackward(x, table));
      }),
      RUNS,
    );
  });

  it("in gates, in place or not, for large and small arguments", async () => {
    const activation = fc.constantFrom("silu" as const, "gelu" as const, "geluTanh" as const);
    await fc.assert(
      fc.asyncProperty(
        size(11),
        size(37),
        activation,
        fc.boolean(),
        fc.boolean(),
        async (T, F, name, first, second) => {
          await compare(
            { gate: [T, F], up: [T, F], dOut: [T, F], out: [T, F], dGate: [T, F], dUp: [T, F] },
            (backend, { gate, up, dOut, out, dGate, dUp }) => {
              backend.gate(out, gate, up, name);
              backend.gateBackward(first ? gate : dGate, second ? up : dUp, dOut, gate, up, name);
            },
            { scales: { gate: T % 2 === 0 ? 120 : 3 } },
          );
        },
      ),
      RUNS,
    );
  });

  it("in embeddings with repeated tokens", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat({ max: 6 }), { minLength: 1, maxLength: 40 }), size(37), async (tokens, C) => {
        await compare({ dTable: [7, C], dOut: [tokens.length, C] }, (backend, { dTable, dOut }) =>
          backend.embedBackward(dTable, dOut, Int32Array.from(tokens)),
        );
      }),
      RUNS,
    );
  });

  it("in the loss, with targets that do not count and large logits", async () => {
    const targets = fc.array(fc.integer({ min: -1, max: 100 }), { minLength: 1, maxLength: 11 });
    await fc.assert(
      fc.asyncProperty(targets, size(61), fc.constantFrom(1, 80), async (targets, V, scale) => {
        const ids = Int32Array.from(targets, (target) => (target < 0 ? -1 : target % V));
        await compare(
          { losses: [ids.length], logits: [ids.length, V] },
          (backend, { losses, logits }) => backend.crossEntropy(losses, logits, ids, 0.7),
          { scales: { logits: scale } },
        );
      }),
      RUNS,
    );
  });

  it("in squared norms, also of more than a chunk, added to what is there", async () => {
    for (const count of [1, 3, 17, 16384, 16389, 50_021]) {
      await compare({ x: [count], out: [1] }, (backend, { out, x }) => backend.addSquaredNorm(out, x));
    }
  });

  it("in filling", async () => {
    for (const count of [1, 19, 67]) await compare({ x: [count] }, (backend, { x }) => backend.fill(x, -0.75));
  });

  it("in several steps of AdamW", async () => {
    await fc.assert(
      fc.asyncProperty(
        size(71),
        fc.constantFrom(0, 0.1),
        fc.constantFrom(1, 1e-3),
        async (count, weightDecay, scale) => {
          await compare({ weight: [count], gradient: [count], mean: [count], square: [count] }, (backend, tensors) => {
            backend.fill(tensors.mean, 0);
            backend.fill(tensors.square, 0);
            for (let step = 1; step <= 3; step++) {
              backend.adamW({
                ...(tensors as Record<"weight" | "gradient" | "mean" | "square", Tensor<"f32">>),
                gradientScale: scale,
                learningRate: 0.01,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weightDecay,
                step,
              });
            }
          });
        },
      ),
      RUNS,
    );
  });

  it("in attention: packed documents with grouped queries, a soft cap and sinks", async () => {
    const optional = (max: number) => fc.option(size(max), { nil: undefined });
    await fc.assert(
      fc.asyncProperty(size(67), size(2), size(3), optional(20), fc.boolean(), async (T, Hk, G, window, options) => {
        const [H, D] = [Hk * G, 12];
        const segments = Int32Array.from({ length: T }, (_, t) => (t === T - 1 ? -1 : Math.floor(t / 23)));
        const positions = Int32Array.from({ length: T }, (_, t) => t % 23);
        const mask = causal().and(sameSegment());
        const sinks = values([H], 9).data;
        const shapes = { q: [T, H, D], k: [T, Hk, D], v: [T, Hk, D], out: [T, H, D], dOut: [T, H, D] };
        const call = ({ q, k, v }: Tensors): AttendCall<KvView> => ({
          q,
          kv: { keys: k, values: v, positions, segments },
          queryPositions: positions,
          querySegments: segments,
          mask: window === undefined ? mask : mask.and(slidingWindow(window)),
          scale: 0.4,
          ...(options && { softcap: 1.5, sinks }),
        });
        await compare(
          { ...shapes, lse: [T, H], dq: shapes.q, dk: shapes.k, dv: shapes.v, dSinks: [H] },
          (backend, tensors) => {
            const { out, lse, dOut, dq, dk, dv, dSinks } = tensors;
            backend.attendForTraining(out, lse, call(tensors));
            const gradients = { dq, dk, dv, ...(options && { dSinks }) };
            backend.attendBackward(gradients, { ...call(tensors), out, lse, dOut });
          },
        );
      }),
      { numRuns: 15 },
    );
  });

  it("refuses tokens and targets outside the vocabulary before anything is issued", async () => {
    const backend = await wasm;
    const x = backend.allocate([2, 3]);
    expect(() => backend.embedBackward(x, x, Int32Array.of(0, 2))).toThrow(
      "embedBackward: token ids must be from 0 to 1; got token=2, index=1.",
    );
    expect(() => backend.crossEntropy(x, x, Int32Array.of(-2, 0), 1)).toThrow(
      "crossEntropy: token ids must be from -1 to 2; got token=-2, index=0.",
    );
    expect(backend.pending).toBe(false);
    expect(sizeOf(x.shape)).toBe(6);
  });
});
