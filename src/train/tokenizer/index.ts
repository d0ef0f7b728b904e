/** Learns a byte-level tokenizer and writes it in Hugging Face form. */

export { BEGIN_TOKEN, END_TOKEN, type TokenizerFiles, tokenizerFiles } from "./tokenizer-files.ts";
export { type BytePairs, SPLIT_PATTERN, trainBytePairs } from "./train-byte-pairs.ts";
