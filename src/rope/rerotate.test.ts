import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import type { RotaryLayer } from "./layer.ts";
import { rerotateFrequencies, rerotateInto, rerotationTable } from "./rerotate.ts";
import { rotate } from "./rotate.ts";
import type { RopeSchedule } from "./schedule.ts";
import { rotaryTable } from "./table.ts";

const HEADS = 2;
const HEAD_DIM = 12;
const layerOf = (schedule: RopeSchedule): RotaryLayer => ({
  headDim: HEAD_DIM,
  rotaryDim: schedule.dim,
  rotaryOffset: 1,
  pairing: "half",
  schedule,
});
const yarn = layerOf({ type: "yarn", dim: 10, theta: 10000, factor: 8, originalLength: 64 });
const longrope = layerOf({
  type: "longrope",
  dim: 10,
  theta: 10000,
  shortFactors: [1, 1, 1, 1, 1],
  longFactors: [1, 1.5, 3, 9, 20],
  originalLength: 64,
  factor: 4,
  shortMscale: 1,
  longMscale: 1.25,
});
const dynamic = layerOf({ type: "dynamic", dim: 10, theta: 10000, factor: 2, maxLength: 64 });
const options = { heads: HEADS, headDim: HEAD_DIM };

const keyValues = (tokens: number): Float32Array =>
  Float32Array.from({ length: tokens * HEADS * HEAD_DIM }, (_, i) => Math.sin(i * i + 1));

function expectNear(actual: Float32Array, expected: Float32Array, tolerance = F32_COMPUTED): void {
  for (const [i, value] of expected.entries()) expect(Math.abs(actual[i] - value)).toBeLessThan(tolerance);
}

describe("rerotateInto", () => {
  it("moved keys equal keys rotated at the new positions, without applying the attention factor again", () => {
    const position = fc.integer({ min: 0, max: 5000 });
    fc.assert(
      fc.property(fc.array(fc.tuple(position, position), { minLength: 1, maxLength: 5 }), (moves) => {
        const keys = keyValues(moves.length);
        const from = moves.map(([p]) => p);
        const to = moves.map(([, p]) => p);
        const cached = rotate(keys, rotaryTable(yarn, from), options);
        rerotateInto(cached, cached, yarn, { heads: HEADS, from: { positions: from }, to: { positions: to } });
        expectNear(cached, rotate(keys, rotaryTable(yarn, to), options));
      }),
      { numRuns: 60 },
    );
  });

  it("keys moved a hundred times equal fresh keys", () => {
    const tokens = 7;
    const keys = keyValues(tokens);
    let positions = Array.from({ length: tokens }, (_, t) => 100 * t);
    const cached = rotate(keys, rotaryTable(yarn, positions), options);
    for (let move = 0; move < 100; move++) {
      const next = positions.map((p, t) => Math.abs(p + ((move * 37 + t * 11) % 200) - 100));
      rerotateInto(cached, cached, yarn, { heads: HEADS, from: { positions }, to: { positions: next } });
      positions = next;
    }
    expectNear(cached, rotate(keys, rotaryTable(yarn, positions), options));
  });

  it("moves every axis of multi-axis positions", () => {
    const layer: RotaryLayer = { ...yarn, pairAxes: [0, 1, 2, 1, 0] };
    const keys = keyValues(2);
    const from = [
      [1, 2],
      [3, 4],
      [5, 6],
    ];
    const to = [
      [11, 2],
      [3, 40],
      [7, 0],
    ];
    const cached = rotate(keys, rotaryTable(layer, from), options);
    rerotateInto(cached, cached, layer, { heads: HEADS, from: { positions: from }, to: { positions: to } });
    expectNear(cached, rotate(keys, rotaryTable(layer, to), options));
  });

  it("changes positions and frequencies at once", () => {
    const keys = keyValues(3);
    const cached = rotate(keys, rotaryTable(longrope, [0, 30, 63], { length: 64 }), options);
    rerotateInto(cached, cached, longrope, {
      heads: HEADS,
      from: { positions: [0, 30, 63], length: 64 },
      to: { positions: [5, 10, 70], length: 71 },
    });
    expectNear(cached, rotate(keys, rotaryTable(longrope, [5, 10, 70], { length: 71 }), options));
  });

  it("needs the lengths where the schedule depends on them", () => {
    expect(() => rerotationTable(dynamic, { positions: [1], length: 5 }, { positions: [2] })).toThrow(
      'rerotationTable: length is required for a schedule that depends on it; got type="dynamic". Pass the length the keys were rotated for, and the one they shall have.',
    );
  });

  it("refuses states of different sizes", () => {
    expect(() => rerotationTable(yarn, { positions: [1] }, { positions: [2, 3] })).toThrow(
      "rerotationTable: both states must have the same number of tokens; got from=1, to=2.",
    );
  });
});

describe("rerotateFrequencies", () => {
  it.each([
    ["dynamic NTK over its limit", dynamic, 64, 90],
    ["dynamic NTK further", dynamic, 90, 400],
    ["LongRoPE to the long list, with another attention factor", longrope, 64, 65],
    ["LongRoPE back to the short list", longrope, 65, 64],
  ])("%s: keys equal those rotated freshly at the new length", (_, layer, fromLength, toLength) => {
    const positions = [0, 1, 17, 63];
    const keys = keyValues(positions.length);
    const cached = rotate(keys, rotaryTable(layer, positions, { length: fromLength }), options);
    rerotateFrequencies(cached, layer, positions, { fromLength, toLength, ...options });
    expectNear(cached, rotate(keys, rotaryTable(layer, positions, { length: toLength }), options));
  });

  it("changes nothing, to the bit, where the frequencies stay", () => {
    const keys = keyValues(2);
    const cached = keys.slice();
    rerotateFrequencies(cached, dynamic, [3, 9], { fromLength: 10, toLength: 64, ...options });
    expect(cached).toEqual(keys);
  });
});
