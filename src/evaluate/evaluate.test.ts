import { afterAll, describe, expect, test, vi } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { createReferenceBackend } from "../engine/index.ts";
import { loadModel } from "../model/index.ts";
import { isExactAnswer } from "./ask.ts";
import {
  accuracyBy,
  answersByDepth,
  answersByDistance,
  type EvaluationRow,
  evaluate,
  evaluationCharts,
  evaluationSettings,
  evaluationTable,
  FullPredictions,
  measureAgreement,
  retrievalTables,
} from "./index.ts";
import type { RetrievalAnswer } from "./retrieval.ts";
import { storyDocuments } from "./story-documents.ts";

const model = await loadModel("test/fixtures/stories260K", { backend: createReferenceBackend() });
afterAll(() => model.dispose());
const TOKENS = model.tokenizer?.encode("Once upon a time there was a little dog. ".repeat(5)) ?? [];
const GRID = {
  policies: ["streamingllm(sinks=2)", "snapkv(window=24)"],
  budgets: [24],
  rerotate: [true, false],
  elements: ["f32"],
  questionAware: [false],
} as const;

describe("evaluationSettings", () => {
  test("begins with the full cache and crosses everything else", () => {
    const settings = evaluationSettings({ ...GRID, elements: ["f32", "int8"], budgets: [8, 16] });
    expect(settings.slice(0, 2)).toEqual([
      { policy: null, budget: null, rerotate: false, elements: "f32", questionAware: false },
      { policy: null, budget: null, rerotate: false, elements: "int8", questionAware: false },
    ]);
    expect(settings).toHaveLength(2 + 2 * 2 * 2 * 2);
  });

  test("gives a policy that decides by itself no budget", () => {
    const settings = evaluationSettings({ ...GRID, policies: ["simlayerkv(threshold=0.9)"], budgets: [8, 16] });
    expect(settings.slice(1).map(({ budget }) => budget)).toEqual([null, null]);
  });
});

describe("evaluate", () => {
  test("finds the full cache in agreement with itself, small ones less so, and says what is refused", async () => {
    const run = (): Promise<EvaluationRow[]> =>
      evaluate(model, { settings: evaluationSettings(GRID), agreement: { tokens: TOKENS, prefixTokens: 40 } });
    const rows = await run();
    const [full, moved, left, refused] = rows;
    expect(full.agreement?.divergence).toBeLessThan(1e-6); // the two runs take their tokens in different steps
    expect(full.agreement?.sameBest).toBe(1);
    for (const { agreement, peakBytes = Infinity } of [moved, left]) {
      expect(agreement?.divergence).toBeGreaterThan(1e-4);
      expect(agreement?.fullPerplexity).toBeCloseTo(full.agreement?.perplexity ?? 0, 4);
      expect(peakBytes).toBeLessThan(full.peakBytes ?? 0);
    }
    expect(moved.agreement?.divergence).not.toBe(left.agreement?.divergence);
    expect(refused.refused).toMatch(/^createCache: the budget must exceed the policy's window/);
    expect(await run()).toEqual(rows);
  }, 60_000);

  test("asks every question of every story, and counts by where the fact stood", async () => {
    const documents = storyDocuments({ documents: 2, seed: 5, pieces: 60, facts: 2 });
    const settings = evaluationSettings({ ...GRID, policies: [] });
    let answered = 0;
    const [row] = await evaluate(model, {
      settings,
      documents,
      onProgress: (progress) => {
        answered = Math.max(answered, progress.answered);
      },
    });
    expect(row.retrieval?.answers.map(({ expected }) => expected)).toEqual(
      documents.flatMap(({ questions }) => questions.map(({ answer }) => answer)),
    );
    expect(answered).toBe(4);
    expect(row.retrieval?.accuracy).toBe(0); // the model is far too small to answer
  }, 60_000);

  test("asks a policy that needs the question where it is known, and compares nothing where there is none", async () => {
    const documents = storyDocuments({ documents: 1, seed: 5, pieces: 60, facts: 1 });
    const grid = { ...GRID, policies: ["finch"], rerotate: [true], questionAware: [true, false] };
    const agreement = { tokens: TOKENS, prefixTokens: 40 };
    const rows = await evaluate(model, {
      settings: evaluationSettings(grid).slice(1),
      documents,
      agreement,
      prefillChunk: 64,
    });
    expect(rows[0].refused).toBe(undefined);
    expect(rows[0].retrieval?.answers).toHaveLength(1);
    expect(rows[0].agreement).toBe(undefined);
    expect(rows[1].refused).toMatch(/^compress: a question, for a policy that looks from one/);
  }, 60_000);

  test("reads the text with the full cache once, however many settings are compared with it", async () => {
    const prefill = vi.spyOn(model, "prefill");
    const settings = evaluationSettings({ ...GRID, policies: ["streamingllm(sinks=2)"] });
    await evaluate(model, { settings, agreement: { tokens: TOKENS, prefixTokens: 40 } });
    expect([settings.length, prefill.mock.calls.length]).toEqual([3, 1 + 3]);
    prefill.mockRestore();
  }, 60_000);

  test("compares with the same predictions whether they are kept, kept in part, or run again", async () => {
    const text = { tokens: TOKENS, prefixTokens: 40, stepTokens: 7 };
    const createCache = () => model.createCache({ budget: 24, rerotate: true });
    const kept = await measureAgreement(model, { text, createCache });
    for (const maxBytes of [0, 4 * model.vocabSize * 20]) {
      using full = await FullPredictions.create(model, text, { maxBytes });
      for (let again = 0; again < 2; again++) {
        expect(await measureAgreement(model, { text: full, createCache })).toEqual(kept);
      }
    }
  }, 60_000);

  test("refuses a prefix that leaves nothing to predict before anything runs", async () => {
    const tokens = TOKENS.slice(0, 9);
    const run = evaluate(model, { settings: evaluationSettings(GRID), agreement: { tokens, prefixTokens: 8 } });
    await expect(run).rejects.toThrow(
      "measureAgreement: a prefix of at least 1 token, and at least 2 behind it; got prefixTokens=8, tokens=9.",
    );
  });

  test("refuses to measure nothing", async () => {
    const nothing = evaluate(model, { settings: evaluationSettings(GRID) });
    await expect(nothing).rejects.toThrow("evaluate: settings, and a text or documents to measure them on");
    const empty = evaluate(model, { settings: evaluationSettings(GRID), documents: [{ text: "a", questions: [] }] });
    expect((await empty)[0].refused).toBe("measureRetrieval: at least one question; got documents=1.");
  });
});

describe("reports", () => {
  const answer = (depth: number, correct: boolean): RetrievalAnswer => {
    return { document: 0, prompt: "", expected: "a", given: "b", correct, depth, distanceTokens: 100 * (1 - depth) };
  };
  const retrieval = {
    ...{ answers: [answer(0.1, true), answer(0.15, false), answer(0.9, true)], accuracy: 2 / 3, peakBytes: 1234 },
    ...{ documentTokens: 10, prefillSeconds: 1, tokensPerSecond: 99.6 },
  };
  const setting = { policy: "knorm", budget: 64, rerotate: true, elements: "f32", questionAware: false } as const;
  const rows: EvaluationRow[] = [
    { ...setting, retrieval, peakBytes: 1234 },
    { ...setting, budget: 128, retrieval, peakBytes: 2345 },
    { ...setting, policy: "tova", refused: "no" },
  ];

  test("accuracy by depth leaves parts without answers out", () => {
    expect(accuracyBy(retrieval.answers, "depth", 5)).toEqual([
      { from: 0, to: 0.2, asked: 2, accuracy: 0.5 },
      { from: 0.8, to: 1, asked: 1, accuracy: 1 },
    ]);
  });

  test("accuracy by distance has round parts", () => {
    const distances = (...tokens: number[]) =>
      tokens.map((distanceTokens) => ({ ...answer(0.5, false), distanceTokens }));
    const parts = (...tokens: number[]) =>
      answersByDistance(distances(...tokens)).map(({ from, to, asked }) => [from, to, asked]);
    expect(parts(7983, 2000, 1999, 0)).toEqual([
      [0, 2000, 2],
      [2000, 4000, 1],
      [6000, 8000, 1],
    ]);
    expect(parts(500, 20)).toEqual([
      [0, 100, 1],
      [400, 500, 1],
    ]);
    expect(parts(2, 0)).toEqual([
      [0, 1, 1],
      [1, 2, 1],
    ]);
    expect(parts(0)).toEqual([[0, 1, 1]]);
  });

  test("two tables tell answers by depth and by distance, with the number of questions", () => {
    const full = { ...setting, policy: null, budget: null, rerotate: false, retrieval };
    expect(answersByDepth(retrieval.answers)).toHaveLength(2);
    expect(retrievalTables([full, ...rows])).toBe(
      [
        "",
        "Exact answers by place of the fact in the text:",
        "",
        "| policy     | budget | re-rotated | elements | 0–20 % | 80–100 % |",
        "| ---------- | -----: | ---------: | -------: | -----: | -------: |",
        "| questions  |        |            |          |      2 |        1 |",
        "| full cache |        |            |      f32 |   50 % |    100 % |",
        "| knorm      |     64 |        yes |      f32 |   50 % |    100 % |",
        "| knorm      |    128 |        yes |      f32 |   50 % |    100 % |",
        "",
        "Exact answers by tokens from the fact to the question:",
        "",
        "| policy     | budget | re-rotated | elements |  0–20 | 80–100 |",
        "| ---------- | -----: | ---------: | -------: | ----: | -----: |",
        "| questions  |        |            |          |     1 |      2 |",
        "| full cache |        |            |      f32 | 100 % |   50 % |",
        "| knorm      |     64 |        yes |      f32 | 100 % |   50 % |",
        "| knorm      |    128 |        yes |      f32 | 100 % |   50 % |",
        "",
      ].join("\n"),
    );
    expect(retrievalTables([rows[2]])).toBe("");
  });

  test("the table has the columns that hold something, and the refusals below", () => {
    expect(evaluationTable(rows)).toBe(
      [
        "| policy | budget | re-rotated | elements | answers | peak bytes | tokens/s |",
        "| ------ | -----: | ---------: | -------: | ------: | ---------: | -------: |",
        "| knorm  |     64 |        yes |      f32 |  66.7 % |      1,234 |      100 |",
        "| knorm  |    128 |        yes |      f32 |  66.7 % |      2,345 |      100 |",
        "",
        "Refused:",
        "",
        "- tova re-rotated 64: no",
        "",
      ].join("\n"),
    );
  });

  test("charts are drawn for what was measured", () => {
    const charts = evaluationCharts(rows);
    expect([...charts.keys()]).toEqual([
      ...["retrieval-by-budget.svg", "retrieval-by-depth.svg", "retrieval-by-distance.svg"],
    ]);
    expect(charts.get("retrieval-by-distance.svg")).toContain("tokens from the fact to the question");
    expect(evaluationCharts([rows[2]]).size).toBe(0);
  });
});

test("an answer is exact up to white space and a full stop", () => {
  expect(isExactAnswer(" in the cellar.\n", "in the  cellar")).toBe(true);
  expect(isExactAnswer("in the cellars", "in the cellar")).toBe(false);
  expect(thrownBy(() => storyDocuments({ documents: 1, seed: 1, pieces: 0, facts: 1 }))).toMatch(/^ConfigError/);
});
