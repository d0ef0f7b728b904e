/**
 * Makes the built program executable, as package managers do when they link it: a link made earlier (by npx) then works
 * after a new build as well.
 */

import { chmodSync } from "node:fs";

chmodSync("dist/cli/main.js", 0o755);
