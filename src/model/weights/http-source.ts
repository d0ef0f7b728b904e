/** Files on a web server, read a range at a time. */

import { CapabilityError, ConfigError, FormatError } from "../../errors.ts";
import {
  allocateBytes,
  checkRange,
  createModelFiles,
  type ModelFiles,
  missingFile,
  type WeightSource,
} from "./source.ts";

/** Options of the HTTP sources. */
export type HttpOptions = {
  /** Headers of every request, such as Authorization. */
  headers?: Readonly<Record<string, string>>;
  /** Makes the requests; the global `fetch` when absent. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
};

/**
 * A file on a web server. The server must answer Range requests and, for pages of another origin, expose the
 * Content-Range header.
 *
 * @param url - the file's address
 */
export function createHttpSource(url: string, options: HttpOptions = {}): WeightSource {
  let size: number | undefined;

  const readSize = async (): Promise<number> => {
    if (size === undefined) {
      const response = await requestRange(url, 0, 1, options);
      await response.body?.cancel();
      size = contentRange(url, response).size;
    }
    return size;
  };

  const read = async (offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> => {
    checkRange(url, offset, length, await readSize());
    signal?.throwIfAborted();
    if (length === 0) return new Uint8Array(0);
    const response = await requestRange(url, offset, length, options, signal);
    const got = contentRange(url, response);
    if (got.size !== size || got.start !== offset) {
      await response.body?.cancel();
      const values = { byteOffset: offset, size, answered: response.headers.get("content-range") };
      throw new FormatError(url, "the range asked for, of a file that keeps its size", values, "Load the model again.");
    }
    return readBody(url, response, offset, length, signal);
  };

  return { name: url, size: readSize, read };
}

/**
 * A model folder on a web server.
 *
 * @param baseUrl - the folder's address; file names are appended to it
 */
export function createHttpFiles(baseUrl: string, options: HttpOptions = {}): ModelFiles {
  const base = baseUrl.endsWith("/") ? baseUrl : `${baseUrl}/`;
  const addressOf = (file: string): string => base + encodeURIComponent(file);
  const has = async (file: string): Promise<boolean> => {
    const url = addressOf(file);
    const response = await send(url, { headers: { ...options.headers, Range: "bytes=0-0" } }, options);
    await response.body?.cancel();
    if (response.status === 404 || response.status === 410) return false;
    refuseStatus(url, response);
    return true;
  };
  return createModelFiles(baseUrl, has, (file) => createHttpSource(addressOf(file), options));
}

/** Asks for a range; returns a 206, or the 416 of a range beyond the end. */
async function requestRange(
  url: string,
  offset: number,
  length: number,
  options: HttpOptions,
  signal?: AbortSignal,
): Promise<Response> {
  const headers = { ...options.headers, Range: `bytes=${offset}-${offset + length - 1}` };
  const response = await send(url, signal ? { headers, signal } : { headers }, options);
  if (response.status === 206 || response.status === 416) return response;
  await response.body?.cancel();
  refuseStatus(url, response);
  throw new CapabilityError(
    url,
    "a server that answers Range requests with status 206",
    { status: response.status },
    "Host the file where Range requests work, or download it and use createMemoryFiles.",
  );
}

async function send(url: string, init: RequestInit, options: HttpOptions): Promise<Response> {
  const request = options.fetch ?? fetch;
  try {
    return await request(url, init);
  } catch (error) {
    init.signal?.throwIfAborted();
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError(url, "a server that can be reached", { reason }, "Check the address and the network.");
  }
}

function refuseStatus(url: string, response: Response): void {
  const { status } = response;
  if (status === 404 || status === 410) throw missingFile(url);
  if (status === 401 || status === 403) {
    throw new ConfigError(url, "a file that may be read", { status }, "Pass an Authorization header.");
  }
  if (status >= 400 && status !== 416) {
    throw new ConfigError(url, "a successful answer from the server", { status }, "Check the address or try later.");
  }
}

/** What a 206 holds ("bytes 5-9/1234"); of a 416 ("bytes *\/1234") only the size, and start is NaN. */
function contentRange(url: string, response: Response): { start: number; size: number } {
  const header = response.headers.get("content-range");
  const match = /^bytes (?:(\d+)-\d+|\*)\/(\d+)$/.exec(header ?? "");
  if (match !== null) return { start: Number(match[1]), size: Number(match[2]) };
  throw new CapabilityError(
    url,
    "a Content-Range header with the size of the file",
    { "content-range": header },
    "A server of another origin must list it in Access-Control-Expose-Headers.",
  );
}

/** Reads a body that must have exactly `length` bytes; stops at the first byte too many. */
async function readBody(
  url: string,
  response: Response,
  offset: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const bytes = allocateBytes(url, length);
  const reader = response.body?.getReader();
  let filled = 0;
  while (reader !== undefined) {
    const chunk = await reader.read().catch(() => {
      signal?.throwIfAborted();
      return undefined; // the connection broke
    });
    if (chunk === undefined || chunk.done) break;
    if (chunk.value.byteLength > length - filled) {
      await reader.cancel();
      throw new FormatError(url, `an answer of ${length} bytes, not more`, { byteOffset: offset });
    }
    bytes.set(chunk.value, filled);
    filled += chunk.value.byteLength;
  }
  if (filled === length) return bytes;
  const got = { byteOffset: offset, received: filled };
  throw new FormatError(url, `an answer of ${length} bytes`, got, "The connection broke; try again.");
}
