import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inputsArbitrary, maskArbitrary } from "../../test/support/mask-arbitraries.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import {
  and,
  bidirectionalSpans,
  blockCausal,
  causal,
  chunked,
  createMaskInputs,
  dilated,
  full,
  globalTokens,
  lengths,
  type Mask,
  type MaskInputs,
  maskPredicate,
  not,
  or,
  prefix,
  prefixLm,
  sameSegment,
  slidingWindow,
  table,
  tree,
} from "./index.ts";

/** Every pair of one batch entry and head as rows of 0 and 1. */
function pairs(mask: Mask, inputs: MaskInputs, batch = 0, head = 0): number[][] {
  const allows = maskPredicate(mask, inputs);
  return Array.from({ length: inputs.queryLength }, (_, q) =>
    Array.from({ length: inputs.keyLength }, (_, k) => (allows(batch, head, q, k) ? 1 : 0)),
  );
}

/** The same from a predicate of positions. */
function byHand(inputs: MaskInputs, allows: (q: number, k: number) => boolean): number[][] {
  return Array.from(inputs.queryPositions, (q) => Array.from(inputs.keyPositions, (k) => (allows(q, k) ? 1 : 0)));
}

describe("masks of positions", () => {
  // neither sorted nor without gaps, and below zero too
  const inputs = createMaskInputs({
    queryLength: 11,
    keyLength: 13,
    queryPositions: Int32Array.of(0, 1, 2, 3, 17, 9, 8, -3, 5, 30, 12),
    keyPositions: Int32Array.of(4, 5, 6, 7, 8, 0, -1, -5, 2, 3, 19, 12, 31),
  });
  const cases: [Mask, (q: number, k: number) => boolean][] = [
    [full(), () => true],
    [causal(), (q, k) => k <= q],
    [slidingWindow(1), (q, k) => k === q],
    [slidingWindow(5), (q, k) => k <= q && k > q - 5],
    [slidingWindow({ left: 3, right: 2 }), (q, k) => k >= q - 3 && k <= q + 2],
    [slidingWindow({ left: 0, right: 4 }), (q, k) => [q, q + 1, q + 2, q + 3, q + 4].includes(k)],
    [dilated(4, 3), (q, k) => [q, q - 3, q - 6, q - 9].includes(k)],
    [dilated({ left: 1, right: 2 }, 2), (q, k) => [q - 2, q, q + 2, q + 4].includes(k)],
    [chunked(6), (q, k) => k <= q && Math.floor(q / 6) === Math.floor(k / 6)],
    [blockCausal(4), (q, k) => k < 4 * (Math.floor(q / 4) + 1)],
    [globalTokens(3), (q, k) => [0, 1, 2].includes(q) || [0, 1, 2].includes(k)],
    [globalTokens([12, -5, [17, 19]]), (q, k) => [12, -5, 17, 18, 19].some((p) => p === q || p === k)],
    [globalTokens(0), () => false],
    [prefix(5), (_, k) => k < 5],
    [prefixLm(5), (q, k) => k <= q || k < 5],
    [causal().and(slidingWindow(5)), (q, k) => k <= q && k > q - 5],
    [
      globalTokens(2).or(slidingWindow({ left: 2, right: 2 })),
      (q, k) => q === 0 || q === 1 || k === 0 || k === 1 || Math.abs(q - k) <= 2,
    ],
    [causal().and(chunked(6).not()), (q, k) => k <= q && Math.floor(q / 6) !== Math.floor(k / 6)],
  ];
  for (const [mask, allows] of cases) {
    it(`${mask} allows the pairs that its definition allows`, () => {
      expect(pairs(mask, inputs)).toEqual(byHand(inputs, allows));
    });
  }

  it("align queries bottom-right when no positions are given", () => {
    expect(pairs(causal(), createMaskInputs({ queryLength: 2, keyLength: 4 }))).toEqual([
      [1, 1, 1, 0],
      [1, 1, 1, 1],
    ]);
  });
});

describe("masks of rows", () => {
  const querySegments = Int32Array.of(0, 0, 1, 1, -1, 2);
  const keySegments = Int32Array.of(0, 0, 1, -1, 3);
  const sizes = { queryLength: 6, keyLength: 5 };

  it("sameSegment() needs equal segments and leaves padding out, though its ids are equal", () => {
    const inputs = createMaskInputs({ ...sizes, querySegments, keySegments });
    expect(pairs(sameSegment(), inputs)).toEqual([
      [1, 1, 0, 0, 0],
      [1, 1, 0, 0, 0],
      [0, 0, 1, 0, 0],
      [0, 0, 1, 0, 0],
      [0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0],
    ]);
  });

  it("padding sees nothing and is seen by nothing, whatever the mask", () => {
    fc.assert(
      fc.property(maskArbitrary, inputsArbitrary, (mask, inputs) => {
        const allows = maskPredicate(mask.not(), inputs);
        for (let q = 0; q < inputs.queryLength; q++) {
          for (let k = 0; k < inputs.keyLength; k++) {
            const padded = inputs.querySegments![q]! < 0 || inputs.keySegments![k]! < 0;
            if (padded && allows(0, 0, q, k)) return false;
          }
        }
        return true;
      }),
      { numRuns: 100 },
    );
    const inputs = createMaskInputs({ queryLength: 1, keyLength: 3, keySegments: Int32Array.of(0, -1, 4) });
    expect(pairs(full(), inputs)).toEqual([[1, 0, 1]]);
  });

  it("bidirectionalSpans() joins equal spans above 0, and only inside a segment when segments are given", () => {
    const querySpans = Int32Array.of(1, 0, 1, 2, 2, 2);
    const keySpans = Int32Array.of(1, 0, 1, 2, 1);
    expect(pairs(bidirectionalSpans(), createMaskInputs({ ...sizes, querySpans, keySpans }))).toEqual([
      [1, 0, 1, 0, 1],
      [0, 0, 0, 0, 0],
      [1, 0, 1, 0, 1],
      [0, 0, 0, 1, 0],
      [0, 0, 0, 1, 0],
      [0, 0, 0, 1, 0],
    ]);
    const cut = createMaskInputs({ ...sizes, querySpans, keySpans, querySegments, keySegments });
    expect(pairs(bidirectionalSpans(), cut)).toEqual([
      [1, 0, 0, 0, 0],
      [0, 0, 0, 0, 0],
      [0, 0, 1, 0, 0],
      [0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0],
    ]);
  });

  it("prefix() reads a position per batch entry, lengths() a number of slots", () => {
    const inputs = createMaskInputs({
      batch: 2,
      queryLength: 1,
      keyLength: 4,
      keyPositions: Int32Array.of(9, 8, 7, 6, 0, 1, 2, 3),
      prefixLengths: Int32Array.of(8, 1),
      lengths: Int32Array.of(3, 2),
    });
    expect(pairs(prefix(), inputs, 0)).toEqual([[0, 0, 1, 1]]);
    expect(pairs(prefix(), inputs, 1)).toEqual([[1, 0, 0, 0]]);
    expect(pairs(lengths(), inputs, 0)).toEqual([[1, 1, 1, 0]]);
    expect(pairs(lengths(), inputs, 1)).toEqual([[1, 1, 0, 0]]);
  });

  it("table() reads a cell per batch entry, query and key; anything but 0 allows", () => {
    const cells = Uint8Array.of(0, 1, 0, 255, 0, 0, 1, 1, 0, 0, 0, 2);
    const inputs = createMaskInputs({ batch: 2, queryLength: 2, keyLength: 3, tables: { mine: cells } });
    expect(pairs(table("mine"), inputs, 0)).toEqual([
      [0, 1, 0],
      [1, 0, 0],
    ]);
    expect(pairs(table("mine"), inputs, 1)).toEqual([
      [1, 1, 0],
      [0, 0, 1],
    ]);
  });

  it("tree() shows a draft the committed prefix and its ancestors, and a committed query no draft", () => {
    // drafts: 0 and 3 are roots; 1 and 2 are children of 0; 4 is a child of 2
    const mask = tree([-1, 0, 0, -1, 2]);
    const inputs = createMaskInputs({
      queryLength: 6,
      keyLength: 8,
      queryPositions: Int32Array.of(2, 3, 4, 4, 3, 5),
      queryNodes: Int32Array.of(-1, 0, 1, 2, 3, 4),
      keyPositions: Int32Array.of(0, 1, 2, 3, 4, 4, 3, 5),
      keyNodes: Int32Array.of(-1, -1, -1, 0, 1, 2, 3, 4),
    });
    expect(pairs(mask, inputs)).toEqual([
      [1, 1, 1, 0, 0, 0, 0, 0],
      [1, 1, 1, 1, 0, 0, 0, 0],
      [1, 1, 1, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 1, 0, 0],
      [1, 1, 1, 0, 0, 0, 1, 0],
      [1, 1, 1, 1, 0, 1, 0, 1],
    ]);
  });
});

describe("the algebra", () => {
  it("follows the laws of and, or and not wherever there is no padding", () => {
    fc.assert(
      fc.property(maskArbitrary, maskArbitrary, inputsArbitrary, (a, b, given) => {
        const inputs = {
          ...given,
          querySegments: given.querySegments!.map(Math.abs),
          keySegments: given.keySegments!.map(Math.abs),
        };
        const [left, right] = [pairs(a, inputs), pairs(b, inputs)];
        const join = (f: (x: boolean, y: boolean) => boolean): number[][] =>
          left.map((row, q) => row.map((x, k) => (f(x === 1, right[q]![k] === 1) ? 1 : 0)));
        expect(pairs(a.and(b), inputs)).toEqual(join((x, y) => x && y));
        expect(pairs(a.or(b), inputs)).toEqual(join((x, y) => x || y));
        expect(pairs(a.not(), inputs)).toEqual(join((x) => !x));
        expect(pairs(a.and(b).not(), inputs)).toEqual(pairs(a.not().or(b.not()), inputs));
      }),
      { numRuns: 150 },
    );
  });

  it("keeps long chains flat, so that their nesting does not grow", () => {
    let mask = causal();
    for (let i = 1; i <= 500; i++) mask = mask.and(slidingWindow(i));
    expect(mask.extent).toEqual({ depth: 2, nodes: 502 });
    expect(mask.node).toEqual({ op: "and", args: expect.arrayContaining([{ op: "causal" }]) });
  });

  it("drops what does not matter: full() in and, doubled not, combinations of one", () => {
    expect(and(full(), causal(), full()).toString()).toBe("causal()");
    expect(and().toString()).toBe("full()");
    expect(or(causal(), full()).toString()).toBe("full()");
    expect(not(not(causal())).toString()).toBe("causal()");
    expect(not(not(causal())).extent).toEqual(causal().extent);
    expect(or(causal()).toString()).toBe("causal()");
  });

  it("is immutable all the way down, and takes no part of the caller's lists", () => {
    const parents = [-1, 0];
    const mask = tree(parents).or(causal());
    parents[1] = -1;
    expect(JSON.stringify(mask)).toBe('{"op":"or","args":[{"op":"tree","parents":[-1,0]},{"op":"causal"}]}');
    const data = mask.node as unknown as { args: { parents: number[] }[] };
    expect(() => data.args.push({ parents: [] })).toThrow(TypeError);
    expect(() => data.args[0]!.parents.push(0)).toThrow(TypeError);
    expect(() => Object.assign(mask, { node: full().node })).toThrow(TypeError);
  });
});

describe("words and hashes", () => {
  it("describe() says what a query sees", () => {
    const said: [Mask, string][] = [
      [full(), "every key"],
      [and(causal(), sameSegment()), "keys at or before its position, and only keys of its segment"],
      [slidingWindow(4096), "keys of the 4096 positions that end at its own"],
      [slidingWindow(1), "keys at its own position"],
      [slidingWindow({ left: 3, right: 2 }), "keys from 3 positions before it to 2 after"],
      [dilated(4, 2), "every 2nd position, up to 3 steps before its own"],
      [dilated({ left: 4, right: 1 }, 11), "every 11th position, up to 4 steps before its own and up to 1 after it"],
      [chunked(8), "keys at or before its position in its chunk of 8"],
      [blockCausal(8), "keys of its block of 8 positions and of earlier blocks"],
      [globalTokens([3, 7, 8]), "keys at global positions (3, 7 to 8), or every key if it is global"],
      [globalTokens(0), "nothing (there are no global tokens)"],
      [
        or(causal(), and(prefix(), bidirectionalSpans())),
        "keys at or before its position, or (keys in the prefix, and only keys of its bidirectional span)",
      ],
      [prefix(9), "keys before position 9"],
      [tree([-1, 0]), "committed keys at or before its position, and its ancestors in a tree of 2 drafts"],
      [lengths(), "key slots in use"],
      [table("mine").not(), 'all but (what table "mine" allows)'],
    ];
    for (const [mask, words] of said) expect(mask.describe()).toBe(`A query sees ${words}.`);
  });

  it("toString() is the code that builds the mask", () => {
    const code: [Mask, string][] = [
      [causal().and(slidingWindow(4096), sameSegment()), "causal().and(slidingWindow(4096), sameSegment())"],
      [slidingWindow({ left: 3, right: 2 }).not(), "slidingWindow({ left: 3, right: 2 }).not()"],
      [dilated(4, 2).or(chunked(8), blockCausal(4)), "dilated(4, 2).or(chunked(8), blockCausal(4))"],
      [globalTokens([0, 1, 2]), "globalTokens(3)"],
      [globalTokens([5, 1, [7, 9], 8]), "globalTokens([1, 5, [7, 9]])"],
      [globalTokens(0), "globalTokens(0)"],
      [prefix(), "prefix()"],
      [prefix(3), "prefix(3)"],
      [bidirectionalSpans().or(lengths()), "bidirectionalSpans().or(lengths())"],
      [tree([-1, 0]).and(table("a b")), 'tree([-1, 0]).and(table("a b"))'],
    ];
    for (const [mask, text] of code) expect(mask.toString()).toBe(text);
  });

  it("hash() is fixed for all time and tells masks apart", () => {
    expect(causal().hash()).toBe("fe766f9a90d97155");
    expect(causal().and(slidingWindow(4096)).hash()).toBe("096fae86f8ce8ef3");
    const hashes = Array.from({ length: 2000 }, (_, i) => slidingWindow(i + 1).hash());
    expect(new Set(hashes).size).toBe(2000);
  });
});

describe("wrong masks", () => {
  const cases: [string, () => unknown, string][] = [
    [
      "a window of 0",
      () => slidingWindow(0),
      "slidingWindow: size must be an integer from 1 to 1073741823; got size=0.",
    ],
    [
      "half a window",
      () => slidingWindow(2.5),
      "slidingWindow: size must be an integer from 1 to 1073741823; got size=2.5.",
    ],
    [
      "a reach below 0",
      () => slidingWindow({ left: -1, right: 0 }),
      "slidingWindow: left must be an integer from 0 to 1073741823; got left=-1.",
    ],
    [
      "an infinite reach",
      () => slidingWindow({ left: 0, right: Infinity }),
      "slidingWindow: right must be an integer from 0 to 1073741823; got right=Infinity.",
    ],
    [
      "a size as text",
      () => chunked("8" as unknown as number),
      'chunked: size must be an integer from 1 to 1073741823; got size="8".',
    ],
    ["blocks of −4", () => blockCausal(-4), "blockCausal: size must be an integer from 1 to 1073741823; got size=-4."],
    ["steps of 0", () => dilated(4, 0), "dilated: step must be an integer from 1 to 1073741823; got step=0."],
    [
      "a dilated window beyond 2^30",
      () => dilated(2 ** 20, 2 ** 11),
      "dilated: the reach times step must be at most 1073741823; got left=1048575, right=0, step=2048.",
    ],
    [
      "−1 global tokens",
      () => globalTokens(-1),
      "globalTokens: count must be an integer from 0 to 1073741823; got count=-1.",
    ],
    [
      "a global position that is no integer",
      () => globalTokens([1, 0.5]),
      "globalTokens: positions[1] must be an integer from -1073741823 to 1073741823; got positions[1]=0.5.",
    ],
    [
      "a range backwards",
      () => globalTokens([[5, 3]]),
      "globalTokens: a range must not end before it starts; got positions[0]=[5,3].",
    ],
    [
      "global tokens as text",
      () => globalTokens("first" as unknown as number),
      'globalTokens: a count or a list of positions; got tokens="first".',
    ],
    ["a prefix below 0", () => prefix(-2), "prefix: length must be an integer from 0 to 1073741823; got length=-2."],
    [
      "a parent that does not exist",
      () => tree([-1, 2]),
      "tree: parents[1] must be an integer from -1 to 1; got parents[1]=2.",
    ],
    ["a cycle", () => tree([-1, 2, 3, 1]), "tree: parents must not form a cycle; got node=1, parent=2."],
    ["a draft that is its own parent", () => tree([0]), "tree: parents must not form a cycle; got node=0, parent=0."],
    [
      "no list of parents",
      () => tree(3 as unknown as number[]),
      "tree: parents must be a list of indices; got parents=3.",
    ],
    ["a table without a name", () => table(""), 'table: name must be a string of 1 to 64 characters; got name="".'],
    [
      "something that is no mask",
      () => causal().and({ op: "causal" } as unknown as Mask),
      'and: a mask made by the builders; got mask={"op":"causal"}. Plain JSON is read by parseMask.',
    ],
    [
      "a truth value",
      () => not(true as unknown as Mask),
      "not: a mask made by the builders; got mask=true. Plain JSON is read by parseMask.",
    ],
    ["an or of nothing", () => or(), "or: at least one mask."],
    [
      "nesting beyond 64",
      () => {
        let mask = causal();
        for (let i = 0; i < 40; i++) mask = mask.and(prefix()).or(lengths());
      },
      "or: a mask may nest at most 64 deep; got depth=65.",
    ],
    [
      "doubling beyond 65536 parts",
      () => {
        let mask = causal().not();
        for (let i = 0; i < 20; i++) mask = i % 2 === 0 ? mask.and(mask) : mask.or(mask);
      },
      "and: a mask may have at most 65536 parts; got parts=98303.",
    ],
  ];
  for (const [name, build, message] of cases) {
    it(`${name} is refused when it is built`, () => {
      expect(thrownBy(build)).toBe(`ConfigError: ${message}`);
    });
  }
});
