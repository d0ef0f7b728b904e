import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { ROTARY, randomLayers } from "../../test/support/observation.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { type RotaryLayer, rotaryTable, rotate } from "../rope/index.ts";
import { applyPlan } from "./apply-plan.ts";
import { headMajorRows } from "./observation.ts";

const [layer] = randomLayers(11, 1);
const kept = [Int32Array.of(0, 4, 9), Int32Array.of(2, 3)];

it("rows that stay are gathered, with their positions", () => {
  const { keys, values: kv, positions } = applyPlan(layer, { kept });
  expect(positions.map((row) => [...row])).toEqual([
    [0, 4, 9],
    [2, 3],
  ]);
  expect(Array.from(keys.lengths)).toEqual([3, 2]);
  const second = layer.keys.starts[1] + 2 * layer.keys.stride;
  expect([...keys.data.subarray(keys.starts[1], keys.starts[1] + 8)]).toEqual([
    ...layer.keys.data.subarray(second, second + 8),
  ]);
  expect(kv.data.length).toBe(5 * 3);
});

it("dropped channels are cleared and merged values put in place", () => {
  const plan = {
    kept,
    droppedChannels: [Uint8Array.of(0, 1, 0, 0), Uint8Array.of(0, 0, 0, 0)],
    values: [new Float32Array(9).fill(7), new Float32Array(6).fill(8)],
  };
  const { keys, values: merged } = applyPlan(layer, plan);
  expect([1, 5, 9].map((n) => keys.data[n])).toEqual([0, 0, 0]);
  expect(keys.data[0]).toBe(layer.keys.data[0]);
  expect([...merged.data]).toEqual([...new Array(9).fill(7), ...new Array(6).fill(8)]);
});

describe("keys that move", () => {
  const yarn: RotaryLayer = {
    ...ROTARY,
    schedule: { type: "yarn", dim: 4, theta: 100, factor: 4, originalLength: 8 },
  };
  it.each<[string, RotaryLayer]>([
    ["half pairs", ROTARY],
    ["interleaved pairs", { ...ROTARY, pairing: "interleaved" }],
    [
      "a rotated slice",
      { ...ROTARY, rotaryDim: 2, rotaryOffset: 2, schedule: { type: "default", dim: 2, theta: 100 } },
    ],
    ["a schedule with an attention factor", yarn],
  ])("equal keys rotated at the new positions, with %s", (_, rotary) => {
    const fresh = values([11, 4], 3).data;
    const at = (positions: number[], rows: number[]): Float32Array => {
      const picked = Float32Array.from(rows.flatMap((row) => [...fresh.subarray(4 * row, 4 * row + 4)]));
      return rotate(picked, rotaryTable(rotary, positions), { heads: 1, headDim: 4 });
    };
    const places = [1, 2, 5, 6, 11, 13, 17, 21, 22, 30, 31];
    const observation = {
      ...layer,
      ...{ heads: 1, rotary },
      keys: headMajorRows(at(places, [...places.keys()]), 1, 4),
      values: headMajorRows(new Float32Array(33), 1, 3),
      positions: [Int32Array.from(places)],
    };
    const plan = { kept: [Int32Array.of(0, 3, 9)], positions: [Int32Array.of(0, 1, 2)] };
    expectClose(applyPlan(observation, plan).keys.data, at([0, 1, 2], [0, 3, 9]), F32_STORED);
  });
});
