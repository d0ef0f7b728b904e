/** A small web server for pages that run the built package: files of one folder, ranges, and the headers of isolation. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, resolve, sep } from "node:path";

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
};

/** What a page needs to share memory among threads; its workers' files need the second one, too. */
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/**
 * Serves a folder on a free port of this machine.
 *
 * @param options.isolated - whether to send the headers that isolate pages
 * @param options.pages - texts of pages that are not in the folder, by path
 * @returns the address and a function that ends the server
 */
export async function serve(folder, { isolated, pages = {} }) {
  const root = resolve(folder);
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const headers = isolated ? ISOLATION : {};
    if (Object.hasOwn(pages, path)) {
      response.writeHead(200, { ...headers, "Content-Type": "text/html" }).end(pages[path]);
      return;
    }
    const file = resolve(`${root}${sep}${path}`);
    const found = file.startsWith(root + sep) ? await stat(file).catch(() => undefined) : undefined;
    if (!found?.isFile()) {
      response.writeHead(404, headers).end();
      return;
    }
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const start = Number(range?.[1] ?? 0);
    const end = Math.min(found.size - 1, Number(range?.[2] || found.size - 1));
    response.writeHead(range ? 206 : 200, {
      ...headers,
      "Content-Type": type,
      "Content-Length": end - start + 1,
      ...(range && { "Content-Range": `bytes ${start}-${end}/${found.size}` }),
    });
    createReadStream(file, { start, end }).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, close };
}
