import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { PackedBatch } from "./packed-batch.ts";
import { packDocuments, packOnce, type TokenDocument } from "./packed-batches.ts";

const documentArbitrary = fc.array(fc.integer({ min: 0, max: 99 }), { maxLength: 23 }).map((tokens) => ({ tokens }));
const documentsArbitrary = fc
  .array(documentArbitrary, { minLength: 1, maxLength: 40 })
  .filter((documents) => documents.some(({ tokens }) => tokens.length > 1));

/** The texts of a batch: tokens of every segment. */
function textsOf({ tokens, segments }: PackedBatch): number[][] {
  const texts: number[][] = [];
  tokens.forEach((token, t) => {
    if (segments[t] < 0) return;
    texts[segments[t]] ??= [];
    texts[segments[t]].push(token);
  });
  return texts;
}

/** What a document of length n becomes in rows of `context`: runs that share their ends. */
function cut(tokens: readonly number[], context: number): number[][] {
  if (tokens.length < 2) return [];
  if (tokens.length <= context) return [[...tokens]];
  return [tokens.slice(0, context), ...cut(tokens.slice(context - 1), context)];
}

const inOrder = (texts: number[][]): string[] => texts.map((text) => text.join()).sort();

describe("packOnce", () => {
  test("holds every document once, whole where it fits", () => {
    fc.assert(
      fc.property(documentsArbitrary, fc.integer({ min: 2, max: 17 }), (documents, contextTokens) => {
        const batches = packOnce(documents, { contextTokens, batchTokens: 3 * contextTokens });
        const want = documents.flatMap(({ tokens }) => cut(tokens, contextTokens));
        expect(inOrder(batches.flatMap(textsOf))).toEqual(inOrder(want));
      }),
      { numRuns: 100 },
    );
  });

  test("positions restart, targets are the next tokens of the same text, and padding is marked", () => {
    fc.assert(
      fc.property(documentsArbitrary, (documents) => {
        for (const batch of packOnce(documents, { contextTokens: 7, batchTokens: 14 })) {
          const { tokens, positions, segments, targets, weights } = batch;
          for (let t = 0; t < 14; t++) {
            const starts = segments[t] < 0 || t === 0 || segments[t - 1] !== segments[t];
            expect(positions[t]).toBe(starts ? 0 : positions[t - 1] + 1);
            expect(positions[t]).toBeLessThan(7);
            const continues = segments[t] >= 0 && t + 1 < 14 && segments[t + 1] === segments[t];
            expect(targets[t]).toBe(continues ? tokens[t + 1] : -1);
            expect(weights[t]).toBe(continues ? 1 : 0);
          }
        }
      }),
      { numRuns: 100 },
    );
  });

  test("a prediction counts as the token it predicts does; weight 0 takes it out", () => {
    const document: TokenDocument = { tokens: [5, 6, 7, 8], weights: [9, 0, 0.5, 2] };
    const [batch] = packOnce([document], { contextTokens: 5, batchTokens: 5 });
    expect(batch.targets).toEqual(Int32Array.of(-1, 7, 8, -1, -1));
    expect(batch.weights).toEqual(Float32Array.of(0, 0.5, 2, 0, 0));
  });

  test("rows end at multiples of the context, so that no text crosses one", () => {
    const documents = [{ tokens: [1, 2, 3] }, { tokens: [4, 5, 6] }, { tokens: [7, 8] }];
    const [batch] = packOnce(documents, { contextTokens: 5, batchTokens: 10 });
    expect(batch.tokens).toEqual(Int32Array.of(1, 2, 3, 7, 8, 4, 5, 6, 0, 0));
    expect(batch.segments).toEqual(Int32Array.of(0, 0, 0, 1, 1, 2, 2, 2, -1, -1));
  });
});

describe("packDocuments", () => {
  const documents = Array.from({ length: 19 }, (_, n) => ({
    tokens: Array.from({ length: 2 + (n % 5) }, (_, i) => 10 * n + i),
  }));
  const options = { contextTokens: 6, batchTokens: 12, seed: 3 };

  test("gives the same batch in any order of asking", () => {
    const forwards = packDocuments(documents, options);
    const backwards = packDocuments(documents, options);
    const want = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].map((n) => forwards.batch(n));
    const got = [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0].map((n) => backwards.batch(n)).reverse();
    expect(got).toEqual(want);
  });

  test("brings every document once before any comes again, in another order every epoch", () => {
    const data = packDocuments(documents, options);
    const texts = Array.from({ length: 40 }, (_, n) => textsOf(data.batch(n)))
      .flat()
      .map((text) => text.join());
    const all = inOrder(documents.map(({ tokens }) => tokens));
    const [first, second] = [texts.slice(0, 19), texts.slice(19, 38)];
    expect([...first].sort()).toEqual(all);
    expect([...second].sort()).toEqual(all);
    expect(second).not.toEqual(first);
  });

  test("another seed gives another order", () => {
    const other = packDocuments(documents, { ...options, seed: 4 });
    expect(other.batch(0)).not.toEqual(packDocuments(documents, options).batch(0));
  });

  test("leaves little room: below a twentieth for texts of many lengths", () => {
    const many = Array.from({ length: 400 }, (_, n) => ({
      tokens: Array.from({ length: 20 + ((n * 37) % 180) }, () => 1),
    }));
    const batches = packOnce(many, { contextTokens: 512, batchTokens: 512 });
    const padding = batches.reduce((sum, { segments }) => sum + segments.filter((segment) => segment < 0).length, 0);
    expect(padding / (512 * batches.length)).toBeLessThan(0.05);
  });

  test("its identity changes with every token, weight, size and seed", () => {
    const identities = [
      packDocuments(documents, options),
      packDocuments(documents, { ...options, seed: 5 }),
      packDocuments(documents, { ...options, batchTokens: 6 }),
      packDocuments([...documents.slice(1), { tokens: [0, 2] }], options),
      packDocuments([...documents.slice(1), { tokens: [0, 1], weights: [1, 0.5] }], options),
    ].map(({ identity }) => JSON.stringify(identity));
    expect(new Set(identities).size).toBe(identities.length);
  });

  test.each([
    [
      [{ tokens: [1, 2] }],
      { contextTokens: 6, batchTokens: 10 },
      "batchTokens must be a multiple of contextTokens, which is at least 2; got contextTokens=6, batchTokens=10.",
    ],
    [[{ tokens: [1] }], options, "a document of two tokens or more; got documents=1."],
    [
      [{ tokens: [1, 2], weights: [1] }],
      options,
      "weights must have one entry per token; got document=0, weights=1, tokens=2.",
    ],
    ...[-1, 1.5, 2 ** 32 + 1, Number.NaN].map((token): [TokenDocument[], typeof options, string] => [
      [{ tokens: [1, 2] }, { tokens: [3, token] }],
      options,
      `token ids must be integers from 0 to 2^31 - 1; got document=1, index=1, token=${token}.`,
    ]),
    [[{ tokens: [1, 2], weights: [1, -1] }], options, "weights must be 0 or more; got document=0, index=1, weight=-1."],
  ])("refuses %j", (bad, sizes, message) => {
    expect(() => packDocuments(bad, sizes)).toThrow(`packDocuments: ${message}`);
  });
});
