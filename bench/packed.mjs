/** 64 documents of unequal length, packed one after another. */
export function packedSegments(length, count) {
  const weights = Array.from({ length: count }, (_, i) => 1 + ((i * 37) % 23));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const segments = new Int32Array(length);
  let start = 0;
  let sum = 0;
  weights.forEach((weight, segment) => {
    sum += weight;
    const end = Math.round((sum / total) * length);
    segments.fill(segment, start, end);
    start = end;
  });
  return segments;
}

/** Positions that begin at 0 in every document. */
export function restartingPositions(segments) {
  const positions = new Int32Array(segments.length);
  for (let i = 1; i < segments.length; i++) positions[i] = segments[i] === segments[i - 1] ? positions[i - 1] + 1 : 0;
  return positions;
}
