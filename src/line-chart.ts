/**
 * Line charts as SVG text, readable on light and dark pages.
 */

import { ConfigError } from "./errors.ts";

/** One line of a chart. */
export type Series = {
  readonly name: string;
  /** [x, y] in ascending order of x; points that are not finite leave a gap. */
  readonly points: readonly (readonly [number, number])[];
  readonly dashed?: boolean;
};

/** What a chart shows. */
export type LineChart = {
  readonly title: string;
  /** With its unit. */
  readonly xLabel: string;
  /** With its unit. */
  readonly yLabel: string;
  readonly series: readonly Series[];
  /** Powers of two or ten at equal distances; needs positive x. False unless told. */
  readonly logX?: boolean;
  /** Lowest and highest y shown; from the points unless told. */
  readonly yRange?: readonly [number, number];
};

const WIDTH = 720;
const HEIGHT = 420;
const LEFT = 64;
const RIGHT = 176; // the legend's
const LEGEND = WIDTH - RIGHT + 14;
const LEGEND_ROW = 18;
/** Of a line and the space behind it. */
const LEGEND_LINE = 26;
/** About the width of a letter. */
const LETTER = 6.6;
const TOP = 40;
const BOTTOM = 52;
/** Colours that people with colour vision deficiencies tell apart (Okabe and Ito). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
const TICKS = 6;

/** Where a value lies on the page, and the values at the ticks. */
type Axis = { readonly place: (value: number) => number; readonly ticks: readonly number[] };

/**
 * Draws a chart.
 *
 * @returns a whole SVG document of 720 × 420, larger where the names of the series need it
 * @throws ConfigError when no series has a finite point, or a logarithmic axis has x of 0 or less
 */
export function lineChart({ title, xLabel, yLabel, series, logX = false, yRange }: LineChart): string {
  const points = series.flatMap((one) => one.points.filter(isFinitePoint));
  if (points.length === 0) throw new ConfigError("lineChart", "a series with finite points", { series: series.length });
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const x = logX ? logAxis(xs) : linearAxis(extent(xs), LEFT, WIDTH - RIGHT);
  const y = linearAxis(yRange ?? extent(ys), HEIGHT - BOTTOM, TOP);
  const lines = series.flatMap((one, n) => drawSeries(one, n, x, y));
  const longest = Math.max(...series.map(({ name }) => name.length));
  const width = Math.max(WIDTH, Math.ceil(LEGEND + LEGEND_LINE + LETTER * longest));
  const height = Math.max(HEIGHT, TOP + LEGEND_ROW * (series.length + 1));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<title>${escaped(title)}</title>`,
    "<style>text{fill:#555}.grid{stroke:#999;stroke-opacity:.25}.line{fill:none;stroke-width:2}" +
      "@media(prefers-color-scheme:dark){text{fill:#bbb}}</style>",
    text(LEFT, 22, title, 'font-size="15"'),
    ...y.ticks.map((tick) => {
      const at = round(y.place(tick));
      const label = text(LEFT - 8, at + 4, formatTick(tick), 'text-anchor="end"');
      return `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${at}" y2="${at}"/>${label}`;
    }),
    ...x.ticks.map((tick) => {
      const at = round(x.place(tick));
      const label = text(at, HEIGHT - BOTTOM + 18, formatTick(tick), 'text-anchor="middle"');
      return `<line class="grid" x1="${at}" x2="${at}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>${label}`;
    }),
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, xLabel, 'text-anchor="middle"'),
    text(0, 0, yLabel, `text-anchor="middle" transform="translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"`),
    ...lines,
    "</svg>\n",
  ].join("\n");
}

function drawSeries({ name, points, dashed = false }: Series, n: number, x: Axis, y: Axis): string[] {
  const colour = COLOURS[n % COLOURS.length];
  const stroke = `stroke="${colour}"${dashed ? ' stroke-dasharray="6 4"' : ""}`;
  const runs: string[] = [];
  let pen = "M";
  for (const point of points) {
    if (!isFinitePoint(point)) {
      pen = "M";
      continue;
    }
    runs.push(`${pen}${round(x.place(point[0]))} ${round(y.place(point[1]))}`);
    pen = "L";
  }
  const dots = points.length > 24 ? [] : points.filter(isFinitePoint);
  const row = TOP + 8 + LEGEND_ROW * n;
  return [
    `<path class="line" ${stroke} d="${runs.join("")}"/>`,
    ...dots.map(([px, py]) => {
      return `<circle cx="${round(x.place(px))}" cy="${round(y.place(py))}" r="3" fill="${colour}"/>`;
    }),
    `<line class="line" ${stroke} x1="${LEGEND}" x2="${LEGEND + 20}" y1="${row}" y2="${row}"/>`,
    text(LEGEND + LEGEND_LINE, row + 4, name),
  ];
}

function linearAxis([low, high]: readonly [number, number], from: number, to: number): Axis {
  const range = high > low ? high - low : Math.abs(low) || 1;
  const step = niceStep(range / TICKS);
  const first = Math.floor(low / step) * step;
  const last = Math.max(first + step, Math.ceil(high / step - 1e-9) * step);
  const count = Math.round((last - first) / step);
  return {
    place: (value) => from + ((value - first) / (last - first)) * (to - from),
    ticks: Array.from({ length: count + 1 }, (_, n) => first + n * step),
  };
}

function logAxis(xs: readonly number[]): Axis {
  const [low, high] = extent(xs);
  if (low <= 0) throw new ConfigError("lineChart", "positive x on a logarithmic axis", { x: low });
  const powersOfTwo = xs.every((x) => Number.isInteger(Math.log2(x)));
  const base = powersOfTwo || high / low < 100 ? 2 : 10;
  const log = (value: number): number => Math.log(value) / Math.log(base);
  const first = Math.floor(log(low) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(log(high) - 1e-9));
  return {
    place: (value) => LEFT + ((log(value) - first) / (last - first)) * (WIDTH - RIGHT - LEFT),
    ticks: Array.from({ length: last - first + 1 }, (_, n) => base ** (first + n)),
  };
}

/** 1, 2 or 5 times a power of ten, at least as large as given. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((one) => one * power >= least * (1 - 1e-9)) ?? 10;
  return factor * power;
}

function extent(values: readonly number[]): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

function isFinitePoint([x, y]: readonly [number, number]): boolean {
  return Number.isFinite(x) && Number.isFinite(y);
}

function formatTick(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${round(value / 1e6)}M`;
  if (size >= 1e4) return `${round(value / 1e3)}k`;
  return String(Number(value.toPrecision(6)));
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${round(x)}" y="${round(y)}"${attributes && ` ${attributes}`}>${escaped(content)}</text>`;
}

function escaped(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
