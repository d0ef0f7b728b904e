/**
 * Bytes as printable characters, the way byte-level vocabularies write them.
 *
 * @see https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode
 */

/** The character of every byte: itself where it prints, else the next one from U+0100 on. */
export const BYTE_CHARACTERS: readonly string[] = byteCharacters();

/** UTF-8 text with a character for every byte. */
export function toByteCharacters(text: string): string {
  let characters = "";
  for (const byte of new TextEncoder().encode(text)) characters += BYTE_CHARACTERS[byte];
  return characters;
}

function byteCharacters(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(prints ? byte : next++);
  });
}
