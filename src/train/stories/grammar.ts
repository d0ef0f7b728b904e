/** Rules of English that the sentences share. */

import { WOMEN } from "./words.ts";

/** A person's pronouns. */
export type Pronouns = {
  readonly subject: "she" | "he";
  readonly object: "her" | "him";
  readonly possessive: "her" | "his";
};

/** The pronouns of a person by name. */
export function pronounsOf(name: string): Pronouns {
  return WOMEN.includes(name)
    ? { subject: "she", object: "her", possessive: "her" }
    : { subject: "he", object: "him", possessive: "his" };
}

/** A phrase with "a" or "an" before it. */
export function withArticle(phrase: string): string {
  return `${/^[aeiou]/i.test(phrase) ? "an" : "a"} ${phrase}`;
}

/** The text with a large first letter. */
export function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
