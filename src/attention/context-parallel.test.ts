import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { causal, sameSegment, slidingWindow } from "../mask/index.ts";
import { f32, zeros } from "../tensor.ts";
import {
  allGatherSchedule,
  attendShards,
  inverseOrder,
  joinTokens,
  loadBalancedOrder,
  ringSchedule,
  shardSlices,
  splitTokens,
  stripedOrder,
} from "./context-parallel.ts";
import { referenceAttention, referenceState } from "./reference.ts";
import { finishState, mergeStates, sinkState } from "./state.ts";

describe("orders", () => {
  it("balance 16 tokens over 4 shards as MaxText does", () => {
    // MaxText's reordering for context parallelism of 4.
    expect(Array.from(loadBalancedOrder(16, 4))).toEqual([0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]);
  });

  it("undo the balanced order by the even groups, then the odd ones reversed", () => {
    // 4 shards of 2 places: groups 0 2 4 6 stand at 0 2 4 6, groups 7 5 3 1 of places read back from the end.
    expect(Array.from(inverseOrder(loadBalancedOrder(8, 4)))).toEqual([0, 2, 4, 6, 7, 5, 3, 1]);
  });

  it("deal tokens out in stripes", () => {
    expect(Array.from(stripedOrder(12, 3))).toEqual([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
  });

  it("give every shard the same number of causal pairs when balanced", () => {
    const shards = 5;
    const order = loadBalancedOrder(70, shards);
    const work = shardSlices(70, shards).map(([start, end]) =>
      order.subarray(start, end).reduce((sum, token) => sum + token + 1, 0),
    );
    expect(new Set(work)).toEqual(new Set([(70 * 71) / 2 / shards]));
  });

  it("have inverses that undo them", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 7 }), fc.nat(5), fc.boolean(), (shards, groups, balanced) => {
        const order = balanced ? loadBalancedOrder(2 * shards * groups, shards) : stripedOrder(shards * groups, shards);
        const inverse = inverseOrder(order);
        expect(Array.from(inverse, (place) => order[place])).toEqual(Array.from(order.keys()));
      }),
    );
  });

  it.each<[() => unknown, string]>([
    [
      () => loadBalancedOrder(20, 4),
      "ShapeError: loadBalancedOrder: length must be a multiple of 2 * shards; got length=20, shards=4. Pad with tokens of segment -1.",
    ],
    [
      () => stripedOrder(10, 4),
      "ShapeError: stripedOrder: length must be a multiple of shards; got length=10, shards=4. Pad with tokens of segment -1.",
    ],
    [
      () => shardSlices(7, 2),
      "ShapeError: shardSlices: length must be a multiple of shards; got length=7, shards=2. Pad with tokens of segment -1.",
    ],
    [
      () => loadBalancedOrder(8, 0),
      "ConfigError: loadBalancedOrder: shards must be an integer from 1 to 1024; got shards=0.",
    ],
    [() => ringSchedule(1.5), "ConfigError: ringSchedule: shards must be an integer from 1 to 1024; got shards=1.5."],
    [
      () => allGatherSchedule(-1),
      "ConfigError: allGatherSchedule: shards must be an integer from 1 to 1024; got shards=-1.",
    ],
    [
      () => ringSchedule(100_000), // its steps would be 10^10 entries
      "ConfigError: ringSchedule: shards must be an integer from 1 to 1024; got shards=100000.",
    ],
    [() => stripedOrder(2 ** 40, 2), "BudgetError: stripedOrder: at most 67108864 tokens; got length=1099511627776."],
    [
      () => inverseOrder(Int32Array.of(0, 2, 2)),
      "ConfigError: inverseOrder: the order must have each of 0 to 2 once; got index=2, value=2.",
    ],
    [
      () => inverseOrder(Int32Array.of(0, 3, 1)),
      "ConfigError: inverseOrder: the order must have each of 0 to 2 once; got index=1, value=3.",
    ],
  ])("are refused when %s", (action, message) => {
    expect(thrownBy(action)).toBe(message);
  });
});

describe("splitTokens", () => {
  it("takes positions and segments along", () => {
    const tokens = {
      q: f32([2, 4, 1], [0, 1, 2, 3, 10, 11, 12, 13]),
      positions: Int32Array.of(5, 6, 7, 8, 1, 2, 3, 4),
      segments: undefined,
    };
    const parts = splitTokens(tokens, { order: loadBalancedOrder(4, 2), shards: 2, batch: 2 });
    expect(parts).toEqual([
      { q: f32([2, 2, 1], [0, 3, 10, 13]), positions: Int32Array.of(5, 8, 1, 4), segments: undefined },
      { q: f32([2, 2, 1], [1, 2, 11, 12]), positions: Int32Array.of(6, 7, 2, 3), segments: undefined },
    ]);
  });

  it("is undone by joinTokens, with and without batch axis", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 3 }),
        fc.option(fc.integer({ min: 1, max: 3 })),
        (shards, groups, B) => {
          const T = 2 * shards * groups;
          const tokens = {
            x: values([...(B === null ? [] : [B]), T, 2, 3], 1),
            rows: new Int32Array((B ?? 1) * T).map((_, n) => n * n),
          };
          const options = { order: loadBalancedOrder(T, shards), shards, ...(B === null ? {} : { batch: B }) };
          expect(joinTokens(splitTokens(tokens, options), options)).toEqual(tokens);
        },
      ),
      { numRuns: 40 },
    );
  });

  it.each<[string, () => unknown, string]>([
    [
      "a tensor has another length",
      () => splitTokens({ q: zeros("f32", [6, 2]) }, { order: stripedOrder(4, 2), shards: 2 }),
      "ShapeError: splitTokens: q must have 1 x 4 tokens; got shape=[6,2].",
    ],
    [
      "a row has another length",
      () => splitTokens({ positions: new Int32Array(7) }, { order: stripedOrder(4, 2), shards: 2, batch: 2 }),
      "ShapeError: splitTokens: positions must have 2 x 4 tokens; got shape=[7].",
    ],
    [
      "the order is none",
      () => splitTokens({}, { order: Int32Array.of(1, 1), shards: 2 }),
      "ConfigError: inverseOrder: the order must have each of 0 to 1 once; got index=1, value=1.",
    ],
    [
      "a part is missing",
      () => joinTokens([{ x: new Int32Array(2) }], { order: stripedOrder(4, 2), shards: 2 }),
      "ShapeError: joinTokens: one part per shard; got parts=1, shards=2.",
    ],
    [
      "parts differ",
      () =>
        joinTokens([{ x: zeros("f32", [2, 3]) }, { x: zeros("f32", [2, 5]) }], {
          order: stripedOrder(4, 2),
          shards: 2,
        }),
      "ShapeError: joinTokens: x must be alike in all parts; got shapes=[[1,2,3],[1,2,5]].",
    ],
  ])("refuses tokens when %s", (_, action, message) => {
    expect(thrownBy(action)).toBe(message);
  });
});

describe("schedules", () => {
  it("send keys around the ring", () => {
    expect(ringSchedule(3)).toEqual({
      kind: "ring",
      shards: 3,
      steps: [
        [[0], [1], [2]],
        [[2], [0], [1]],
        [[1], [2], [0]],
      ],
    });
  });

  it("gather all keys at once", () => {
    expect(allGatherSchedule(2).steps).toEqual([
      [
        [0, 1],
        [0, 1],
      ],
    ]);
  });

  it("have every rank attend to every shard once", () => {
    for (const schedule of [ringSchedule(7), allGatherSchedule(7)]) {
      for (let rank = 0; rank < 7; rank++) {
        const visited = schedule.steps.flatMap((step) => step[rank]);
        expect([...visited].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
      }
    }
  });

  it("refuse a rank that they do not have", () => {
    expect(thrownBy(() => attendShards(ringSchedule(3), 3, () => expect.fail()))).toBe(
      "ConfigError: attendShards: rank must be from 0 to 2; got rank=3.",
    );
  });
});

describe("attention over shards", () => {
  it("equals attention over the whole, for any order, schedule, mask and number of shards", () => {
    const cases = fc.record({
      shards: fc.integer({ min: 1, max: 4 }),
      groups: fc.integer({ min: 1, max: 3 }),
      striped: fc.boolean(),
      ring: fc.boolean(),
      mask: fc.constantFrom(
        causal(),
        slidingWindow(3),
        causal().and(sameSegment()),
        slidingWindow({ left: 2, right: 4 }),
      ),
      salt: fc.nat(1000),
      padding: fc.nat(3),
    });
    fc.assert(
      fc.property(cases, ({ shards, groups, striped, ring, mask, salt, padding }) => {
        const [B, T] = [2, 2 * shards * groups];
        const segments = Int32Array.from({ length: B * T }, (_, n) =>
          n % T >= T - padding ? -1 : Math.floor((n % T) / 3),
        );
        const positions = Int32Array.from({ length: B * T }, (_, n) => 10 + (n % T));
        const whole = {
          q: values([B, T, 4, 3], salt),
          k: values([B, T, 2, 3], salt + 1),
          v: values([B, T, 2, 5], salt + 2),
          queryPositions: positions,
          keyPositions: positions,
          querySegments: segments,
          keySegments: segments,
        };
        const sinks = [0.5, -1, 2, 0];
        const want = referenceAttention({ ...whole, mask, sinks });

        const options = { order: (striped ? stripedOrder : loadBalancedOrder)(T, shards), shards, batch: B };
        const { q, queryPositions, querySegments, ...rest } = whole;
        const queries = splitTokens({ q, queryPositions, querySegments }, options);
        const keys = splitTokens(rest, options);
        const schedule = (ring ? ringSchedule : allGatherSchedule)(shards);
        const parts = queries.map((own, rank) => {
          const state = attendShards(schedule, rank, (shard) => referenceState({ ...own, ...keys[shard], mask }));
          return finishState(mergeStates(state, sinkState(sinks, state.shape)), "f32");
        });
        const got = joinTokens(parts, options);
        expectClose(got.out.data, want.out.data, F32_STORED);
        expectClose(got.lse.data, want.lse.data, F32_STORED);
      }),
      { numRuns: 100 },
    );
  });
});
