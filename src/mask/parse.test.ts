import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { maskArbitrary } from "../../test/support/mask-arbitraries.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { causal, globalTokens, lookup, parseMask, prefix, table, tree, variable } from "./index.ts";

describe("parseMask", () => {
  it("reads every mask back from its text, with the same data, hash and extent", () => {
    fc.assert(
      fc.property(maskArbitrary, (mask) => {
        const read = parseMask(JSON.stringify(mask));
        expect(read.node).toEqual(mask.node);
        expect(read.hash()).toBe(mask.hash());
        expect(read.extent).toEqual(mask.extent);
      }),
      { numRuns: 300 },
    );
  });

  it("reads a mask whose text is written by hand, in any order of keys", () => {
    const text = '{"args": [{"op": "causal"}, {"right": 0, "left": 6, "op": "window"}, {"op": "prefix"}], "op": "and"}';
    expect(parseMask(text).toString()).toBe("causal().and(slidingWindow(7), prefix())");
    expect(parseMask(JSON.parse(text)).hash()).toBe(parseMask(text).hash());
  });

  it("reads back what is as deep and as large as the builders allow", () => {
    let deep = causal();
    for (let i = 0; i < 31; i++) deep = deep.and(prefix()).or(table("t"));
    deep = deep.not();
    expect(deep.extent.depth).toBe(64);
    expect(parseMask(JSON.stringify(deep)).hash()).toBe(deep.hash());
    for (const large of [
      tree(Array.from({ length: 65535 }, (_, i) => i - 1)),
      globalTokens(Array.from({ length: 32767 }, (_, i) => 2 * i)),
    ]) {
      expect(large.extent.nodes).toBeGreaterThanOrEqual(65535);
      expect(parseMask(JSON.stringify(large)).hash()).toBe(large.hash());
    }
    let sum = lookup("n", variable("head"));
    for (let i = 0; i < 61; i++) sum = sum.add(1);
    expect(parseMask(JSON.stringify(sum.lt(3))).hash()).toBe(sum.lt(3).hash());
  });

  const compare = (left: unknown): unknown => ({
    op: "compare",
    relation: "lt",
    left,
    right: { op: "constant", value: 1 },
  });
  const nested = (depth: number): string => `${'{"op":"not","arg":'.repeat(depth)}{"op":"causal"}${"}".repeat(depth)}`;
  const ops =
    "full, causal, window, chunked, blockCausal, dilated, global, segment, prefix, span, tree, length, table, " +
    "compare, and, or, not";
  const cases: [string, unknown, string][] = [
    ["no JSON", "{", 'parseMask: text must be JSON; got text="{".'],
    ["no object", "[]", "parseMask: every node must be an object with an op; got node=[]."],
    ["nothing", undefined, "parseMask: every node must be an object with an op; got node=undefined."],
    ["null inside", { op: "not", arg: null }, "parseMask: every node must be an object with an op; got node=null."],
    ["an unknown operation", { op: "casual" }, `parseMask: op must be one of ${ops}; got op="casual".`],
    ["an operation from Object", { op: "toString" }, `parseMask: op must be one of ${ops}; got op="toString".`],
    ["no operation", {}, `parseMask: op must be one of ${ops}; got op=undefined.`],
    ["an unknown key", { op: "causal", size: 4 }, 'parseMask: causal has no such key; got key="size".'],
    ["a missing size", { op: "chunked" }, "chunked: size must be an integer from 1 to 1073741823; got size=undefined."],
    [
      "a window without an end",
      { op: "window", left: 3 },
      "slidingWindow: right must be an integer from 0 to 1073741823; got right=undefined.",
    ],
    [
      "args that are no list",
      { op: "and", args: { length: 9 } },
      'parseMask: args must be a list; got args={"length":9}.',
    ],
    ["an or of nothing", { op: "or", args: [] }, "or: at least one mask."],
    ["half a range", { op: "global", ranges: [1] }, "parseMask: ranges must have an even length; got length=1."],
    ["a cycle", { op: "tree", parents: [1, 0] }, "tree: parents must not form a cycle; got node=0, parent=1."],
    [
      "an unknown relation",
      { op: "compare", relation: "like" },
      'parseMask: relation must be one of eq, ne, lt, le, gt, ge; got relation="like".',
    ],
    [
      "an unknown integer operation",
      compare({ op: "pow" }),
      'parseMask: op must be one of add, sub, mul, floorDiv, mod, min, max, constant, variable, lookup; got op="pow".',
    ],
    [
      "an unknown variable",
      compare({ op: "variable", name: "__proto__" }),
      "parseMask: name must be one of queryPosition, keyPosition, querySegment, keySegment, querySpan, keySpan, " +
        'queryNode, keyNode, keySlot, prefixLength, length, batch, head; got name="__proto__".',
    ],
    [
      "a divisor that is no constant",
      compare({ op: "mod", left: { op: "constant", value: 1 }, right: { op: "variable", name: "head" } }),
      'parseMask: the divisor of mod must be a constant; got op="variable".',
    ],
    [
      "a divisor of 0",
      compare({ op: "floorDiv", left: { op: "constant", value: 1 }, right: { op: "constant", value: 0 } }),
      "floorDiv: divisor must be an integer from 1 to 2147483647; got divisor=0.",
    ],
    ["nesting of 65", nested(64), "parseMask: a mask may nest at most 64 deep; got depth=65."],
    ["nesting of a hundred thousand", nested(100_000), "parseMask: a mask may nest at most 64 deep; got depth=65."],
    [
      "a tree of 65536 drafts",
      { op: "tree", parents: Array.from({ length: 65536 }, () => -1) },
      "parseMask: a mask may have at most 65536 parts.",
    ],
    [
      "a hundred thousand masks",
      { op: "and", args: Array.from({ length: 100_000 }, () => ({ op: "causal" })) },
      "parseMask: a mask may have at most 65536 parts.",
    ],
  ];
  for (const [name, json, message] of cases) {
    it(`refuses ${name}`, () => {
      expect(thrownBy(() => parseMask(json))).toBe(`ConfigError: ${message}`);
    });
  }

  it("gives a ConfigError or a mask for any JSON, and nothing else", () => {
    const anything = fc.letrec((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        fc.jsonValue(),
        fc.dictionary(
          fc.constantFrom(
            "op",
            "args",
            "arg",
            "left",
            "right",
            "size",
            "parents",
            "ranges",
            "relation",
            "value",
            "name",
          ),
          fc.oneof(
            fc.constantFrom("and", "or", "not", "window", "tree", "global", "compare", "lt", "constant", "add", "mod"),
            fc.array(tie("node"), { maxLength: 3 }),
            tie("node"),
            fc.integer(),
          ),
        ),
      ),
    })).node;
    fc.assert(
      fc.property(anything, (json) => {
        expect(thrownBy(() => parseMask(json))).toMatch(/^(ConfigError: |nothing)/);
      }),
      { numRuns: 500 },
    );
  });
});
