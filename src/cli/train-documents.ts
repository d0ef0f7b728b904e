/**
 * Texts to train on, from files: one document a file, documents between end-of-text marks, or JSON lines.
 */

import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { ConfigError } from "../errors.ts";
import type { Tokenizer } from "../model/index.ts";
import type { TokenDocument } from "../train/index.ts";
import { decodeText } from "./read-text.ts";

/** Ends a document within a text file. */
const MARK = "<|endoftext|>";

/** What documents are made with. */
export type DocumentOptions = {
  /** Needed for texts; token ids do without. */
  readonly tokenizer: Tokenizer | undefined;
  /** Put after every text; undefined for none. */
  readonly endTokenId: number | undefined;
  /** Called now and then with the number of documents read. */
  readonly onProgress?: (documents: number) => void;
  readonly signal?: AbortSignal;
};

/** A text of which parts count differently. */
type Part = { readonly text: string; readonly weight: number };

/**
 * Reads the documents of files.
 *
 * A file that ends in .jsonl has a document a line: a string, or an object with `text`, with `parts` (a list of texts with
 * weights: how much predicting their tokens counts), or with `tokens` and, if wanted, `weights`. Any other file is text,
 * cut at `<|endoftext|>`.
 *
 * @param paths - files, read in this order
 * @throws ConfigError naming file and line
 */
export async function readDocuments(paths: readonly string[], options: DocumentOptions): Promise<TokenDocument[]> {
  const documents: TokenDocument[] = [];
  for (const path of paths) {
    for await (const document of path.endsWith(".jsonl") ? readLines(path, options) : readTexts(path, options)) {
      documents.push(document);
      if (documents.length % 64 !== 0) continue;
      options.signal?.throwIfAborted();
      options.onProgress?.(documents.length);
      await new Promise((resolve) => setImmediate(resolve)); // Ctrl-C is heard here
    }
  }
  return documents;
}

async function* readTexts(path: string, options: DocumentOptions): AsyncGenerator<TokenDocument> {
  const bytes = await readFile(path).catch((error) => {
    throw unreadable(path, error);
  });
  for (const part of decodeText(bytes, () => notText(path)).split(MARK)) {
    const trimmed = part.trim();
    if (trimmed !== "") yield encodeParts(path, [{ text: trimmed, weight: 1 }], options);
  }
}

async function* readLines(path: string, options: DocumentOptions): AsyncGenerator<TokenDocument> {
  let number = 0;
  for await (const line of linesOf(path)) {
    number++;
    if (line.trim() !== "") yield parseLine(`${path}: line ${number}`, line, options);
  }
}

/** The lines of a file in UTF-8, without what ends them. */
async function* linesOf(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (chunk?: Uint8Array): string => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined });
    } catch {
      throw notText(path);
    }
  };
  let begun: string[] = []; // parts of a line that has not ended
  try {
    for await (const chunk of createReadStream(path)) {
      const [first, ...lines] = decode(chunk).split("\n");
      begun.push(first);
      if (lines.length === 0) continue;
      yield begun.join("");
      begun = [lines.pop() ?? ""];
      yield* lines;
    }
  } catch (error) {
    throw error instanceof ConfigError ? error : unreadable(path, error);
  }
  yield begun.join("") + decode();
}

function unreadable(path: string, error: unknown): ConfigError {
  return new ConfigError(path, "a file that can be read", { error: (error as NodeJS.ErrnoException).code });
}

function notText(path: string): ConfigError {
  return new ConfigError(path, "text in UTF-8");
}

function parseLine(where: string, line: string, options: DocumentOptions): TokenDocument {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new ConfigError(where, "valid JSON", { reason: error instanceof Error ? error.message : String(error) });
  }
  if (typeof value === "string") return encodeParts(where, [{ text: value, weight: 1 }], options);
  const { text, parts, tokens, weights } = (value ?? {}) as Record<string, unknown>;
  if (typeof text === "string") return encodeParts(where, [{ text, weight: 1 }], options);
  if (Array.isArray(parts))
    return encodeParts(
      where,
      parts.map((part) => readPart(where, part)),
      options,
    );
  if (!isNumbers(tokens) || !tokens.every((id) => id >= 0 && (id | 0) === id)) {
    throw new ConfigError(where, "a string, or an object with text, parts or tokens", { value });
  }
  if (weights === undefined) return { tokens: Int32Array.from(tokens) };
  if (!isNumbers(weights) || weights.length !== tokens.length || weights.some((weight) => weight < 0)) {
    throw new ConfigError(where, "weights of 0 or more, one for each token", { weights });
  }
  return { tokens: Int32Array.from(tokens), weights: Float32Array.from(weights) };
}

function readPart(where: string, part: unknown): Part {
  const { text, weight = 1 } = (part ?? {}) as Record<string, unknown>;
  if (typeof text === "string" && typeof weight === "number" && weight >= 0) return { text, weight };
  throw new ConfigError(where, "parts with text and a weight of 0 or more", { part });
}

function encodeParts(where: string, parts: readonly Part[], { tokenizer, endTokenId }: DocumentOptions): TokenDocument {
  if (tokenizer === undefined) {
    throw new ConfigError(where, "a tokenizer for texts", {}, "Name one with --tokenizer.");
  }
  const tokens: number[] = [];
  const weights: number[] = [];
  for (const [n, { text, weight }] of parts.entries()) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: n === 0 })) {
      tokens.push(id);
      weights.push(weight);
    }
  }
  if (endTokenId !== undefined && tokens.at(-1) !== endTokenId) {
    tokens.push(endTokenId);
    weights.push(parts.at(-1)?.weight ?? 1);
  }
  const plain = weights.every((weight) => weight === 1);
  return { tokens: Int32Array.from(tokens), ...(!plain && { weights: Float32Array.from(weights) }) };
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => typeof one === "number" && Number.isFinite(one));
}
