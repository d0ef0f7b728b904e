/** The words that stories are made of. */

const list = (words: string): readonly string[] => words.split(" ");

/** A noun for one and for many. */
export type NounForms = readonly [string, string];

/** A verb's base form, with -s, and past. */
export type VerbForms = readonly [string, string, string];

const pairs = (words: string): readonly NounForms[] => list(words).map((pair) => pair.split("/") as [string, string]);

const triples = (words: string): readonly VerbForms[] => {
  return list(words).map((forms) => forms.split("/") as [string, string, string]);
};

/** Names of women and girls. */
export const WOMEN: readonly string[] = list(
  "Mira Anna Clara Ella Greta Hanna Ida Julia Lena Nora Olga Paula Rosa Sofia Tilda Vera",
);

/** Names of men and boys. */
export const MEN: readonly string[] = list(
  "Adam Boris Daniel Emil Felix Hugo Ivan Jonas Leo Martin Oscar Peter Simon Tom Victor Walter",
);

/** Names of animals. */
export const PET_NAMES: readonly string[] = list(
  "Pepper Ginger Shadow Biscuit Button Pebble Clover Muffin Star Bramble Patch Misty Acorn Poppy Rusty Velvet",
);

/** Names of boats. */
export const BOATS: readonly string[] = list(
  "Swallow Dolphin Comet Aurora Falcon Heron Mermaid Pearl Tempest Victory Seagull Lantern",
);

/** Towns. */
export const TOWNS: readonly string[] = list(
  "Oldbridge Newport Ashford Millbrook Redhill Stonegate Westfield Elmwood Lakeside Greenvale Northam Sandwick Foxley Harwell Kingsby Dunmore",
);

/** Days. */
export const DAYS: readonly string[] = list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");

/** Times of day. */
export const HOURS: readonly string[] = list("one two three four five six seven eight nine ten eleven twelve");

/** Colors. */
export const COLORS: readonly string[] = list("red blue green yellow white black brown gray purple orange pink golden");

/** What things can be like. */
export const QUALITIES: readonly string[] = list(
  "old new small big little heavy plain fine strange pretty round broken",
);

/** Things to carry. */
export const THINGS: readonly NounForms[] = pairs(
  "key/keys coin/coins ring/rings lamp/lamps book/books map/maps letter/letters candle/candles cup/cups knife/knives bell/bells brush/brushes button/buttons mirror/mirrors whistle/whistles ribbon/ribbons",
);

/** Things with a lock. */
export const LOCKED: readonly string[] = list("box chest door gate safe trunk cabinet drawer locker room");

/** Rooms and corners to keep things in. */
export const PLACES: readonly string[] = list(
  "cellar attic barn kitchen garden tower chapel library stable workshop cottage mill tent cave shed hall",
);

/** Where people go. */
export const DESTINATIONS: readonly string[] = list(
  "market river forest harbor village school church bridge meadow station hill lake",
);

/** Shops. */
export const SHOPS: readonly string[] = list(
  "bakery museum theater bank school market library pharmacy station church",
);

/** Animals. */
export const ANIMALS: readonly NounForms[] = pairs(
  "cat/cats dog/dogs horse/horses goat/goats cow/cows hen/hens duck/ducks goose/geese sheep/sheep fox/foxes mouse/mice rabbit/rabbits bird/birds owl/owls pony/ponies donkey/donkeys",
);

/** Animals that people give names. */
export const PETS: readonly string[] = list("cat dog horse goat cow rabbit pony donkey");

/** Flowers and vegetables that people grow. */
export const PLANTS: readonly string[] = list(
  "roses tulips lilies beans carrots onions potatoes tomatoes pumpkins berries daisies cabbages peas herbs melons apples",
);

/** Vegetables. */
export const VEGETABLES: readonly NounForms[] = pairs(
  "carrot/carrots onion/onions potato/potatoes tomato/tomatoes cabbage/cabbages bean/beans mushroom/mushrooms apple/apples",
);

/** Dishes. */
export const DISHES: readonly string[] = list("soup stew pie bread cake sauce salad pudding");

/** What gives a dish its taste. */
export const SPICES: readonly string[] = list(
  "pepper garlic ginger honey lemon mint cinnamon butter salt vinegar cream thyme nutmeg saffron mustard sugar",
);

/** What boats carry. */
export const CARGOES: readonly string[] = list(
  "salt timber wool coal cotton grain iron glass sugar silk tea paper wine copper rice leather",
);

/** What people do for a living. */
export const JOBS: readonly string[] = list(
  "baker teacher doctor farmer painter sailor tailor carpenter gardener miner singer writer hunter potter actor engineer",
);

/** What people buy. */
export const GOODS: readonly string[] = list(
  "kettle hat basket chair carpet umbrella violin blanket clock pan shovel coat ladder drum kite apron",
);

/** Words that open locks. */
export const PASSWORDS: readonly string[] = list(
  "amber winter eagle marble thunder island copper meadow crystal dragon feather granite harvest jasmine lantern maple orchid pirate rocket silver tiger velvet willow zebra",
);

/** Digits. */
export const DIGITS: readonly string[] = list("0 1 2 3 4 5 6 7 8 9");

/** How people feel. */
export const MOODS: readonly string[] = list(
  "happy tired hungry cold sad proud quiet angry afraid curious sleepy cheerful",
);

/** How things are done. */
export const MANNERS: readonly string[] = list("slowly quickly quietly carefully happily alone together again");

/** Weather. */
export const WEATHER: readonly string[] = list("wind rain snow fog storm sun sky air");

/** What weather is like. */
export const WEATHER_QUALITIES: readonly string[] = list("cold warm gray bright soft strong wet clear");

/** What trees can be like. */
export const TREE_QUALITIES: readonly string[] = list("old green thin dark bare straight");

/** Relatives of the speaker, with "his" or "her". */
export const RELATIVES: readonly string[] = list("mother father sister brother uncle aunt cousin friend");

/** What people do for a while. */
export const ACTIONS: readonly VerbForms[] = triples(
  "sing/sings/sang dance/dances/danced rest/rests/rested wait/waits/waited laugh/laughs/laughed sleep/sleeps/slept work/works/worked read/reads/read play/plays/played walk/walks/walked talk/talks/talked swim/swims/swam",
);

/** What animals do. */
export const ANIMAL_ACTIONS: readonly VerbForms[] = triples(
  "run/runs/ran sleep/sleeps/slept hide/hides/hid sit/sits/sat stand/stands/stood wait/waits/waited drink/drinks/drank rest/rests/rested",
);

/** Where something is seen, before a place. */
export const PREPOSITIONS: readonly string[] = list("near behind under beside by");

/** Parts of the day. */
export const DAY_PARTS: readonly string[] = list("morning afternoon evening night");

/** Seasons. */
export const SEASONS: readonly string[] = list("spring summer autumn winter");
