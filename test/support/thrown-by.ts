/**
 * The error that a call throws, as one line.
 */

/** `<class>: <message>` of what `action` throws; "nothing" when it returns. */
export function thrownBy(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
  return "nothing";
}
