/** The tokens that a cache has been given, in order: what a slot's source is a number of. Four bytes a token. */
export class TokenLog {
  #tokens = new Int32Array(0);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** i32 ids of the tokens from `start` to `end` − 1; shares memory. */
  slice(start: number, end: number): Int32Array {
    return this.#tokens.subarray(start, Math.min(end, this.#length));
  }

  append(tokens: Int32Array): void {
    const needed = this.#length + tokens.length;
    if (needed > this.#tokens.length) {
      const larger = new Int32Array(Math.max(needed, 2 * this.#tokens.length, 64));
      larger.set(this.#tokens.subarray(0, this.#length));
      this.#tokens = larger;
    }
    this.#tokens.set(tokens, this.#length);
    this.#length = needed;
  }

  /** Forgets all but the first tokens. */
  crop(length: number): void {
    this.#length = Math.min(this.#length, length);
  }

  clone(): TokenLog {
    const copy = new TokenLog();
    copy.append(this.slice(0, this.#length));
    return copy;
  }
}
