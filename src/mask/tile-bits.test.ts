import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inputsArbitrary, maskArbitrary } from "../../test/support/mask-arbitraries.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { causal, createMaskInputs, createTileBits, custom, maskPredicate, slidingWindow } from "./index.ts";

describe("createTileBits", () => {
  it("packs the keys of a row into words, lowest bit first, and clears unused bits", () => {
    const inputs = createMaskInputs({ queryLength: 3, keyLength: 40 });
    const bits = createTileBits(slidingWindow(5).not(), inputs, { keyTile: 40 });
    const out = new Uint32Array(6).fill(0xdeadbeef);
    // row 0 sits at position 37 and does not see 33..37; row 1 does not see 34..38
    expect(bits.fill(0, 0, 0, 2, 0, 40, out)).toBe(70);
    expect(bits.wordsPerRow).toBe(2);
    expect([...out]).toEqual([0xffffffff, 0b11000001, 0xffffffff, 0b10000011, 0xdeadbeef, 0xdeadbeef]);
    expect(bits.fill(0, 0, 2, 3, 32, 37, out)).toBe(3); // position 39 does not see 35..39
    expect([...out.slice(0, 2)]).toEqual([0b00111, 0]);
  });

  it("equals the predicate for any mask, positions, tile and group of heads", () => {
    const tile = fc.record({ row: fc.nat(40), rows: fc.integer({ min: 1, max: 9 }), key: fc.nat(28) });
    fc.assert(
      fc.property(maskArbitrary, inputsArbitrary, tile, fc.constantFrom(1, 2, 3), (mask, inputs, at, group) => {
        fc.pre(inputs.heads % group === 0);
        const packedRows = inputs.queryLength * group;
        const rowStart = at.row % packedRows;
        const rowEnd = Math.min(rowStart + at.rows, packedRows);
        const keyStart = at.key % inputs.keyLength;
        const keyEnd = Math.min(keyStart + 11, inputs.keyLength);
        const [batch, kvHead] = [inputs.batch - 1, inputs.heads / group - 1];

        const bits = createTileBits(mask, inputs, { keyTile: 11, group });
        const out = new Uint32Array(rowEnd - rowStart);
        const count = bits.fill(batch, kvHead, rowStart, rowEnd, keyStart, keyEnd, out);

        const allows = maskPredicate(mask, inputs);
        let expected = 0;
        for (let row = rowStart; row < rowEnd; row++) {
          let word = 0;
          for (let key = keyStart; key < keyEnd; key++) {
            if (!allows(batch, kvHead * group + (row % group), Math.floor(row / group), key)) continue;
            word += 2 ** (key - keyStart);
            expected++;
          }
          expect(out[row - rowStart]).toBe(word);
        }
        expect(count).toBe(expected);
      }),
      { numRuns: 600 },
    );
  });

  it("reads the queries anew for other rows, another head and another batch entry", () => {
    const inputs = createMaskInputs({ batch: 2, heads: 2, queryLength: 4, keyLength: 4 });
    inputs.queryPositions.set([0, 1, 2, 3, 3, 2, 1, 0]);
    const byHead = custom(({ kvPosition, qPosition, head }) => kvPosition.le(qPosition.sub(head)));
    const bits = createTileBits(byHead, inputs, { keyTile: 4 });
    const allows = maskPredicate(byHead, inputs);
    const out = new Uint32Array(2);
    const tiles = [
      [0, 0, 0],
      [0, 0, 2],
      [0, 1, 2],
      [1, 1, 2],
      [0, 0, 0],
    ] as const;
    for (const [batch, head, row] of tiles) {
      bits.fill(batch, head, row, row + 2, 0, 4, out);
      const expected = [row, row + 1].map((query) =>
        [0, 1, 2, 3].reduce((word, key) => word + (allows(batch, head, query, key) ? 2 ** key : 0), 0),
      );
      expect([...out]).toEqual(expected);
    }
  });

  it("compares with a constant in tiles that grow", () => {
    const inputs = createMaskInputs({ queryLength: 2, keyLength: 100 }); // queries at 98 and 99
    const mask = custom(({ qPosition }) => qPosition.ge(99));
    const bits = createTileBits(mask, inputs, { keyTile: 100 });
    const out = new Uint32Array(8);
    expect(bits.fill(0, 0, 0, 2, 0, 10, out)).toBe(10);
    expect(bits.fill(0, 0, 0, 2, 0, 100, out)).toBe(100);
    expect([...out]).toEqual([0, 0, 0, 0, 2 ** 32 - 1, 2 ** 32 - 1, 2 ** 32 - 1, 15]);
  });

  it("refuses sizes that are not positive integers", () => {
    const inputs = createMaskInputs({ queryLength: 3, keyLength: 5 });
    expect(thrownBy(() => createTileBits(causal(), inputs, { keyTile: 0 }))).toBe(
      "ConfigError: createTileBits: keyTile must be an integer from 1 to 2^24; got keyTile=0.",
    );
    expect(thrownBy(() => createTileBits(causal(), inputs, { keyTile: 5, group: 1.5 }))).toBe(
      "ConfigError: createTileBits: group must be an integer from 1 to 2^24; got group=1.5.",
    );
  });
});
