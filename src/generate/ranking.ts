/**
 * The best of many scores, as many as are asked for: a heap that is emptied only as far as needed, so that the
 * top k of V cost O(V + k log V) and nothing is allocated.
 */

/** Ids in the order of their scores, highest first; equal scores stand in the order of their ids. */
export class Ranking {
  /** [V]: a heap in front, then the ids taken from it, the best one last. */
  readonly #ids: Int32Array;
  #heapSize = 0;
  #scores: Float64Array = new Float64Array(0);

  /** @param size - number of scores, V */
  constructor(size: number) {
    this.#ids = new Int32Array(size);
  }

  /** Starts over with these scores, f64 [V]; they must not change while ranks are read. */
  rank(scores: Float64Array): void {
    const ids = this.#ids;
    this.#scores = scores;
    this.#heapSize = ids.length;
    for (let i = 0; i < ids.length; i++) ids[i] = i;
    for (let i = (ids.length >> 1) - 1; i >= 0; i--) this.#siftDown(i);
  }

  /** The id at `rank`; 0 is the best one. */
  at(rank: number): number {
    const ids = this.#ids;
    const place = ids.length - 1 - rank;
    while (this.#heapSize > place) {
      const last = --this.#heapSize;
      const best = ids[0];
      ids[0] = ids[last];
      ids[last] = best;
      this.#siftDown(0);
    }
    return ids[place];
  }

  #siftDown(start: number): void {
    const ids = this.#ids;
    const size = this.#heapSize;
    const id = ids[start];
    let parent = start;
    for (;;) {
      let child = 2 * parent + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#precedes(ids[child + 1], ids[child])) child++;
      if (!this.#precedes(ids[child], id)) break;
      ids[parent] = ids[child];
      parent = child;
    }
    ids[parent] = id;
  }

  #precedes(a: number, b: number): boolean {
    const scores = this.#scores;
    return scores[a] > scores[b] || (scores[a] === scores[b] && a < b);
  }
}
