/**
 * A barrier of workers over two words of shared memory: how many have arrived, and how often all have.
 */

/**
 * Looks at the other workers this often before the thread is put to sleep: some calls of a model's step take so long, and
 * whoever sleeps may wake late, or on the processor of another.
 */
const SPINS = 20_000;

/**
 * @param words - i32 [2] in shared memory, zero at the start, the same for all workers
 * @param workers - how many must arrive
 * @returns a function that returns when all workers have called theirs
 */
export function createBarrier(words: Int32Array, workers: number): () => void {
  if (workers === 1) return () => {};
  return () => {
    const round = Atomics.load(words, 1);
    if (Atomics.add(words, 0, 1) === workers - 1) {
      Atomics.store(words, 0, 0);
      Atomics.add(words, 1, 1);
      Atomics.notify(words, 1);
      return;
    }
    for (let spin = 0; spin < SPINS; spin++) if (Atomics.load(words, 1) !== round) return;
    while (Atomics.load(words, 1) === round) Atomics.wait(words, 1, round);
  };
}
