import { describe, expect, test } from "vitest";
import { thrownBy } from "../test/support/thrown-by.ts";
import { type LineChart, lineChart } from "./line-chart.ts";

const CHART: LineChart = {
  title: "loss < 3 & falling",
  xLabel: "tokens",
  yLabel: "nats",
  series: [
    {
      name: "train",
      points: [
        [0, 4],
        [50, 2],
        [100, 1],
      ],
    },
    {
      name: "held out",
      dashed: true,
      points: [
        [0, 4],
        [40, Number.NaN],
        [60, 2],
        [100, 1.5],
      ],
    },
  ],
};

/** Path data of each line. */
function paths(svg: string): string[] {
  return Array.from(svg.matchAll(/<path [^>]* d="([^"]*)"/g), ([, d]) => d);
}

describe("lineChart", () => {
  test("places the ends of an axis at the ends of the plot", () => {
    const [train] = paths(lineChart(CHART));
    // x from 64 to 720 − 176, y from 420 − 52 up to 40; y runs from 1 to 4 in steps of 0.5.
    expect(train).toBe("M64 40L304 258.67L544 368");
  });

  test("leaves a gap where a point is not finite", () => {
    expect(paths(lineChart(CHART))[1].match(/M/g)).toHaveLength(2);
  });

  test("escapes text", () => {
    expect(lineChart(CHART)).toContain(">loss &lt; 3 &amp; falling</text>");
  });

  test("puts powers of two at equal distances on a logarithmic axis", () => {
    const series = [{ name: "a", points: [64, 128, 256].map((x, n) => [x, n] as const) }];
    expect(paths(lineChart({ ...CHART, logX: true, series, yRange: [0, 2] }))[0]).toBe("M64 368L304 204L544 40");
  });

  test("draws one point, and refuses none", () => {
    expect(paths(lineChart({ ...CHART, series: [{ name: "a", points: [[3, 3]] }] }))).toHaveLength(1);
    expect(thrownBy(() => lineChart({ ...CHART, series: [] }))).toBe(
      "ConfigError: lineChart: a series with finite points; got series=0.",
    );
    const zero = [{ name: "a", points: [[0, 1] as const] }];
    expect(thrownBy(() => lineChart({ ...CHART, logX: true, series: zero }))).toBe(
      "ConfigError: lineChart: positive x on a logarithmic axis; got x=0.",
    );
  });

  test("grows where the legend needs more room than beside the plot", () => {
    const size = (svg: string): string | undefined => /viewBox="([^"]*)"/.exec(svg)?.[1];
    expect(size(lineChart(CHART))).toBe("0 0 720 420");
    const [one] = CHART.series;
    const many = Array.from({ length: 30 }, () => one);
    // A row of 18 for each name below the title's 40; 558 to the legend, 26 for its line, 6.6 a letter.
    expect(size(lineChart({ ...CHART, series: many }))).toBe("0 0 720 598");
    const long = { ...one, name: "adaptiveheads(snapkv(window=16)) re-rotated 1024" };
    expect(size(lineChart({ ...CHART, series: [long] }))).toBe("0 0 901 420");
  });
});
