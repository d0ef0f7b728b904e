import { expect, test } from "vitest";
import { lossCurve } from "./loss-curve.ts";

test("a long run is drawn with few points, both losses, and a trend without the noise", () => {
  const noisy = Array.from({ length: 20_000 }, (_, n) => ({ step: n + 1, loss: 3 + (n % 2 === 0 ? 1 : -1) }));
  const svg = lossCurve(noisy, [{ step: 20_000, loss: 2.5 }], "run <1>");
  expect(svg).toContain("run &lt;1&gt;");
  expect(svg).toContain("training");
  expect(svg).toContain("held out");
  expect(svg.length).toBeLessThan(20_000);
  const path = /d="(M[^"]+)"/.exec(svg)?.[1] ?? "";
  const heights = [...path.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y)).slice(50);
  expect(Math.max(...heights) - Math.min(...heights)).toBeLessThan(8); // of 328 for a range of losses from 2 to 4
});

test("a short run is drawn as it is", () => {
  const svg = lossCurve([
    { step: 1, loss: 4 },
    { step: 2, loss: 3 },
  ]);
  expect([...svg.matchAll(/<circle/g)]).toHaveLength(2);
  expect(svg).not.toContain("held out");
});
