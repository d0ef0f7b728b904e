import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { causal, createMaskInputs, sameSegment, slidingWindow } from "../mask/index.ts";
import { f32, tensor } from "../tensor.ts";
import { parseScore } from "./parse-score.ts";
import { referenceAttention } from "./reference.ts";
import { evaluateScore } from "./score.ts";
import { type ScoreExpression, type ScoreLike, type ScoreVocabulary, scoreModifier } from "./score-expression.ts";

const INPUTS = createMaskInputs({
  batch: 2,
  queryLength: 2,
  keyLength: 3,
  heads: 2,
  queryPositions: Int32Array.of(4, 5, 14, 15),
  keyPositions: Int32Array.of(1, 5, 7, 11, 15, 17),
  querySegments: Int32Array.of(0, 1, 2, 3),
  keySegments: Int32Array.of(4, 5, 6, 7, 8, 9),
});

/** The modifier at score 0.5, batch entry 1, head 1, query 1, key 2. */
function at(build: (vocabulary: ScoreVocabulary) => ScoreLike): number {
  return evaluateScore(scoreModifier(build), INPUTS)(0.5, 1, 1, 1, 2);
}

/** Whether q sees k under causal + window 3, positions only. */
const seen = causal().and(slidingWindow(3));

describe("scoreModifier", () => {
  it("reads the score and what it belongs to", () => {
    expect(at(({ score }) => score)).toBe(0.5);
    expect(at(({ qPosition }) => qPosition)).toBe(15);
    expect(at(({ kvPosition }) => kvPosition)).toBe(17);
    expect(at(({ qSegment }) => qSegment)).toBe(3);
    expect(at(({ kvSegment }) => kvSegment)).toBe(9);
    expect(at(({ head }) => head)).toBe(1);
    expect(at(({ batch }) => batch)).toBe(1);
    expect(at(({ perHead }) => perHead([3, -7]))).toBe(-7);
    expect(at(({ real }) => real(2.5))).toBe(2.5);
    expect(at(() => -4)).toBe(-4);
  });

  it("does real arithmetic", () => {
    expect(at(({ score }) => score.add(2))).toBe(2.5);
    expect(at(({ score }) => score.sub(2))).toBe(-1.5);
    expect(at(({ score, qPosition }) => score.mul(qPosition))).toBe(7.5);
    expect(at(({ qPosition }) => qPosition.div(4))).toBe(3.75);
    expect(at(({ score }) => score.min(0.25))).toBe(0.25);
    expect(at(({ score }) => score.max(0.75))).toBe(0.75);
    expect(at(({ score }) => score.exp())).toBe(Math.exp(0.5));
    expect(at(({ score }) => score.log())).toBe(Math.log(0.5));
    expect(at(({ score }) => score.tanh())).toBe(Math.tanh(0.5));
    expect(at(({ score }) => score.sub(3).abs())).toBe(2.5);
  });

  it("selects by a mask", () => {
    const build = ({ select, score }: ScoreVocabulary): ScoreExpression => select(seen, score.mul(2), -1);
    const evaluate = evaluateScore(scoreModifier(build), INPUTS);
    expect(evaluate(0.5, 1, 0, 1, 2)).toBe(-1); // key at 17 is after the query at 15
    expect(evaluate(0.5, 1, 0, 1, 1)).toBe(1); // key at 15
    expect(evaluate(0.5, 1, 0, 1, 0)).toBe(-1); // key at 11 is 4 before
  });

  it("prints as the code that builds it", () => {
    const modifier = scoreModifier(({ score, qPosition, kvPosition, perHead, select }) =>
      select(seen, score.mul(perHead([1, 0.5])), score.sub(qPosition.sub(kvPosition).abs().div(8)).tanh()),
    );
    expect(modifier.toString()).toBe(
      "select(causal().and(slidingWindow(3)), score.mul(perHead([1, 0.5])), " +
        "score.sub(qPosition.sub(kvPosition).abs().div(8)).tanh())",
    );
    expect(scoreModifier(() => 3).toString()).toBe("real(3)");
  });

  it("goes through JSON with the same hash, print and values", () => {
    fc.assert(
      fc.property(expressions, (modifier) => {
        const read = parseScore(JSON.stringify(modifier));
        expect(read.hash()).toBe(modifier.hash());
        expect(read.toString()).toBe(modifier.toString());
        expect(read.size).toEqual(modifier.size);
        expect(evaluateScore(read, INPUTS)(0.5, 1, 1, 0, 1)).toBe(evaluateScore(modifier, INPUTS)(0.5, 1, 1, 0, 1));
      }),
      { numRuns: 200 },
    );
  });

  it("has another hash when a constant, an operation or a mask differs", () => {
    const hashes = [
      scoreModifier(({ score }) => score.add(1)),
      scoreModifier(({ score }) => score.add(2)),
      scoreModifier(({ score }) => score.sub(1)),
      scoreModifier(({ select, score }) => select(causal(), score, 1)),
      scoreModifier(({ select, score }) => select(causal().not(), score, 1)),
    ].map((modifier) => modifier.hash());
    expect(new Set(hashes).size).toBe(5);
    expect(hashes[0]).toMatch(/^[0-9a-f]{16}$/);
  });

  it("refuses what is no expression, mask or finite number", () => {
    const build = (make: (vocabulary: ScoreVocabulary) => unknown) =>
      thrownBy(() => scoreModifier(make as () => ScoreLike));
    expect(build(() => "x")).toBe('ConfigError: scoreModifier: a score expression or a finite number; got value="x".');
    expect(build(({ score }) => score.add(NaN))).toBe(
      "ConfigError: add: a score expression or a finite number; got value=NaN.",
    );
    expect(build(({ score }) => score.mul(causal() as unknown as number))).toBe(
      'ConfigError: mul: a score expression or a finite number; got value={"op":"causal"}. ' +
        "Use select(mask, inside, outside).",
    );
    expect(build(({ select, score }) => select(score as never, 1, 2))).toBe(
      'ConfigError: select: a mask to select by; got mask={"op":"variable","name":"score"}.',
    );
    expect(build(({ perHead }) => perHead([]))).toBe("ConfigError: perHead: one number per query head; got values=[].");
    expect(build(({ score }) => (score as unknown as number) + 1)).toBe(
      'ConfigError: scoreModifier: operators of the language do not work on expressions; got expression="score". ' +
        "Use the methods: a.add(b), a.mul(b).",
    );
  });

  it("refuses expressions that are too deep or too large", () => {
    const grow = (rounds: number, step: (e: ScoreExpression) => ScoreExpression) =>
      thrownBy(() =>
        scoreModifier(({ score }) => {
          let e = score;
          for (let n = 0; n < rounds; n++) e = step(e);
          return e;
        }),
      );
    expect(grow(64, (e) => e.abs())).toBe(
      "ConfigError: abs: a score expression may nest at most 64 deep; got depth=65.",
    );
    expect(grow(40, (e) => e.add(e))).toBe(
      "ConfigError: add: a score expression may have at most 65536 parts; got parts=131071.",
    );
  });
});

describe("parseScore", () => {
  it("refuses malformed values", () => {
    const read = (json: unknown) => thrownBy(() => parseScore(json));
    const ops = "constant, variable, perHead, select, exp, log, tanh, abs, add, sub, mul, div, min, max";
    expect(read("{")).toBe('ConfigError: parseScore: text must be JSON; got text="{".');
    expect(read([])).toBe("ConfigError: parseScore: every node must be an object with an op; got node=[].");
    expect(read({ op: "pow" })).toBe(`ConfigError: parseScore: op must be one of ${ops}; got op="pow".`);
    expect(read({ op: "toString" })).toBe(`ConfigError: parseScore: op must be one of ${ops}; got op="toString".`);
    expect(read({ op: "constant", value: 1, extra: 2 })).toBe(
      'ConfigError: parseScore: constant has no such key; got key="extra".',
    );
    expect(read({ op: "constant", value: null })).toBe(
      "ConfigError: parseScore: a score expression or a finite number; got value=null.",
    );
    expect(read({ op: "variable", name: "x" })).toBe(
      "ConfigError: parseScore: name must be one of score, queryPosition, keyPosition, querySegment, keySegment, " +
        'head, batch; got name="x".',
    );
    expect(read({ op: "perHead", values: 3 })).toBe("ConfigError: parseScore: values must be a list; got values=3.");
    let deep: unknown = { op: "variable", name: "score" };
    for (let n = 0; n < 100; n++) deep = { op: "abs", arg: deep };
    expect(read(deep)).toBe("ConfigError: parseScore: a score expression may nest at most 64 deep; got depth=65.");
  });
});

describe("attention with a score modifier", () => {
  it("applies it after scale and soft cap, before ALiBi and bias", () => {
    const { lse } = referenceAttention({
      q: f32([1, 1, 1], [6]),
      k: f32([1, 1, 1], [1]),
      v: f32([1, 1, 1], [1]),
      scale: 0.5,
      softcap: 2,
      scoreModifier: scoreModifier(({ score }) => score.mul(3).add(0.5)),
      alibiSlopes: [0.25],
      queryPositions: Int32Array.of(11),
      keyPositions: Int32Array.of(7),
      bias: f32([1], [0.125]),
    });
    expect(lse.data[0]).toBeCloseTo(2 * Math.tanh(3 / 2) * 3 + 0.5 - 0.25 * 4 + 0.125, 6);
  });

  it("can write ALiBi, and gives what the option gives", () => {
    const request = {
      q: values([2, 3, 4, 5], 1),
      k: values([2, 7, 2, 5], 2),
      v: values([2, 7, 2, 3], 3),
      mask: causal(),
    };
    const slopes = [0.5, 0.25, 0.125, 0.0625];
    const alibi = scoreModifier(({ score, qPosition, kvPosition, perHead }) =>
      score.sub(qPosition.sub(kvPosition).abs().mul(perHead(slopes))),
    );
    const byOption = referenceAttention({ ...request, alibiSlopes: slopes });
    expectClose(referenceAttention({ ...request, scoreModifier: alibi }).out.data, byOption.out.data, F64_COMPUTED);
  });

  it("hides a key whose score becomes −Infinity", () => {
    const request = { q: f32([1, 1, 1], [0]), k: f32([3, 1, 1], [0, 0, 0]), v: f32([3, 1, 1], [1, 2, 6]) };
    const last = scoreModifier(({ score, kvPosition }) => score.add(kvPosition.min(1).log()));
    expect(referenceAttention({ ...request, scoreModifier: last }).out.data[0]).toBe(4); // key 0 is hidden
  });

  it("refuses a modifier that does not fit the call", () => {
    const request = { q: values([1, 2, 3], 1), k: values([5, 1, 3], 2), v: values([5, 1, 2], 3) };
    const attend = (modifier: ScoreExpression) =>
      thrownBy(() => referenceAttention({ ...request, scoreModifier: modifier }));
    expect(attend(scoreModifier(({ perHead }) => perHead([1, 2, 3])))).toBe(
      "ShapeError: attention: perHead must have one entry per query head; got length=3, heads=2.",
    );
    expect(attend(scoreModifier(({ score, kvSegment }) => score.add(kvSegment)))).toBe(
      'ConfigError: attention: the score modifier needs keySegments; got scoreModifier="score.add(kvSegment)".',
    );
    expect(attend(scoreModifier(({ select, score }) => select(sameSegment(), score, 0)))).toBe(
      'ConfigError: attention: the mask needs keySegments; got mask="sameSegment()". Pass it with the mask\'s inputs.',
    );
    expect(attend({ node: { op: "abs" } } as unknown as ScoreExpression)).toBe(
      'ConfigError: attention: scoreModifier must be made by scoreModifier(); got scoreModifier={"node":{"op":"abs"}}.',
    );
  });

  it("refuses scores that become NaN or Infinity", () => {
    const one = tensor("f64", [1, 1, 1], Float64Array.of(-2));
    const attend = (modifier: ScoreExpression) =>
      thrownBy(() => referenceAttention({ q: one, k: one, v: one, scale: 0.5, scoreModifier: modifier }));
    expect(attend(scoreModifier(({ score }) => score.sub(3).log()))).toBe(
      "ConfigError: attention: the score modifier must give a number below Infinity; " +
        "got value=NaN, score=2, batch=0, head=0, query=0, key=0.",
    );
    expect(attend(scoreModifier(({ score }) => score.div(0)))).toBe(
      "ConfigError: attention: the score modifier must give a number below Infinity; " +
        "got value=Infinity, score=2, batch=0, head=0, query=0, key=0.",
    );
  });
});

const expressions: fc.Arbitrary<ScoreExpression> = fc.letrec<{ e: ScoreExpression }>((tie) => ({
  e: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom(
      scoreModifier(({ score }) => score),
      scoreModifier(({ qPosition }) => qPosition),
      scoreModifier(({ kvSegment }) => kvSegment),
      scoreModifier(({ perHead }) => perHead([0.25, -3])),
    ),
    fc.double({ noNaN: true, min: -9, max: 9 }).map((value) => scoreModifier(() => value)),
    fc.tuple(fc.constantFrom("exp", "log", "tanh", "abs"), tie("e")).map(([op, arg]) => arg[op]()),
    fc
      .tuple(fc.constantFrom("add", "sub", "mul", "div", "min", "max"), tie("e"), tie("e"))
      .map(([op, a, b]) => a[op](b)),
    fc.tuple(tie("e"), tie("e")).map(([a, b]) => scoreModifier(({ select }) => select(seen, a, b))),
  ),
})).e;
