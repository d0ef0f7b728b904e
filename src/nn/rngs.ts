/**
 * Named streams of random keys, as nnx.Rngs: the n-th key of a stream is `foldIn(key, n)`.
 */

import { ConfigError } from "../errors.ts";
import { foldIn, key } from "./random.ts";
import type { RandomKey } from "./threefry.ts";

/** What a stream starts from. */
export type Seed = number | bigint | RandomKey;

/** Keys in a row. */
export class RngStream {
  /** What all its keys are made of. */
  readonly key: RandomKey;
  #count = 0;

  /** @param seed - an integer, or a key as it is */
  constructor(seed: Seed) {
    this.key = typeof seed === "object" ? [seed[0], seed[1]] : key(seed);
  }

  /** Keys given out. */
  get count(): number {
    return this.#count;
  }

  /** The next key. */
  next(): RandomKey {
    return foldIn(this.key, this.#count++);
  }

  /** A stream of its own, made of the next key. */
  fork(): RngStream {
    return new RngStream(this.next());
  }
}

/**
 * Streams by name. Names without a stream of their own share the stream `default` and its counter.
 *
 * `new Rngs(0)` has `default` only; `new Rngs({ params: 1, dropout: 2 })` two streams and no default;
 * `new Rngs(0, { dropout: 2 })` both kinds.
 */
export class Rngs {
  readonly #streams: Map<string, RngStream>;

  /**
   * @param seed - of the stream `default`, or seeds by name
   * @param named - further seeds by name
   */
  constructor(seed: Seed | Readonly<Record<string, Seed>>, named: Readonly<Record<string, Seed>> = {}) {
    const seeds = isSeed(seed) ? { default: seed, ...named } : { ...seed, ...named };
    this.#streams = new Map(Object.entries(seeds).map(([name, start]) => [name, new RngStream(start)]));
  }

  /**
   * The stream of this name, or `default`.
   *
   * @throws ConfigError when there is neither
   */
  stream(name = "default"): RngStream {
    const found = this.#streams.get(name) ?? this.#streams.get("default");
    if (found !== undefined) return found;
    throw new ConfigError(
      "Rngs",
      "a stream of this name, or a default one",
      { name, streams: [...this.#streams.keys()] },
      "Pass its seed, or a default seed, to new Rngs.",
    );
  }

  /**
   * The next key of the stream of this name, or of `default`.
   *
   * @throws ConfigError when there is neither
   */
  next(name = "default"): RandomKey {
    return this.stream(name).next();
  }
}

function isSeed(value: Seed | Readonly<Record<string, Seed>>): value is Seed {
  return typeof value !== "object" || Array.isArray(value);
}
