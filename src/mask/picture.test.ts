import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { causal, createMaskInputs, custom, maskPicture, maskPictureSvg, slidingWindow } from "./index.ts";

const inputs = createMaskInputs({ queryLength: 12, keyLength: 16 });

describe("maskPicture", () => {
  it("draws a sign per tile: every pair, some pairs, none", () => {
    expect(maskPicture(causal(), inputs, { tile: 4 })).toBe(["█▒··", "██▒·", "███▒"].join("\n"));
    expect(maskPicture(slidingWindow(9), inputs, { tile: 4 })).toBe(["█▒··", "▒█▒·", "·▒█▒"].join("\n"));
  });

  it("draws the head and batch entry that is asked for, by its true pairs", () => {
    const two = createMaskInputs({ batch: 2, heads: 2, queryLength: 2, keyLength: 4, lengths: Int32Array.of(4, 4) });
    const mask = custom((v) => v.kvPosition.mod(2).eq(v.head).and(v.kvPosition.ge(v.batch)));
    expect(maskPicture(mask, two, { tile: 1 })).toBe("█·█·\n█·█·");
    expect(maskPicture(mask, two, { tile: 1, head: 1 })).toBe("·█·█\n·█·█");
    expect(maskPicture(mask, two, { tile: 1, batch: 1 })).toBe("··█·\n··█·");
  });

  it("refuses pictures of more than 256 tiles a side and heads that do not exist", () => {
    const large = createMaskInputs({ queryLength: 10, keyLength: 2561 });
    expect(thrownBy(() => maskPicture(causal(), large, { tile: 10 }))).toBe(
      "ConfigError: maskPicture: at most 256 × 256 tiles; got queryLength=10, keyLength=2561, tile=10. Use larger tiles.",
    );
    expect(thrownBy(() => maskPicture(causal(), inputs, { tile: 4, head: 1 }))).toBe(
      "ConfigError: maskPicture: head must be an integer from 0 to 0; got head=1.",
    );
    expect(thrownBy(() => maskPicture(causal(), inputs, { tile: 4, batch: -1 }))).toBe(
      "ConfigError: maskPicture: batch must be an integer from 0 to 0; got batch=-1.",
    );
  });
});

describe("maskPictureSvg", () => {
  it("draws a square per tile under the mask in words", () => {
    const two = createMaskInputs({ queryLength: 1, keyLength: 2, queryPositions: Int32Array.of(0) });
    const mask = custom((v) => v.kvPosition.lt(v.qPosition.add(1)));
    expect(maskPictureSvg(mask, two, { tile: 1 })).toBe(
      [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 8" width="16" height="8">',
        "<title>A query sees keys where kvPos &lt; (qPos + 1).</title>",
        '<rect x="0" y="0" width="7" height="7" fill="#20639b"/>',
        '<rect x="8" y="0" width="7" height="7" fill="#f2f2f2"/>',
        "</svg>",
      ].join("\n"),
    );
  });
});
