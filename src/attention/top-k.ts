/**
 * The indices of the `count` largest scores, ascending; of equal scores the lower index goes first. NaN counts as
 * +Infinity, so that it shows in what follows.
 */
export function largestIndices(scores: ArrayLike<number>, count: number): number[] {
  const n = scores.length;
  if (count >= n) return Array.from({ length: n }, (_, i) => i);
  if (count <= 0) return [];
  const ranked = new Float64Array(n);
  for (let i = 0; i < n; i++) ranked[i] = Number.isNaN(scores[i]) ? Infinity : scores[i];
  const threshold = nthSmallest(ranked.slice(), n - count); // the last score that gets in
  let room = count; // for scores equal to the threshold
  for (let i = 0; i < n; i++) if (ranked[i] > threshold) room--;
  const chosen: number[] = [];
  for (let i = 0; i < n; i++) {
    if (ranked[i] > threshold || (ranked[i] === threshold && room-- > 0)) chosen.push(i);
  }
  return chosen;
}

/** Partitions after which what is left is sorted. */
const MOST_PARTITIONS = 64;

/** The number that would stand at index k if the numbers, which are moved about, were sorted; no NaN. */
function nthSmallest(numbers: Float64Array, k: number): number {
  let low = 0;
  let high = numbers.length - 1;
  for (let turn = 0; low < high; turn++) {
    if (turn === MOST_PARTITIONS) {
      numbers.subarray(low, high + 1).sort();
      break;
    }
    const pivot = middleOf(numbers[low], numbers[(low + high) >> 1], numbers[high]);
    let i = low;
    let j = high;
    while (i <= j) {
      while (numbers[i] < pivot) i++;
      while (numbers[j] > pivot) j--;
      if (i <= j) {
        const number = numbers[i];
        numbers[i++] = numbers[j];
        numbers[j--] = number;
      }
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break; // between the two parts all are the pivot
  }
  return numbers[k];
}

function middleOf(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}
