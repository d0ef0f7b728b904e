/**
 * A hash of a text that is the same on every platform. Not for secrets.
 */

/** Sixteen hexadecimal digits: two FNV-1a hashes of the UTF-16 units, the second from another start. */
export function hashText(text: string): string {
  return fnv1a(text, 0x811c9dc5) + fnv1a(text, 0x01234567);
}

function fnv1a(text: string, start: number): string {
  let hash = start;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    hash ^= hash >>> 15; // spreads the high bits, which FNV alone never moves down
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}
