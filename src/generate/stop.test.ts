import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createStopStrings } from "./stop.ts";

/** Everything shown, and whether the text was stopped. */
function run(strings: string[], pieces: string[]): { shown: string; stopped: boolean } {
  const stops = createStopStrings(strings);
  let shown = "";
  for (const piece of pieces) {
    const { text, stopped } = stops.push(piece);
    shown += text;
    if (stopped) return { shown, stopped };
  }
  return { shown: shown + stops.end(), stopped: false };
}

/** The definition: the shortest beginning of the text that ends with a stop string, less that string. */
function expected(strings: string[], text: string): { shown: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const found = strings.filter((string) => text.slice(0, end).endsWith(string));
    const longest = Math.max(...found.map((string) => string.length));
    if (found.length > 0) return { shown: text.slice(0, end - longest), stopped: true };
  }
  return { shown: text, stopped: false };
}

describe("createStopStrings", () => {
  test("text that could begin a stop string is held back until it is clear", () => {
    const stops = createStopStrings(["\n\nUser:"]);
    expect(stops.push("Yes.\n")).toEqual({ text: "Yes.", stopped: false });
    expect(stops.push("\nU")).toEqual({ text: "", stopped: false });
    expect(stops.push("nless")).toEqual({ text: "\n\nUnless", stopped: false });
    expect(stops.push("\n\nUse")).toEqual({ text: "", stopped: false });
    expect(stops.push("r: hello")).toEqual({ text: "", stopped: true });
  });

  test("what is held back comes out at the end, once", () => {
    const stops = createStopStrings(["stop"]);
    expect(stops.push("a sto").text).toBe("a ");
    expect(stops.end()).toBe("sto");
    expect(stops.end()).toBe("");
  });

  test("without stop strings nothing is held back", () => {
    expect(createStopStrings([]).push("abc")).toEqual({ text: "abc", stopped: false });
  });

  test("any text, cut into any pieces, stops where the definition says", () => {
    const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 5 });
    const strings = fc.array(
      letters.filter((string) => string !== ""),
      { maxLength: 3 },
    );
    fc.assert(
      fc.property(strings, fc.array(letters, { maxLength: 8 }), (stops, pieces) => {
        expect(run(stops, pieces)).toEqual(expected(stops, pieces.join("")));
      }),
      { numRuns: 1000 },
    );
  });

  test("an empty stop string is refused", () => {
    expect(() => createStopStrings(["a", ""])).toThrow(
      'createStopStrings: every stop string must have at least one character; got strings=["a",""].',
    );
  });
});
