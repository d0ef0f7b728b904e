/** Runs the suite in a page: every result goes to the function `report` that the page's owner has put into the window. */

import { createHttpFiles } from "../../dist/model/index.js";
import { runSuite } from "./suite.mjs";

const FOLDER = new URL("../fixtures/stories260K/", import.meta.url).href;

const stories = await (await fetch(`${FOLDER}expected.json`)).json();
await runSuite({ openModel: async () => createHttpFiles(FOLDER), stories }, (result) => globalThis.report(result));
