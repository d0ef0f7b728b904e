import { describe, expect, test } from "vitest";
import { createTokenizer } from "../../model/index.ts";
import {
  heldOutDocuments,
  heldOutStories,
  MINI_CONFIG,
  MINI_STAGES,
  MINI_VOCABULARY,
  miniTokenizer,
} from "./recipe.ts";
import { stageDocuments, stageStory } from "./stage-documents.ts";
import { storyDocument } from "./story-document.ts";
import { storyTokens } from "./story-tokens.ts";

const files = miniTokenizer();
const tokenizer = createTokenizer(files.tokenizer, files.config);

describe("the tokenizer of phasor-mini", () => {
  test("is the same every time, and as large as the config says", () => {
    expect(miniTokenizer()).toEqual(files);
    expect(tokenizer.vocabSize).toBe(MINI_VOCABULARY);
    expect(MINI_CONFIG.vocab_size).toBe(MINI_VOCABULARY);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId]).toEqual([MINI_CONFIG.bos_token_id, MINI_CONFIG.eos_token_id]);
  });
});

describe("the stages of phasor-mini", () => {
  test("weights fit into 6 MB at 2 bytes each", () => {
    const size = (name: string): number => Number(MINI_CONFIG[name]);
    const width = size("hidden_size");
    const attention = 2 * width * size("head_dim") * (size("num_attention_heads") + size("num_key_value_heads"));
    const layer = attention + 3 * width * size("intermediate_size") + 2 * width;
    const parameters = MINI_VOCABULARY * width + size("num_hidden_layers") * layer + width;
    expect(2 * parameters).toBeLessThan(5.8e6);
  });

  test.each(MINI_STAGES)(
    "documents of stage $name fit into its context",
    ({ documents, contextTokens, weights: roles }) => {
      for (const parts of stageDocuments({ ...documents, count: 60 })) {
        const { tokens, weights } = storyTokens(parts, tokenizer, roles);
        expect(tokens.length).toBeLessThanOrEqual(contextTokens);
        expect(weights).toHaveLength(tokens.length);
      }
    },
  );

  test.each(MINI_STAGES)("held-out documents of stage $name share no fact with its own", (stage) => {
    const seen = new Set<string>();
    for (let index = 0; index < 300; index++) {
      const { seed, options } = stageStory(stage.documents, index);
      for (const { sentence } of storyDocument(seed, options).facts) seen.add(sentence);
    }
    let heldOut = 0;
    for (const { facts, questions, text } of heldOutStories(stage)) {
      expect(questions).toHaveLength(facts.length);
      for (const { sentence, at } of facts) {
        heldOut++;
        expect(seen.has(sentence)).toBe(false);
        expect(text.lastIndexOf(sentence)).toBe(at);
      }
    }
    expect(heldOut).toBeGreaterThan(64);
  });

  test("a stage of nothing but lists is evaluated on lists, the others on stories with questions", () => {
    for (const stage of MINI_STAGES) {
      const [parts] = heldOutDocuments(stage);
      expect(parts[0].text.startsWith("List:")).toBe(stage.documents.lists === 1);
      expect(parts.some(({ role }) => role === "question")).toBe(stage.documents.lists !== 1);
    }
  });

  test("no two stages share seeds", () => {
    const series = MINI_STAGES.map(({ documents }) => documents.series);
    expect(new Set(series).size).toBe(series.length);
    for (const { documents } of MINI_STAGES) expect(documents.count).toBeLessThan(2 ** 32);
  });
});

describe("storyTokens", () => {
  test("answers, questions and story have their weights; the begin token counts nothing", () => {
    const document = storyDocument(3, { pieces: 150, facts: 2 });
    const { tokens, weights = [] } = storyTokens(document.parts, tokenizer, { story: 1, question: 0.5, answer: 4 });
    const answers = Array.from(tokens).filter((_, i) => weights[i] === 4);
    expect(tokenizer.decode(answers)).toBe(document.questions.map(({ answer }) => ` ${answer}\n`).join(""));
    const told = Array.from(tokens).filter((_, i) => weights[i] === 1);
    expect(tokenizer.decode(told, { skipSpecialTokens: false })).toBe(`${document.text}</s>`);
    expect([tokens[0], weights[0]]).toEqual([0, 0]);
  });

  test("a tokenizer without an end token is refused", () => {
    const { eosTokenId: _, ...endless } = tokenizer;
    const document = storyDocument(3, { pieces: 150, facts: 2 });
    const message = "storyTokens: a tokenizer with a begin and an end token; got begin=0, end=undefined.";
    expect(() => storyTokens(document.parts, endless, { story: 1, question: 1, answer: 1 })).toThrow(message);
  });
});
