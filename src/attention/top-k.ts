/**
 * The indices of the `count` largest scores, ascending; of equal scores the lower index goes first. NaN counts as
 * +Infinity, so that it shows in what follows.
 */
export function largestIndices(scores: ArrayLike<number>, count: number): number[] {
  const ranked = Float64Array.from(scores, (score) => (Number.isNaN(score) ? Infinity : score));
  const all = Array.from(ranked.keys());
  if (count >= all.length) return all;
  const threshold = ranked.slice().sort()[all.length - count]; // the last score that gets in
  let room = count; // for scores equal to the threshold
  for (const score of ranked) if (score > threshold) room--;
  return all.filter((i) => ranked[i] > threshold || (ranked[i] === threshold && room-- > 0));
}
