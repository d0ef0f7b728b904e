/**
 * A cache as plain arrays: every operation in the most obvious way, keys kept unrotated and rotated afresh when
 * compared.
 */

/** A rotation of a whole head, by its definition: pairs (i, i + D/2) or (2i, 2i + 1), base 100. */
export type ModelRotation = { readonly pairing: "half" | "interleaved"; readonly factor: number };

/** What a head holds of one token. */
export type ModelRow = {
  key: readonly number[];
  readonly value: readonly number[];
  position: number;
  readonly segment: number;
  /** How often the key has turned. */
  moves: number;
  /** How often channels of it were cleared and the rest stored again. */
  cleared: number;
  /** Channels that it holds; absent: all. */
  width?: number | undefined;
};

/** A key at a position. */
export function rotatedKey(key: readonly number[], position: number, { pairing, factor }: ModelRotation): number[] {
  const out = [...key];
  const pairs = key.length / 2;
  for (let i = 0; i < pairs; i++) {
    const [a, b] = pairing === "half" ? [i, i + pairs] : [2 * i, 2 * i + 1];
    const angle = position * 100 ** (-i / pairs);
    out[a] = factor * (key[a] * Math.cos(angle) - key[b] * Math.sin(angle));
    out[b] = factor * (key[b] * Math.cos(angle) + key[a] * Math.sin(angle));
  }
  return out;
}

/** A key before it was rotated to a position. */
function unrotatedKey(key: readonly number[], position: number, { pairing, factor }: ModelRotation): number[] {
  return rotatedKey(key, -position, { pairing, factor: 1 / factor });
}

/** Layers of heads of rows. */
export class CacheModel {
  heads: ModelRow[][][];
  next = 0;
  readonly capacity: number;

  /** @param capacity - rows of a ring */
  constructor(layers: number, kvHeads: number, capacity = Infinity) {
    this.capacity = capacity;
    this.heads = Array.from({ length: layers }, () => Array.from({ length: kvHeads }, () => []));
  }

  fork(): CacheModel {
    const copy = new CacheModel(0, 0, this.capacity);
    copy.heads = this.heads.map((heads) => heads.map((rows) => rows.map((row) => ({ ...row }))));
    copy.next = this.next;
    return copy;
  }

  append(layer: number, head: number, rows: readonly ModelRow[]): void {
    const all = [...this.heads[layer][head], ...rows.map((row) => ({ ...row }))];
    this.heads[layer][head] = all.slice(-this.capacity);
    for (const { position } of rows) this.next = Math.max(this.next, position + 1);
  }

  crop(length: number): void {
    this.#filter((row) => row.position < length);
    this.next = Math.min(this.next, length);
  }

  erase(start: number, end: number, closeGap: boolean): void {
    this.#filter((row) => row.position < start || row.position >= end);
    if (!closeGap) return;
    for (const heads of this.heads) {
      for (const row of heads.flat()) {
        if (row.position >= end) this.#move(heads, row, row.position - (end - start));
      }
    }
    if (this.next >= end) this.next -= end - start;
    else this.next = Math.min(this.next, start);
  }

  compact(layer: number, kept: readonly (readonly number[])[]): void {
    this.heads[layer] = this.heads[layer].map((rows, head) => kept[head].map((slot) => rows[slot]));
  }

  moveTo(layer: number, head: number, positions: readonly number[]): void {
    this.heads[layer][head].forEach((row, slot) => {
      this.#move(this.heads[layer], row, positions[slot]);
    });
    this.next = Math.max(0, ...this.heads.flat(2).map((row) => row.position + 1));
  }

  /**
   * Channels of the keys as they are rotated now become 0.
   *
   * @param dropped - [Hk][D]
   * @param frees - whether keys hold fewer channels then
   */
  drop(layer: number, dropped: readonly (readonly boolean[])[], rotation: ModelRotation, frees: boolean): void {
    const counts = dropped.map((list) => list.filter((goes) => !goes).length);
    const width = Math.max(1, ...counts);
    const narrows = frees && width < dropped[0].length;
    this.heads[layer].forEach((rows, head) => {
      for (const row of rows) {
        const key = rotatedKey(row.key, row.position, rotation).map((x, d) => (dropped[head][d] ? 0 : x));
        row.key = unrotatedKey(key, row.position, rotation);
        if (narrows) row.width = width;
        if (!narrows || counts.some((count) => count < width)) row.cleared++;
      }
    });
  }

  merge(other: CacheModel): void {
    const next = Math.max(this.next, other.next);
    other.heads.forEach((heads, layer) => {
      const isEmpty = this.heads[layer].every((rows) => rows.length === 0);
      heads.forEach((rows, head) => {
        this.append(
          layer,
          head,
          rows.map((row) => (isEmpty ? row : { ...row, width: undefined })),
        );
      });
    });
    this.next = next;
  }

  clear(): void {
    this.#filter(() => false);
    this.next = 0;
  }

  /** A key that turns is of full width again, and with it all of its layer. */
  #move(heads: readonly ModelRow[][], row: ModelRow, position: number): void {
    if (row.position === position) return;
    row.moves++;
    row.position = position;
    if (row.width !== undefined) for (const one of heads.flat()) one.width = undefined;
  }

  #filter(keeps: (row: ModelRow) => boolean): void {
    this.heads = this.heads.map((heads) => heads.map((rows) => rows.filter(keeps)));
  }
}
