/** From query heads to the key-value heads they share. */

/**
 * The mean over the query heads of each key-value head.
 *
 * @param perHead - f64 [H][T]
 * @param group - G, query heads per key-value head
 * @returns f64 [Hk][T]
 */
export function groupMean(perHead: readonly Float64Array[], group: number): Float64Array[] {
  return Array.from({ length: perHead.length / group }, (_, kvHead) => {
    const mean = new Float64Array(perHead[kvHead * group].length);
    for (let h = kvHead * group; h < (kvHead + 1) * group; h++) {
      const member = perHead[h];
      for (let t = 0; t < mean.length; t++) mean[t] += member[t];
    }
    for (let t = 0; t < mean.length; t++) mean[t] /= group;
    return mean;
  });
}
