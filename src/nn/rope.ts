/** Rotary positions as a module. */

import { ConfigError, ShapeError } from "../errors.ts";
import {
  createRotaryCache,
  type Pairing,
  type Positions,
  pairCount,
  type RopeSchedule,
  type RotaryCache,
  type RotaryLayer,
  type RotaryTable,
  type RotationDirection,
  rotaryTable,
  rotate,
} from "../rope/index.ts";
import { sizeOf, type Tensor, tensor } from "../tensor.ts";
import { checkGradient, leadingAxes } from "./features.ts";
import { Module, type ModuleGradients, type ParameterTree, type Vjp } from "./module.ts";

/** Which rotation: a plain one by `headDim` and `theta`, any schedule, or a whole layer. */
export type RoPEOptions = {
  /** D, width of a head; needed without `layer`. */
  readonly headDim?: number;
  /** Base of the plain schedule; 10000 unless told. */
  readonly theta?: number;
  /** In place of `theta`; it rotates the first 2·pairs dims. */
  readonly schedule?: RopeSchedule;
  /** "half" unless told, as in Flax. */
  readonly pairing?: Pairing;
  /** In place of all of the above. */
  readonly layer?: RotaryLayer;
  /** Keep the angles of positions 0 to maxPositions − 1, and refuse others. Absent: compute them when asked. */
  readonly maxPositions?: number;
  /** Tokens of the sequence, for schedules that depend on it; `maxPositions`, or the largest position + 1, unless told. */
  readonly length?: number;
};

/** What one call of RoPE may say. */
export type RoPECall = {
  /**
   * [T] the same for every batch entry, or [B, T]; one such row per axis for layers with several axes. Default 0, 1, ….
   */
  readonly positions?: Positions;
};

/**
 * Rotates queries or keys: the RoPE of Flax's pull request 5481, with angles in f64, any schedule and any positions.
 *
 * @see https://arxiv.org/abs/2104.09864
 */
export class RoPE extends Module {
  readonly layer: RotaryLayer;
  /** The length that decides the frequencies, where it was told. */
  readonly length: number | undefined;
  readonly #cache: RotaryCache | undefined;

  /** @throws ConfigError when the options contradict each other, or the schedule is impossible */
  constructor(options: RoPEOptions) {
    super();
    this.layer = readLayer(options);
    const { maxPositions, length } = options;
    const pinned = length === undefined ? {} : { length };
    this.#cache = maxPositions === undefined ? undefined : createRotaryCache(this.layer, { maxPositions, ...pinned });
    this.length = length ?? maxPositions;
    if (this.#cache === undefined) rotaryTable(this.layer, []); // refuses an impossible layer now
  }

  parameters(): ParameterTree {
    return {};
  }

  /**
   * Cosines and sines of T tokens.
   *
   * @param positions - [T], or one row [T] per axis
   * @param length - tokens of the sequence where the module was not told
   * @throws ConfigError when a position lies outside the kept angles
   */
  table(positions: Positions, length?: number): RotaryTable {
    if (this.#cache !== undefined) return this.#cache.table(positions);
    const tokens = this.length ?? length;
    return rotaryTable(this.layer, positions, tokens === undefined ? {} : { length: tokens });
  }

  /**
   * @param x - f32 [..., T, H, D]
   * @returns f32 of the same shape, rotated
   * @throws ShapeError when the head dim or the number of positions does not fit
   * @throws ConfigError when a position lies outside the kept angles
   */
  forward(x: Tensor<"f32">, { positions }: RoPECall = {}): Tensor<"f32"> {
    return rotated(x, this, this.#positions(x, positions));
  }

  /**
   * `forward` with the way back.
   *
   * @param x - f32 [..., T, H, D]
   * @throws ShapeError or ConfigError as `forward`
   */
  vjp(x: Tensor<"f32">, { positions }: RoPECall = {}): Vjp<Pick<ModuleGradients, "dx">> {
    const rows = this.#positions(x, positions);
    const out = rotated(x, this, rows);
    const backward = (dOut: Tensor<"f32">): Pick<ModuleGradients, "dx"> => {
      checkGradient("RoPE.vjp", dOut, out.shape);
      return { dx: rotated(dOut, this, rows, { direction: "transpose" }) };
    };
    return { out, backward };
  }

  /** Positions of every token of x. */
  #positions(x: Tensor<"f32">, positions: Positions | undefined): Positions {
    const [, T, ...batch] = tokenAxes(x, this.layer.headDim);
    return allRows(positions ?? Array.from({ length: T }, (_, t) => t), sizeOf(batch) * T, T);
  }
}

/**
 * Rotates x f32 [..., T, H, D] by one position for each of its B·T tokens.
 *
 * @param options - `length`: tokens of the sequence where the module was not told; `direction`: "transpose" turns the
 * gradient of what was rotated into that of x
 */
export function rotated(
  x: Tensor<"f32">,
  rope: RoPE,
  positions: Positions,
  { length, direction = "forward" }: { length?: number; direction?: RotationDirection } = {},
): Tensor<"f32"> {
  const { headDim } = rope.layer;
  const [heads] = tokenAxes(x, headDim);
  return tensor("f32", x.shape, rotate(x.data, rope.table(positions, length), { heads, headDim, direction }));
}

/** H, T and the batch axes, in this order. */
function tokenAxes(x: Tensor<"f32">, headDim: number): readonly number[] {
  const axes = [...leadingAxes("RoPE.forward", x, [headDim])].reverse();
  if (axes.length < 2) throw new ShapeError("RoPE.forward", "x must be [..., T, H, D]", { shape: x.shape });
  return axes;
}

function readLayer({ layer, headDim, theta, schedule, pairing = "half" }: RoPEOptions): RotaryLayer {
  if (layer !== undefined) {
    if (headDim !== undefined || theta !== undefined || schedule !== undefined) {
      throw new ConfigError("RoPE", "layer, or headDim with theta or schedule, not both", { headDim, theta });
    }
    return layer;
  }
  if (headDim === undefined) throw new ConfigError("RoPE", "headDim is needed without a layer");
  if (schedule !== undefined) {
    if (theta !== undefined) throw new ConfigError("RoPE", "theta or schedule, not both", { theta });
    return { headDim, rotaryDim: 2 * pairCount(schedule), rotaryOffset: 0, pairing, schedule };
  }
  if (headDim % 2 !== 0) throw new ConfigError("RoPE", "headDim must be even", { headDim });
  const plain = { type: "default", dim: headDim, theta: theta ?? 10000 } as const;
  return { headDim, rotaryDim: headDim, rotaryOffset: 0, pairing, schedule: plain };
}

/** Positions for every row of [B, T], of each axis. */
function allRows(positions: Positions, rows: number, T: number): Positions {
  const expanded = (row: ArrayLike<number>): ArrayLike<number> => {
    if (row.length === rows) return row;
    if (row.length === T) return Array.from({ length: rows }, (_, i) => row[i % T]);
    throw new ShapeError("RoPE.forward", "positions must be [T] or [B, T]", { length: row.length, T, B: rows / T });
  };
  return typeof positions[0] === "object"
    ? Array.from(positions as readonly ArrayLike<number>[], expanded)
    : expanded(positions as ArrayLike<number>);
}
