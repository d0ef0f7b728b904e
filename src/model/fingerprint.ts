/**
 * What tells one model and tokenizer from another, cheaply: a cache restored into the wrong ones gives nonsense.
 */

import { crc32 } from "../cache/crc32.ts";
import type { DecoderConfig } from "./config.ts";
import type { Decoder } from "./decoder.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Names and values for a snapshot's fingerprint: checksums of the config, of all norms and a sample of every layer's
 * query weights, and of the text of every token.
 */
export function modelFingerprint(
  config: DecoderConfig,
  decoder: Decoder,
  tokenizer: Tokenizer | undefined,
): Record<string, string> {
  let weights = 0;
  for (const numbers of [...decoder.normWeights(), ...decoder.querySamples()])
    weights = crc32(bytesOf(numbers), weights);
  return {
    config: hex(crc32(new TextEncoder().encode(JSON.stringify(config)))),
    weights: hex(weights),
    tokenizer: tokenizer ? hex(tokenizerChecksum(tokenizer)) : "none",
  };
}

function tokenizerChecksum({ vocabSize, tokenText }: Tokenizer): number {
  const encoder = new TextEncoder();
  let checksum = 0;
  for (let id = 0; id < vocabSize; id++) checksum = crc32(encoder.encode(`${tokenText(id)}\n`), checksum);
  return checksum;
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function hex(checksum: number): string {
  return checksum.toString(16).padStart(8, "0");
}
