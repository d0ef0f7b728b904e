import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const source = fileURLToPath(new URL("./src", import.meta.url));

export default defineConfig({
  // Tests that use the package by its name get the sources, not a build that may be old.
  resolve: {
    alias: [
      { find: /^phasor$/, replacement: `${source}/index.ts` },
      { find: /^phasor\/(\w+)$/, replacement: `${source}/$1/index.ts` },
    ],
  },
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.ts"],
    setupFiles: ["test/support/seed.ts"],
    testTimeout: 60_000,
  },
});
