"""A labelled corpus of movie reviews from a grammar: no network, no file.

Context tells a hidden word: people, titles and the vocabulary of a genre stay
the same through a review, articles, pronouns and plurals agree, idioms repeat.
Context tells the sentiment: reviews quote, concede and negate the other side.

A template is English with slots. A slot holds one option of the table of that
name, or of the table with the sign of the sentiment, `fine+` or `fine-`:

    {place}      saloon
    {Place}      Saloon
    {a enemy}    an outlaw
    {!fine}      an option of the opposite sentiment
    {so acting}  superb, truly superb, anything but wooden
"""

import random
import re
from collections.abc import Sequence
from typing import TypeVar

SIZES = {"train": 12_000, "test": 1_000}  # Documents a split.
LABELS = ("negative", "positive")

_T = TypeVar("_T")
_Tables = dict[str, tuple[str, ...]]


def _tables(text: str) -> list[_Tables]:
    """The tables of each paragraph: `name: option, option; name: option`."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        rows = (row.split(": ") for row in re.split("; |\n", paragraph))
        paragraphs.append({name: tuple(row.split(", ")) for name, row in rows})
    return paragraphs


# Roles, enemies and props have regular plurals. What follows {a ...} takes
# "an" exactly if it starts with a vowel letter.
_GENRES = _tables("""
kind: western, cowboy; mood: dusty, lawless, lonesome, sunburnt, parched
role: sheriff, rancher, drifter, bounty hunter; enemy: outlaw, bandit, gambler
place: saloon, canyon, ranch, corral, mine; prop: revolver, saddle, wagon, lasso
quest: rob the train, tame a stallion, drive the cattle across the river, \
dig for silver in the hills, win the shootout at high noon, cross the prairie
grip+: rugged, gritty, thrilling, rousing; grip-: tame, toothless, sleepy

kind: horror, ghost; mood: foggy, cursed, moonlit, eerie, decaying, nameless
role: babysitter, priest, caretaker, exorcist; enemy: vampire, zombie, demon
place: graveyard, cellar, abandoned asylum; prop: coffin, dagger, skull, candle
quest: survive the night, banish an evil spirit, lock the bedroom door, \
bury the corpse before midnight, escape from the killer in the mask
grip+: terrifying, scary, chilling, spooky; grip-: laughable, bloodless, goofy

kind: love, romance; mood: candlelit, sunny, quiet, old, flowery, windy
role: florist, painter, librarian, teacher; enemy: rival, jealous cousin, snob
place: chapel, garden, seaside hotel; prop: love letter, bouquet, wedding ring
quest: marry for love, mend a broken heart, win back a childhood sweetheart, \
dance until dawn, confess everything at the altar, kiss under the mistletoe
grip+: touching, tender, heartwarming, poignant; grip-: sugary, syrupy, mushy

kind: science fiction, space; mood: frozen, radioactive, futuristic, weightless
role: astronaut, pilot, scientist, engineer; enemy: alien, robot, mutant, clone
place: laboratory, moon base, crater; prop: laser, rocket, computer, satellite
quest: save the earth from an asteroid, travel back in time, warn the colony, \
explore a black hole, repair the engine before the oxygen runs out
grip+: visionary, imaginative, thoughtful; grip-: derivative, brainless, silly

kind: war, combat; mood: muddy, bombed, desolate, occupied, snowy, hostile
role: soldier, captain, medic, sniper; enemy: general, traitor, invader
place: trench, bunker, jungle, village; prop: rifle, helmet, grenade, medal
quest: storm the beach at sunrise, blow up the bridge, ambush a convoy, \
break through the front line, carry a wounded comrade to safety
grip+: harrowing, authentic, powerful; grip-: bombastic, phony, preachy, cynical

kind: comedy, slapstick; mood: chaotic, suburban, crowded, noisy, tidy
role: plumber, janitor, chef, taxi driver; enemy: landlord, neighbor, headmaster
place: office, diner, kitchen, golf club; prop: banana, wig, rubber duck, pie
quest: impress the boss at dinner, crash the wedding, pay the rent by friday, \
hide two parrots from the police, pretend to be a doctor, babysit six kids
grip+: hilarious, funny, witty; grip-: unfunny, humorless, tasteless, vulgar

kind: musical, dance; mood: glittering, smoky, jazzy, glamorous, festive
role: singer, drummer, composer, choreographer; enemy: producer, agent, diva
place: theater, nightclub, ballroom; prop: piano, microphone, trumpet, violin
quest: sing on broadway, write a hit song, save a ballet from ruin, \
learn to tap in a week, audition for the leading part, rehearse the finale
grip+: catchy, tuneful, exuberant; grip-: tuneless, mechanical, joyless, dated

kind: detective, crime; mood: rainy, shadowy, corrupt, gloomy, seedy
role: inspector, reporter, lawyer, bodyguard; enemy: murderer, gangster, burglar
place: courtroom, harbor, back alley, casino; prop: clue, pistol, briefcase
quest: solve the mystery, follow the money, find the missing heiress, \
interrogate every suspect, expose a conspiracy at city hall, crack the safe
grip+: suspenseful, ingenious, tense; grip-: transparent, muddled, farfetched

kind: fantasy, fairy tale; mood: enchanted, misty, ancient, forgotten, golden
role: wizard, knight, apprentice, archer; enemy: dragon, troll, goblin, giant
place: castle, forest, tower, dungeon; prop: wand, crown, shield, amulet
quest: slay the beast, wake the sleeping princess, reclaim the stolen throne, \
ride a winged horse, drink from the fountain of youth, break an age old spell
grip+: spellbinding, wondrous, magical; grip-: childish, charmless, dreary, lame
""")
# Star and companion share a gender, so that {he} may be either.
_GENDERS = _tables("""
he: he; him: him; his: his; himself: himself; hero: hero; actor: actor; man: man
given: Henry, Frank, Oscar, Victor, Walter, Arthur, Leo, Hugo, Felix, Simon, \
Boris, Ralph, Peter, Daniel, Tom, George, Louis, Carl, Jack, Edgar, Paul, Max
friend: brother, father, uncle, husband, grandfather, boyfriend, son, nephew

he: she; him: her; his: her; himself: herself; hero: heroine; actor: actress
man: woman; given: Rose, Alice, Clara, Helen, Edith, Irene, Norma, Ingrid, \
Vera, Olive, Lucy, Martha, Judith, Eva, Grace, Ruth, Agnes, Sylvia, Dora, Joan
friend: sister, mother, aunt, wife, grandmother, girlfriend, daughter, niece
""")
(_WORDS,) = _tables("""
surname: Abbott, Baxter, Calloway, Dalton, Ellison, Fairbanks, Gallagher, \
Hawkins, Irving, Jennings, Kowalski, Lombard, Marlowe, Novak, Olsen, Stone, \
Pemberton, Rossi, Sinclair, Tanaka, Underwood, Valdez, Whitman, Zimmerman
city: Chicago, Paris, Vienna, Cairo, Havana, Boston, Lisbon, Shanghai, Dublin, \
London, Berlin, Rome, Moscow, Sydney, Tokyo, Bombay, Madrid, Prague, Budapest
country: Spain, Morocco, Italy, Mexico, Canada, Ireland, Australia, Egypt, India
year: 1938, 1946, 1951, 1957, 1962, 1968, 1974, 1979, 1985, 1989, 1993, 1998
film: movie, movie, movie, film, film, film, picture, flick
part: movie, film, picture, plot, acting, script, ending, music, story, sequel
craft: tell a story, build suspense, stage a fight, direct extras, frame a shot
title: The Last {Role}, {Prop}s of the {Place}, The {Prop}, {Role}s in {city}, \
The {Mood} {Place}, The {Enemy} and the {Role}, Return of the {Enemy}
twice: twice, twice, three times, many times; few: two, four, five, a dozen
ago: as a child, in college, ten years ago, last summer, on a rainy sunday, \
last winter, when it came out in {year}, on a long flight, at a festival
critics: critics, newspapers, magazines, posters, advertisements, experts
medium: television, video, cable, an old tape, a tiny screen, a school trip
snack: popcorn, pizza, chocolate, peanuts, pretzels, lemonade, noodles, coffee
so: {}, {}, {}, truly {}, really {}, simply {}, quite {}, anything but {!}, \
not {!}, never {!}, hardly {!}, not at all {!}, by no means {!}, far from {!}
acting+: superb, convincing, natural, nuanced; acting-: wooden, stiff, hammy
plot+: gripping, original, clever, engaging; plot-: predictable, thin, contrived
talk+: sharp, intelligent, crisp, wise; talk-: clumsy, cheesy, stilted, corny
looks+: gorgeous, stunning, lush, lavish; looks-: cheap, ugly, murky, shabby
music+: haunting, memorable, lovely, melodic; music-: grating, annoying, shrill
pace+: brisk, confident, masterful; pace-: sluggish, sloppy, choppy, aimless
people+: likable, believable, complex; people-: shallow, unlikable, bland, flat
ending+: satisfying, moving, perfect; ending-: abrupt, disappointing, absurd
whole+: awesome, awesome, wonderful, excellent, fantastic, great, amazing, good
whole-: terrible, terrible, horrible, awful, boring, dull, bad, dreadful
fine+: great, wonderful, excellent, fine, good, remarkable, charming, enjoyable
fine-: terrible, bad, awful, boring, mediocre, poor, inept, unwatchable
best+: best, finest, greatest; best-: worst, dullest, weakest, poorest
loved+: loved, enjoyed, adored, cherished; loved-: hated, regretted, loathed
knows+: knows how to, knows exactly how to, was born to, never fails to
knows-: has no idea how to, does not know how to, has forgotten how to
wept+: cried, laughed out loud, clapped, forgot the time, came back for more
wept-: fell asleep, fell asleep, walked out, looked at my watch, felt cheated
end+: did not want it to end, was sad when it was over, asked for a sequel
end-: could not wait for it to end, was glad when it was over, left early
idiom+: kept me on the edge of my seat, is a breath of fresh air, has it all, \
is a feast for the eyes, stands the test of time, is worth every penny
idiom-: is a waste of time and money, is like watching paint dry, falls flat, \
scrapes the bottom of the barrel, has more holes than swiss cheese
advice+: do not miss it, see it while you can, go and buy a ticket tonight
advice-: do not bother, avoid it like the plague, read a book instead
score+: 7, 8, 9, 10; score-: 1, 2, 3, 4
clause: the acting was {so acting}, {surname} was {so acting} as the {role}, \
the plot was {so plot}, the story was {so plot}, the script was {so talk}, \
the jokes were {so talk}, the sets and costumes were {so looks}, \
the photography was {so looks}, the music was {so music}, \
the songs were {so music}, the direction was {so pace}, \
the characters were {so people}, the {enemy}s were {so people}, \
the scene in the {place} was {so ending}, as {a kind} {film} it was {so grip}
""")

_OPENINGS = """\
I have watched this {film} {twice} and it was {whole}.
I have seen {title} {twice}, and each time I {end}.
{title} is {a fine} {kind} {film} by {director}, and {clause}.
{director} has made {a fine} {film} about {a role} and {a enemy}.
I went to see {title} with my {friend}, who {!loved} it, but I {loved} it.
I rented {title} and expected {a !fine} {film}, but it was {so whole}.
Of all the {kind} {film}s that I have seen, {title} is one of the {best}.
I first saw {title} {ago}, and I still think that it is {so whole}.
""".splitlines()
_PLOT = """\
{star} plays {a role} who must {quest}.
It is set in {a mood} {place} near {city}, where {a role} tries to {quest}.
{star} is the {role} and {costar} is the {enemy} who wants to {quest}.
The story begins when {a enemy} comes to the {place} and tries to {quest}.
Before the {hero} can {quest}, {he} needs to find {his} {prop}.
With {a prop} in {his} hand, {surname} sets out to {quest}.
{surname} loses {his} {prop}, {his} friends and all faith in {himself}.
Meanwhile, the {enemy}s hide in the {place} with {few} {prop}s.
Everything ends in the {place}, where {star} meets the {enemy} face to face.
All {surname} wants is to {quest}, but the {enemy}s will not let {him}.
Once upon a time, {he} was {a role}, but now {he} is {a man} without {a prop}.
""".splitlines()
_ANECDOTES = """\
I watched it on {medium} with my {friend} and some {snack}.
It was shot in {country} in {year}, long before {star} became {a actor}.
By the way, {costar} also appears in {other} by the same director.
As far as I know, {director} wrote the script in {country} in {few} weeks.
I saw it {ago}, together with my {friend} and {few} friends.
""".splitlines()
_OPINIONS = """\
First of all, {clause}, and {clause}.
The {part} was {whole} and I {wept}.
{star} gives {a fine} performance, and {clause}.
As a director, {director} {knows} {craft}, and {clause}.
I {loved} every minute of it, and at midnight I {end}.
To make a long story short, it {idiom}!
Needless to say, {clause}, and my {friend} {wept}.
There is {a fine} moment in the {place} when {surname} finds the {prop}.
""".splitlines()
_CONCESSIONS = """\
Although {!clause} and {!clause}, {clause}.
Granted, {!clause}, but {clause} and I {end}.
My {friend} told me that it {!idiom}, but {he} was wrong.
The {critics} say that {!clause} and that it {!idiom}, but I do not agree.
Unlike {other}, where I {!wept} because {!clause}, this {film} was {whole}.
My {friend} {!loved} it because {!clause}, but I {loved} it.
If you think that {!clause} and {!clause}, think again.
Yes, {!clause}, and yes, {!clause}, and yet it {idiom}.
While {other} was {!whole}, this is {a fine} {kind} {film}.
""".splitlines()
_VERDICTS = """\
Overall, it is {a fine} {film}, and I {loved} it.
All in all, the {film} was {so whole}.
In short, {advice}.
I give it {score} out of 10.
My verdict is simple: {advice}, because it {idiom}.
If I had to say it in one word, {title} is {whole}.
""".splitlines()
# A review holds sentences in this order, so that opinions follow the plot.
_BODY = (_PLOT, _PLOT, _ANECDOTES, _OPINIONS, _CONCESSIONS, _CONCESSIONS)
_BREAKS = (" ",) * 15 + ("<br /><br />",)

_SLOT = re.compile(r"{(a |so )?(!?)(\w+)}")


class _Writer:
    """Fills templates with the people and things of one review."""

    def __init__(self, seed: str) -> None:
        # A string seed is hashed with sha512, and random() never changed: the
        # corpus is the same under every version of Python.
        self.uniform = random.Random(seed).random
        self.tables = _WORDS | self.pick(_GENRES)
        for person in ("costar", "director", "star"):
            self.tables |= self.pick(_GENDERS)  # That of the star remains.
            self.fix(person, "{given} {surname}")
        self.tables["surname"] = (self.tables["star"][0].split()[1],)
        self.fix("other", "{title}")
        for name in ("friend", "kind", "role", "enemy", "place", "title"):
            self.fix(name, f"{{{name}}}")

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.uniform() * len(options))]

    def fix(self, name: str, template: str) -> None:
        self.tables[name] = (self.fill(template, sign=""),)

    def fill(self, template: str, sign: str) -> str:
        return _SLOT.sub(lambda slot: self.option(slot, sign), template)

    def option(self, slot: re.Match[str], sign: str) -> str:
        prefix, opposite, name = slot.groups()
        if opposite:
            sign = "-" if sign == "+" else "+"
        if prefix == "so ":
            frame = self.pick(self.tables["so"])
            return self.fill(frame.replace("}", name + "}"), sign)
        table = name.lower()
        text = self.pick(self.tables.get(table) or self.tables[table + sign])
        text = self.fill(text, sign)
        if prefix == "a ":
            return f"an {text}" if text[0] in "aeiou" else f"a {text}"
        return text.title() if name[0].isupper() else text

    def review(self, sign: str) -> str:
        length = 1 + int(self.uniform() * 8)
        kinds = sorted(int(self.uniform() * len(_BODY)) for _ in range(length))
        body = dict.fromkeys(self.pick(_BODY[kind]) for kind in kinds)
        text = ""
        for template in (self.pick(_OPENINGS), *body, self.pick(_VERDICTS)):
            sentence = self.fill(template, sign)
            text += self.pick(_BREAKS) if text else ""
            text += sentence[0].upper() + sentence[1:]
        return text


def review(split: str, index: int) -> tuple[str, str]:
    """Text and label name of a document, a pure function of its arguments."""
    if index not in range(SIZES.get(split, 0)):
        raise ValueError(
            f"review({split!r}, {index!r}) does not exist; choose an index"
            f" below the size of a split: {SIZES}."
        )
    writer = _Writer(f"{split}/{index}")
    return writer.review("-+"[index % 2]), LABELS[index % 2]
