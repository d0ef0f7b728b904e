/** Plain data that most layers have in common, kept once. */

/**
 * The same list with every value replaced by the first that is equal to it as JSON, so that equal values are one object
 * and may be compared and looked up by identity.
 */
export function shareEqual<T>(values: readonly T[]): T[] {
  const firsts = new Map<string, T>();
  return values.map((value) => {
    const key = JSON.stringify(value);
    if (!firsts.has(key)) firsts.set(key, value);
    return firsts.get(key) as T;
  });
}
