/** Sentences that tell of people, places, animals, weather and work, and state none of the facts that are asked about. */

import type { Draw } from "./draw.ts";
import { capitalised, type Pronouns, pronounsOf, withArticle } from "./grammar.ts";
import * as words from "./words.ts";

/** Who and where a paragraph is about. */
export type Scene = {
  readonly hero: string;
  readonly friend: string;
  readonly place: string;
};

/** What sentences are made with. */
type Telling = Scene & {
  readonly draw: Draw;
  /** The hero: by name first, then mostly by pronoun. */
  readonly who: string;
  readonly pronouns: Pronouns;
  readonly noun: (list: readonly words.NounForms[]) => string;
  readonly nouns: (list: readonly words.NounForms[]) => string;
  readonly of: (list: readonly string[]) => string;
};

type Sentence = (telling: Telling) => string;

const PEOPLE: readonly Sentence[] = [
  ({ who, of }) => `${who} was ${of(words.MOODS)} that ${of(words.DAY_PARTS)}.`,
  ({ who, friend, of }) => `${who} met ${friend} near the ${of(words.DESTINATIONS)}.`,
  ({ who, friend, draw }) =>
    `${who} and ${friend} ${draw.pick(words.ACTIONS)[2]} together.`.replace(/^(She|He) and/, "$1 waited until"),
  ({ who, of, draw }) => `${who} ${draw.pick(words.ACTIONS)[2]} ${of(words.MANNERS)} and went home.`,
  ({ who, pronouns, of }) => `${who} talked with ${pronouns.possessive} ${of(words.RELATIVES)} for a long time.`,
  ({ friend, pronouns, of }) => `"You look ${of(words.MOODS)}," said ${friend} to ${pronouns.object}.`,
  ({ draw }) => {
    const [, , past] = draw.pick(words.ACTIONS);
    return `They ${past} and were ${draw.pick(words.MOODS)}.`;
  },
  ({ who, draw, of }) =>
    `Every ${of(words.DAY_PARTS)} ${lowered(who)} ${draw.pick(words.ACTIONS)[1]} ${of(words.MANNERS)}.`,
];

const JOURNEY: readonly Sentence[] = [
  ({ who, of, place }) => `${who} walked from the ${place} to the ${of(words.DESTINATIONS)}.`,
  ({ of }) => `The road to the ${of(words.DESTINATIONS)} was long and ${of(words.WEATHER_QUALITIES)}.`,
  ({ who, of, noun }) => `${who} carried ${withArticle(`${of(words.QUALITIES)} ${noun(words.THINGS)}`)} in a bag.`,
  ({ who, of }) => `When ${lowered(who)} came to the ${of(words.DESTINATIONS)}, it was ${of(words.DAY_PARTS)}.`,
  ({ who, friend, of }) =>
    `${who} and ${friend} were ${of(words.MOODS)} after the journey.`.replace(/^(She|He) and/, "$1 and"),
  ({ pronouns, of }) => `At last ${pronouns.subject} saw the ${of(words.DESTINATIONS)} and stopped.`,
];

const ANIMALS: readonly Sentence[] = [
  ({ of, noun, draw, place }) => {
    return `${capitalised(withArticle(`${of(words.QUALITIES)} ${noun(words.ANIMALS)}`))} ${draw.pick(words.ANIMAL_ACTIONS)[2]} ${of(words.PREPOSITIONS)} the ${place}.`;
  },
  ({ of, nouns, draw, place }) => {
    return `Two ${of(words.COLORS)} ${nouns(words.ANIMALS)} ${draw.pick(words.ANIMAL_ACTIONS)[2]} ${of(words.PREPOSITIONS)} the ${place}.`;
  },
  ({ nouns, of }) => `The ${nouns(words.ANIMALS)} were ${of(words.MOODS)}, but nobody knew why.`,
  ({ noun, of }) => `The ${noun(words.ANIMALS)} was ${of(words.MOODS)} and did not move.`,
  ({ nouns, draw, of }) =>
    `In ${of(words.SEASONS)} the ${nouns(words.ANIMALS)} ${draw.pick(words.ANIMAL_ACTIONS)[0]} by the ${of(words.DESTINATIONS)}.`,
  ({ noun, draw, of }) =>
    `In ${of(words.SEASONS)} a young ${noun(words.ANIMALS)} often ${draw.pick(words.ANIMAL_ACTIONS)[1]} by the ${of(words.DESTINATIONS)}.`,
  ({ who, nouns, of }) => `${who} gave the ${nouns(words.ANIMALS)} some water and watched them ${of(words.MANNERS)}.`,
];

const WEATHER: readonly Sentence[] = [
  ({ of }) => `The ${of(words.WEATHER)} was ${of(words.WEATHER_QUALITIES)} that ${of(words.DAY_PARTS)}.`,
  ({ of, place }) => `It was a ${of(words.WEATHER_QUALITIES)} ${of(words.DAY_PARTS)}, and the ${place} was empty.`,
  ({ of, who }) =>
    `Because the ${of(words.WEATHER)} was so ${of(words.WEATHER_QUALITIES)}, ${lowered(who)} stayed inside.`,
  ({ of }) => `The clouds were ${of(words.COLORS)} over the ${of(words.DESTINATIONS)}.`,
  ({ of }) => `There was ${of(["rain", "snow", "fog"])} all ${of(words.DAY_PARTS)}.`,
  ({ of, draw }) => `When the ${of(words.WEATHER)} changed, the children ${draw.pick(words.ACTIONS)[2]} outside.`,
];

const WORK: readonly Sentence[] = [
  ({ of }) => `The ${of(words.JOBS)} had much work that ${of(words.DAY_PARTS)}.`,
  ({ who, of, noun }) =>
    `${who} helped the ${of(words.JOBS)} to find the ${of(words.QUALITIES)} ${noun(words.THINGS)}.`,
  ({ of, nouns }) =>
    `There were many ${nouns(words.THINGS)} on the table, and most of them were ${of(words.QUALITIES)}.`,
  ({ of, noun, place }) =>
    `There was ${withArticle(`${of(words.QUALITIES)} ${noun(words.THINGS)}`)} on the floor of the ${place}.`,
  ({ of, draw }) => `Some days the ${of(words.JOBS)} only ${draw.pick(words.ACTIONS)[1]}.`,
  ({ who, noun, pronouns }) => `${who} cleaned the ${noun(words.THINGS)} and put it on ${pronouns.possessive} table.`,
  ({ who, nouns, of }) =>
    `${who} counted the ${nouns(words.THINGS)} and hung them ${of(words.PREPOSITIONS)} the window.`,
];

const KITCHEN: readonly Sentence[] = [
  ({ of, noun }) => `First, wash the ${noun(words.VEGETABLES)} and cut it ${of(["slowly", "carefully", "quickly"])}.`,
  ({ nouns }) => `Then take the ${nouns(words.VEGETABLES)} and boil them in a pot.`,
  ({ of }) => `The ${of(words.DISHES)} was warm and smelled of ${of(words.SPICES)}.`,
  ({ who, of, nouns }) =>
    `${who} made ${withArticle(of(words.DISHES))} with ${nouns(words.VEGETABLES)} for the guests.`,
  ({ who, pronouns, of }) =>
    `${who} was hungry, so ${pronouns.subject} ate some ${of(["bread", "cake", "soup", "salad"])}.`,
  ({ of }) => `Do not add ${of(words.SPICES)} before the water is hot.`,
];

const GARDEN: readonly Sentence[] = [
  ({ of }) => `The ${of(words.PLANTS)} were ${of(words.COLORS)} in ${of(words.SEASONS)}.`,
  ({ who, of }) => `${who} planted ${of(words.PLANTS)} near the wall.`,
  ({ who, pronouns, of }) => `${who} watered ${pronouns.possessive} ${of(words.PLANTS)} every ${of(words.DAY_PARTS)}.`,
  ({ of, noun }) => `Behind the ${of(words.PLANTS)} there was ${withArticle(noun(words.ANIMALS))}.`,
  ({ of }) => `The trees by the ${of(words.DESTINATIONS)} were tall and ${of(words.TREE_QUALITIES)}.`,
];

const LETTERS: readonly Sentence[] = [
  ({ who, friend }) => `${who} wrote a long letter to ${friend}.`,
  ({ friend, who, of }) => `"Come to the ${of(words.DESTINATIONS)} soon," ${friend} wrote back to ${objectOf(who)}.`,
  ({ who, pronouns, of }) => `${who} read it again, and ${pronouns.subject} felt ${of(words.MOODS)}.`,
  ({ friend, of }) => `The answer from ${friend} was short and ${of(words.QUALITIES)}.`,
  ({ who, of, draw }) => `${who} wanted to ${draw.pick(words.ACTIONS)[0]} before the ${of(words.DAY_PARTS)}.`,
];

const TOPICS: readonly (readonly Sentence[])[] = [PEOPLE, JOURNEY, ANIMALS, WEATHER, WORK, KITCHEN, GARDEN, LETTERS];

const BEGINNINGS: readonly Sentence[] = [
  ({ hero, of, place }) => `One ${of(words.DAY_PARTS)} in ${of(words.SEASONS)}, ${hero} was in the ${place}.`,
  ({ hero, friend, of }) => `One ${of(words.DAY_PARTS)}, ${hero} went to see ${friend}.`,
];

const OPENINGS: readonly Sentence[] = [
  ...BEGINNINGS,
  ({ hero, of }) => `Later, ${hero} sat near the ${of(words.DESTINATIONS)}.`,
  ({ hero, of }) => `The next ${of(words.DAY_PARTS)}, ${hero} was ${of(words.MOODS)}.`,
  ({ hero, place }) => `After that, ${hero} went back to the ${place}.`,
];

/** A sentence to begin a paragraph with, or the first of a story. */
export function openingSentence(draw: Draw, scene: Scene, first: boolean): string {
  return draw.pick(first ? BEGINNINGS : OPENINGS)(telling(draw, scene, scene.hero));
}

/** The sentences of one topic, in random order and without end; the hero is named again now and then. */
export function* topicSentences(draw: Draw, scene: Scene): Generator<string, never> {
  const topic = draw.pick(TOPICS);
  for (;;) {
    for (const sentence of draw.shuffle(topic)) {
      const named = draw.chance(0.4);
      const who = named ? scene.hero : capitalised(pronounsOf(scene.hero).subject);
      yield sentence(telling(draw, scene, who));
    }
  }
}

/** A scene with two of the people. */
export function drawScene(draw: Draw, people: readonly string[]): Scene {
  const [hero, friend] = draw.shuffle(people);
  return { hero, friend, place: draw.pick(words.PLACES) };
}

function telling(draw: Draw, scene: Scene, who: string): Telling {
  return {
    ...scene,
    draw,
    who,
    pronouns: pronounsOf(scene.hero),
    noun: (list) => draw.pick(list)[0],
    nouns: (list) => draw.pick(list)[1],
    of: (list) => draw.pick(list),
  };
}

/** A pronoun or name within a sentence. */
function lowered(who: string): string {
  return who === "She" || who === "He" ? who.toLowerCase() : who;
}

function objectOf(who: string): string {
  if (who === "She") return "her";
  return who === "He" ? "him" : who;
}
