import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { updatePictures } from "../scripts/mask-pictures.mjs";
import { FEATURE_NAMES, planAttention } from "../src/attention/index.ts";
import * as mask from "../src/mask/index.ts";

const text = readFileSync(new URL("../docs/attention.md", import.meta.url), "utf8");

/** Builders of masks, each with a picture of its own. */
const BUILDERS = [
  "full",
  "causal",
  "slidingWindow",
  "chunked",
  "blockCausal",
  "dilated",
  "globalTokens",
  "sameSegment",
  "prefix",
  "prefixLm",
  "bidirectionalSpans",
  "lengths",
  "tree",
  "table",
  "custom",
];

describe("docs/attention.md", () => {
  it("has pictures that are current; if not, run scripts/mask-pictures.mjs", () => {
    expect(updatePictures(text, mask)).toBe(text);
  });

  it("has a picture of every mask", () => {
    for (const name of BUILDERS) expect(text).toMatch(new RegExp(`<!-- picture \\d+: [^>]*\\b${name}\\(`));
  });

  it("shows a plan as it explains itself", () => {
    const q = { dtype: "f32", shape: [300, 4, 3] } as const;
    const kv = { dtype: "f32", shape: [300, 2, 3] } as const;
    const request = {
      q,
      k: kv,
      v: kv,
      mask: mask.causal().and(mask.slidingWindow(100)),
      softcap: 5,
      sinks: [0, 0, 0, 0],
    };
    expect(text).toContain(planAttention(request, { workers: 3 }).explain());
  });

  it("names every feature of a kernel", () => {
    for (const name of FEATURE_NAMES) expect(text).toContain(`\`${name}\``);
  });
});
