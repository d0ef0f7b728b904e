/** Every operation of a decoder's backend beside the reference's, at sizes that end in the middle of everything. */

import { createReferenceBackend } from "../../dist/engine/index.js";
import * as budgets from "./budgets.mjs";
import { expectClose, randomNumbers } from "./numbers.mjs";

const reference = createReferenceBackend();

/** Tensors on one backend, made the same way on each, and given back together. */
class Side {
  #held = [];

  constructor(backend) {
    this.backend = backend;
  }

  out(...shape) {
    const t = this.backend.allocate(shape);
    this.#held.push(t);
    return t;
  }

  x(seed, ...shape) {
    const t = this.out(...shape);
    t.data.set(randomNumbers(t.data.length, seed, 3));
    return t;
  }

  vector(seed, length) {
    return this.#keep(this.backend.vector(numbers("f32", [length], seed, 1)));
  }

  matrix(seed, dtype, rows, columns) {
    const stored = dtype === "f16" || dtype === "bf16" ? dtype : "f32";
    return this.#keep(this.backend.matrix(numbers(stored, [rows, columns], seed, 1 / Math.sqrt(columns)), dtype));
  }

  release() {
    for (const t of this.#held) this.backend.release(t);
  }

  #keep(t) {
    this.#held.push(t);
    return t;
  }
}

/** Whether inputs are rounded for the sake of integer products. */
function isCodes(dtype, tokens, inputs) {
  return tokens === 1 && ["int8", "q8_0", "q4_0"].includes(dtype) && inputs % 32 === 0;
}

function linear(side, [dtype, tokens, inputs, outputs, bias]) {
  const out = side.out(tokens, outputs);
  const weight = side.matrix(4, dtype, outputs, inputs);
  side.backend.linear(out, side.x(5, tokens, inputs), weight, bias ? side.vector(6, outputs) : undefined);
  return out;
}

/** Random numbers in any element type; 16-bit ones by their bits: signs, exponents of ordinary size, all mantissas. */
function numbers(dtype, shape, seed, scale) {
  const length = shape.reduce((a, b) => a * b, 1);
  const values = randomNumbers(length, seed, scale);
  if (dtype === "f32") return { dtype, shape, data: values };
  const words = new Uint32Array(values.buffer);
  const data = Uint16Array.from(words, (bits) => {
    if (dtype === "bf16") return bits >>> 16;
    const exponent = ((bits >>> 23) & 255) - 127 + 15;
    return exponent <= 0 ? 0 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023);
  });
  return { dtype, shape, data };
}

/** Issues the same on both backends and compares what `issue` gives back. */
async function compare(what, backend, budget, issue) {
  const sides = [new Side(backend), new Side(reference)];
  const [got, want] = sides.map(issue);
  await backend.flush();
  expectClose(what, got.data, want.data, budget);
  for (const side of sides) side.release();
  await backend.flush();
}

/** [name, budget, cases, what to issue for a case]; the last case is large enough for several threads. */
const OPERATIONS = [
  [
    "embed",
    budgets.EXACT,
    [
      ["f32", 3, 5],
      ["f16", 7, 31],
      ["bf16", 1, 64],
      ["int8", 3, 37],
      ["q8_0", 5, 96],
      ["q4_0", 7, 64],
      ["f32", 331, 307],
    ],
    (side, [dtype, tokens, width]) => {
      const out = side.out(tokens, width);
      const ids = Int32Array.from({ length: tokens }, (_, t) => (t * 7) % 13);
      side.backend.embed(out, side.matrix(1, dtype, 13, width), ids);
      return out;
    },
  ],
  [
    "rmsNorm",
    budgets.NORM,
    [
      [1, 1],
      [3, 5],
      [7, 64],
      [101, 1027],
    ],
    (side, [tokens, width]) => {
      const out = side.out(tokens, width);
      side.backend.rmsNorm(out, side.x(2, tokens, width), side.vector(3, width), 1e-5);
      return out;
    },
  ],
  [
    "linear",
    budgets.LINEAR,
    ["f32", "f16", "bf16", "int8", "q8_0", "q4_0"].flatMap((dtype) =>
      [
        [1, 1, 1],
        [1, 31, 67],
        [3, 29, 5],
        [13, 64, 33],
        [1, 64, 36],
        [13, 72, 36],
        [1, 257, 515],
        [1, 224, 515],
        [1, 4099, 67],
        [1, 4096, 36],
        [3, 4096, 36],
        [29, 131, 103],
        [29, 96, 103],
      ]
        .filter(([, inputs]) => !dtype.startsWith("q") || inputs % 32 === 0)
        .filter(([tokens, inputs]) => !isCodes(dtype, tokens, inputs))
        .flatMap((sizes) => [
          [dtype, ...sizes, false],
          [dtype, ...sizes, true],
        ]),
    ),
    linear,
  ],
  [
    "linear of one token with weights that are codes",
    budgets.LINEAR_CODES,
    ["int8", "q8_0", "q4_0"].flatMap((dtype) => [
      [dtype, 1, 32, 1, false],
      [dtype, 1, 224, 515, true],
      [dtype, 1, 1056, 37, true],
      [dtype, 1, 4096, 67, false],
    ]),
    linear,
  ],
  [
    "rotate",
    budgets.ELEMENTWISE,
    ["half", "interleaved"].flatMap((pairing) => [
      [pairing, 1, 1, 2, 2, 0],
      [pairing, 3, 5, 14, 10, 2],
      [pairing, 7, 2, 64, 64, 0],
      [pairing, 103, 5, 64, 32, 32],
    ]),
    (side, [pairing, tokens, heads, headDim, rotaryDim, rotaryOffset]) => {
      const x = side.x(7, tokens, heads, headDim);
      const angles = randomNumbers((tokens * rotaryDim) / 2, 8, Math.PI);
      const table = { cos: angles.map(Math.cos), sin: angles.map(Math.sin), rotaryDim, rotaryOffset, pairing };
      side.backend.rotate(x, table);
      return x;
    },
  ],
  [
    "scaleRows",
    budgets.ELEMENTWISE,
    [
      [1, 1],
      [5, 7],
      [331, 307],
    ],
    (side, [tokens, width]) => {
      const x = side.x(9, tokens, width);
      side.backend.scaleRows(x, randomNumbers(tokens, 10));
      return x;
    },
  ],
  [
    "columnMass",
    budgets.COLUMN_MASS,
    ["sum", "max"].flatMap((reduce) => [
      [reduce, 1, 1, 1],
      [reduce, 2, 1, 13],
      [reduce, 3, 7, 31],
      [reduce, 2, 64, 1],
      [reduce, 5, 61, 1031],
    ]),
    (side, [reduce, heads, rows, width]) => {
      const out = side.x(19, heads, width);
      const logits = side.x(16, heads, rows, width);
      for (let i = 0; i < logits.data.length; i++) logits.data[i] *= 4;
      const places = randomNumbers(heads * rows, 17, 1);
      // From nothing (every eleventh) over one column to all.
      const starts = Int32Array.from(places, (place) => Math.floor(((place + 1) / 2) * 0.9 * width));
      const ends = starts.map((start, row) => (row % 11 === 10 ? start : start + 1 + ((row * 7) % (width - start))));
      const weights = randomNumbers(heads * rows, 18, 1).map(Math.abs);
      side.backend.columnMass(out, logits, { starts, ends, weights, reduce });
      return out;
    },
  ],
  [
    "gate",
    budgets.ELEMENTWISE,
    [
      [1, 1],
      [3, 29],
      [71, 103],
    ],
    (side, [tokens, width]) => {
      const out = side.out(tokens, width);
      const gate = side.x(11, tokens, width);
      for (let i = 0; i < gate.data.length; i++) gate.data[i] *= 10;
      side.backend.gate(out, gate, side.x(12, tokens, width), "silu");
      return out;
    },
  ],
  [
    "add",
    budgets.EXACT,
    [
      [1, 1],
      [3, 29],
      [71, 103],
    ],
    (side, [tokens, width]) => {
      const out = side.x(13, tokens, width);
      side.backend.add(out, out, side.x(14, tokens, width));
      return out;
    },
  ],
  [
    "copy",
    budgets.EXACT,
    [
      [1, 1],
      [3, 29],
    ],
    (side, [tokens, width]) => {
      const out = side.out(tokens, width);
      side.backend.copy(out, side.x(15, tokens, width));
      return out;
    },
  ],
];

/** [name, check(backend)] of every operation but attention. */
export const KERNEL_CHECKS = OPERATIONS.map(([name, budget, cases, issue]) => [
  name,
  async (backend) => {
    for (const one of cases) await compare(`${name} ${one}`, backend, budget, (side) => issue(side, one));
  },
]);
