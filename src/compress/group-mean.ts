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
    const members = perHead.slice(kvHead * group, (kvHead + 1) * group);
    return members[0].map((_, t) => members.reduce((sum, member) => sum + member[t], 0) / group);
  });
}
