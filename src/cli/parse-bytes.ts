/**
 * Byte counts as people write them.
 */

import { ConfigError } from "../errors.ts";

const BYTES_PER_UNIT: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/**
 * Reads a byte count: a decimal number and a unit, KB to TB (powers of 1000), KiB to TiB (powers of 1024) or none
 * (bytes), in any case.
 *
 * @param text - "64MiB", "2GB", "1.5 GiB", "4096"
 * @returns whole bytes, rounded down
 * @throws ConfigError for anything else, and for less than one byte or more than 2^53 − 1
 */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text);
  const unit = match?.[2].toLowerCase() || "b";
  const bytes = match && Object.hasOwn(BYTES_PER_UNIT, unit) ? Math.floor(Number(match[1]) * BYTES_PER_UNIT[unit]) : 0;
  if (bytes < 1 || !Number.isSafeInteger(bytes)) {
    throw new ConfigError("parseBytes", "a byte count such as 64MiB, 2GB or 1.5GiB", { text });
  }
  return bytes;
}

/**
 * Writes a byte count with three or four digits.
 *
 * @param bytes - at least 0
 * @returns for example "640 B", "1.50 KiB", "128 MiB"
 */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  // 1023.5 and more would be printed as 1024.
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${units[unit]}`;
}
