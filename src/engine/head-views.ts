/**
 * The key-value heads of an attention call: all in one view, or one view for each.
 */

import type { KeyValues, KvViews, NarrowedKv } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import type { AttendCall } from "./backend.ts";

/** Some query heads of a call and the view they look at. */
export type HeadView = {
  readonly kv: KeyValues;
  /** First query head. */
  readonly head: number;
  /** Query heads. */
  readonly heads: number;
};

/**
 * Splits the query heads of a call among its views.
 *
 * @throws ShapeError when the views are not one per key-value head
 */
export function headViews({ q, kv }: Pick<AttendCall<KvViews>, "q" | "kv">): HeadView[] {
  const heads = q.shape[1];
  if (isOneView(kv)) return [{ kv, head: 0, heads }];
  const group = heads / kv.length;
  if (!Number.isInteger(group) || kv.some((view) => view.keys.shape.at(-2) !== 1)) {
    throw new ShapeError("attend", "one view with one head for each key-value head", { heads, views: kv.length });
  }
  return kv.map((view, n) => ({ kv: view, head: n * group, heads: group }));
}

/** Whether keys and values are one view of all heads. */
export function isOneView(kv: KvViews): kv is KeyValues {
  return !Array.isArray(kv);
}

/**
 * Where the queries' numbers lie that meet the older keys of a layer: those of the channels that the key-value head of
 * each query head holds.
 *
 * @param q - [H, D], heads and channels of a query
 * @param channels - i32 [Hk][D′]
 * @returns i32 [H, D′] places among the H·D numbers of a query
 * @throws ShapeError when heads or channels do not fit
 */
export function keptNumbers([heads, dim]: readonly number[], channels: NarrowedKv["channels"]): Int32Array {
  const group = heads / channels.length;
  const width = channels[0].length;
  const fits = channels.every(
    (list) => list.length === width && list.every((channel) => channel >= 0 && channel < dim),
  );
  if (!Number.isInteger(group) || !fits) {
    throw new ShapeError("attend", "as many channels of the head for each key-value head", {
      heads,
      headDim: dim,
      channels,
    });
  }
  return Int32Array.from({ length: heads * width }, (_, n) => {
    const head = Math.floor(n / width);
    return head * dim + channels[Math.floor(head / group)][n % width];
  });
}
