/**
 * Names for what columns of slots hold. Layers go through the same changes one after the other; those that have done so
 * have the same name, and nobody needs to compare their positions again.
 */

/** A name; equal objects mean equal slots. */
export type SlotVersion = object;

type Change = {
  readonly from: SlotVersion;
  readonly kind: string;
  readonly values: readonly Int32Array[];
  readonly to: SlotVersion;
};

/** Changes remembered; layers follow each other closely. */
const REMEMBERED = 8;

/** The versions of one cache and its forks. */
export class SlotVersions {
  /** No slots. */
  readonly empty: SlotVersion = {};
  #recent: Change[] = [];

  /**
   * The version after a change.
   *
   * @param kind - what is done
   * @param values - by what; with `from` and `kind` they determine the slots afterwards. Copied where they are kept.
   */
  after(from: SlotVersion, kind: string, values: readonly Int32Array[]): SlotVersion {
    const known = this.#recent.find(
      (change) => change.from === from && change.kind === kind && sameLists(change.values, values),
    );
    if (known) return known.to;
    const change = { from, kind, values: values.map((list) => list.slice()), to: {} };
    this.#recent = [change, ...this.#recent.slice(0, REMEMBERED - 1)];
    return change.to;
  }
}

function sameLists(a: readonly Int32Array[], b: readonly Int32Array[]): boolean {
  return a.length === b.length && a.every((list, n) => sameList(list, b[n]));
}

function sameList(a: Int32Array, b: Int32Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
