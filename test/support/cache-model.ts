/**
 * A cache as plain arrays: every operation in the most obvious way, keys kept unrotated and rotated afresh when
 * compared.
 */

/** A rotation of a whole head, by its definition: pairs (i, i + D/2) or (2i, 2i + 1), base 100. */
export type ModelRotation = { readonly pairing: "half" | "interleaved"; readonly factor: number };

/** What a head holds of one token. */
export type ModelRow = {
  readonly key: readonly number[];
  readonly value: readonly number[];
  position: number;
  readonly segment: number;
  /** How often the key has turned. */
  moves: number;
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
    for (const row of this.heads.flat(2)) if (row.position >= end) this.#move(row, row.position - (end - start));
    if (this.next >= end) this.next -= end - start;
    else this.next = Math.min(this.next, start);
  }

  compact(layer: number, kept: readonly (readonly number[])[]): void {
    this.heads[layer] = this.heads[layer].map((rows, head) => kept[head].map((slot) => rows[slot]));
  }

  moveTo(layer: number, head: number, positions: readonly number[]): void {
    this.heads[layer][head].forEach((row, slot) => {
      this.#move(row, positions[slot]);
    });
    this.next = Math.max(0, ...this.heads.flat(2).map((row) => row.position + 1));
  }

  merge(other: CacheModel): void {
    const next = Math.max(this.next, other.next);
    other.heads.forEach((heads, layer) => {
      heads.forEach((rows, head) => {
        this.append(layer, head, rows);
      });
    });
    this.next = next;
  }

  clear(): void {
    this.#filter(() => false);
    this.next = 0;
  }

  #move(row: ModelRow, position: number): void {
    if (row.position !== position) row.moves++;
    row.position = position;
  }

  #filter(keeps: (row: ModelRow) => boolean): void {
    this.heads = this.heads.map((heads) => heads.map((rows) => rows.filter(keeps)));
  }
}
