/**
 * The pictures of docs/attention.md. A picture is the block after a comment `<!-- picture TILE: CODE -->`, where CODE
 * builds a mask. Every picture has 12 × 12 tiles of TILE × TILE tokens over the inputs below.
 *
 * Build first: npm run build. Run: node scripts/mask-pictures.mjs
 */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const TILES = 12;
const PICTURE = /<!-- picture (\d+): (.+?) -->\n```text\n[^`]*```/g;

/** The text with all pictures drawn anew; `mask` is the module phasor/mask. */
export function updatePictures(text, mask) {
  return text.replace(PICTURE, (_, tile, code) => {
    const build = new Function(...Object.keys(mask), `return ${code};`);
    const picture = mask.maskPicture(build(...Object.values(mask)), inputsFor(mask, TILES * tile), {
      tile: Number(tile),
    });
    return `<!-- picture ${tile}: ${code} -->\n\`\`\`text\n${picture}\n\`\`\``;
  });
}

/** Three documents, two images, a prefix, a length, and nine drafts at the end. */
function inputsFor({ createMaskInputs }, length) {
  const at = (share) => Math.round(share * length);
  const row = (value) => Int32Array.from({ length }, (_, token) => value(token));
  const segments = row((token) => (token < at(0.36) ? 0 : token < at(0.8) ? 1 : 2));
  const spans = row((token) => {
    if (token >= at(0.1) && token < at(0.3)) return 1;
    return token >= at(0.5) && token < at(0.7) ? 2 : 0;
  });
  const nodes = row((token) => Math.max(-1, token - (length - 9)));
  const stripes = Uint8Array.from({ length: length * length }, (_, n) => {
    const [query, key] = [Math.floor(n / length), n % length];
    return (query + 2 * key) % length < length / 3 ? 1 : 0;
  });
  return {
    ...createMaskInputs({ queryLength: length, keyLength: length }),
    querySegments: segments,
    keySegments: segments,
    querySpans: spans,
    keySpans: spans,
    queryNodes: nodes,
    keyNodes: nodes,
    prefixLengths: Int32Array.of(at(0.3)),
    lengths: Int32Array.of(at(0.6)),
    tables: { stripes },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = fileURLToPath(new URL("../docs/attention.md", import.meta.url));
  const mask = await import("../dist/mask/index.js");
  writeFileSync(file, updatePictures(readFileSync(file, "utf8"), mask));
}
