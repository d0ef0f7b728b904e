/**
 * The key-value heads of an attention call: all in one view, or one view for each.
 */

import type { KeyValues } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import type { AttendCall, AttendedKv } from "./backend.ts";

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
export function headViews({ q, kv }: Pick<AttendCall, "q" | "kv">): HeadView[] {
  const heads = q.shape[1];
  if (isOneView(kv)) return [{ kv, head: 0, heads }];
  const group = heads / kv.length;
  if (!Number.isInteger(group) || kv.some((view) => view.keys.shape.at(-2) !== 1)) {
    throw new ShapeError("attend", "one view with one head for each key-value head", { heads, views: kv.length });
  }
  return kv.map((view, n) => ({ kv: view, head: n * group, heads: group }));
}

/** Whether keys and values are one view of all heads. */
export function isOneView(kv: AttendedKv): kv is KeyValues {
  return !Array.isArray(kv);
}
