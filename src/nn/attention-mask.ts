/**
 * Masks of attention functions: Phasor's expressions and Flax's arrays, joined into one expression with its tables.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { and, Mask, or, table, variable } from "../mask/index.ts";
import { sizeOf, type Tensor } from "../tensor.ts";
import { broadcastIndex } from "./dropout.ts";

/** An expression over positions and segments, or u8 broadcastable to [..., H, Tq, Tk], not 0 = may attend. */
export type AttentionMask = Mask | Tensor<"u8">;

type Sizes = {
  readonly axes: readonly number[];
  readonly B: number;
  readonly H: number;
  readonly Tq: number;
  readonly Tk: number;
};

/** What attention is told. */
export type ReadMask = { readonly mask?: Mask; readonly tables?: Readonly<Record<string, Uint8Array>> };

/**
 * All masks as one expression. An array becomes one table, or one for each head where heads differ.
 *
 * @param tables - the caller's own tables, kept
 * @throws ShapeError when an array does not broadcast; ConfigError for anything that is no mask
 */
export function readMask(
  where: string,
  masks: AttentionMask | readonly AttentionMask[] | undefined,
  sizes: Sizes,
  tables: Readonly<Record<string, Uint8Array>> = {},
): ReadMask {
  if (masks === undefined) return {};
  const made: Record<string, Uint8Array> = {};
  const expressions = maskList(masks).map((mask, index) => {
    if (mask instanceof Mask) return mask;
    return arrayMask(where, mask, sizes, (head, values) => {
      const name = `nn.mask[${index}].head[${head}]`;
      made[name] = values;
      return table(name);
    });
  });
  return { mask: and(...expressions), tables: { ...tables, ...made } };
}

/** One mask or several as a list. */
export function maskList(masks: AttentionMask | readonly AttentionMask[] | undefined): readonly AttentionMask[] {
  if (masks === undefined) return [];
  return Array.isArray(masks) ? (masks as readonly AttentionMask[]) : [masks as AttentionMask];
}

function arrayMask(
  where: string,
  mask: Tensor<"u8">,
  { axes, B, H, Tq, Tk }: Sizes,
  add: (head: number, values: Uint8Array) => Mask,
): Mask {
  if (!(mask?.data instanceof Uint8Array)) {
    throw new ConfigError(where, "a mask must be an expression or a u8 tensor", { dtype: mask?.dtype });
  }
  const target = [...axes, H, Tq, Tk];
  const shape = [...Array<number>(Math.max(0, target.length - mask.shape.length)).fill(1), ...mask.shape];
  const fits = shape.length === target.length && shape.every((extent, axis) => extent === 1 || extent === target[axis]);
  if (!fits)
    throw new ShapeError(where, "a mask must be broadcastable to [..., H, Tq, Tk]", { mask: mask.shape, target });
  const heads = shape.at(-3) === 1 ? 1 : H;
  const at = broadcastIndex(shape, [...axes, heads, Tq, Tk]);
  const pairs = Tq * Tk;
  const tables = Array.from({ length: heads }, (_, head) => {
    const values = new Uint8Array(B * pairs);
    for (let i = 0; i < values.length; i++) {
      values[i] = mask.data[at((Math.floor(i / pairs) * heads + head) * pairs + (i % pairs))];
    }
    return add(head, values);
  });
  return heads === 1 ? tables[0] : or(...tables.map((own, head) => variable("head").eq(head).and(own)));
}

/**
 * The mask for the first `length` of `maxLength` key slots: Flax's masks of a decode step cover all slots of its cache.
 */
export function cutKeys(mask: AttentionMask, maxLength: number, length: number): AttentionMask {
  if (mask instanceof Mask || mask.shape.at(-1) !== maxLength || maxLength === 1 || length === maxLength) return mask;
  const shape = [...mask.shape.slice(0, -1), length];
  const data = new Uint8Array(sizeOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = mask.data[Math.floor(i / length) * maxLength + (i % length)];
  return { dtype: "u8", shape, data };
}
