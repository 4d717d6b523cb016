"""Needles in a haystack as text: cities, templates, sentences to hide them in.

In: a random generator. Out: needles, questions, haystacks. Always: the templates are those that the papers follow; a
haystack is the reader's own text, or sentences of a small grammar, which need no file and hold no number.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from data.plain import decode


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CITIES = _words(
    """
    Accra Addis Algiers Almaty Amman Ankara Antwerp Athens Auckland Baku Bangkok Barcelona Basel Beijing Beirut
    Belgrade Bergen Berlin Bern Bogota Boston Brisbane Brussels Bucharest Budapest Busan Cairo Calgary Cancun
    Canberra Caracas Casablanca Chennai Chicago Cologne Colombo Copenhagen Dakar Dallas Damascus Delhi Denver
    Detroit Dhaka Doha Dresden Dubai Dublin Durban Edinburgh Florence Frankfurt Gdansk Geneva Genoa Glasgow
    Granada Hamburg Hanoi Harare Havana Helsinki Honolulu Houston Istanbul Jakarta Jerusalem Johannesburg Kabul
    Kampala Karachi Kathmandu Khartoum Kinshasa Kyoto Lagos Lahore Lausanne Leipzig Lima Lisbon Ljubljana London
    Luanda Lyon Madrid Malmo Manila Marseille Melbourne Memphis Miami Milan Minsk Montreal Moscow Mumbai Munich
    Nairobi Naples Nashville Odessa Orlando Osaka Oslo Ottawa Oxford Palermo Paris Perth Philadelphia Phoenix
    Porto Prague Quito Reykjavik Riga Rome Rotterdam Salzburg Santiago Seattle Seoul Seville Shanghai Singapore
    Sofia Stockholm Stuttgart Sydney Taipei Tallinn Tbilisi Tehran Tokyo Toronto Toulouse Tripoli Tunis Turin
    Utrecht Valencia Vancouver Venice Vienna Vilnius Warsaw Wellington Yerevan Zagreb Zurich
    """
)
_DETERMINERS = _words("the this that every another some")
ADJECTIVES = _words(
    """
    old new quiet tall narrow bright empty broken distant gentle heavy hidden early late warm cold simple
    careful famous local modern round silent wooden green grey yellow long short wide clever patient proud
    humble lonely
    """
)
NOUNS = _words(
    """
    river bridge tower garden market station harbour teacher painter sailor farmer doctor baker writer student
    house street window letter picture book song mountain forest island winter summer morning evening journey
    story question answer village castle library museum theatre kitchen table lamp clock train ship wagon field
    orchard valley
    """
)
_VERBS = _words(
    """
    watched followed crossed remembered painted carried repaired visited described opened closed found lost kept
    sold bought built measured counted admired ignored feared loved left reached
    """
)
_LINKS = _words("near behind beyond before after under above beside without toward")
_ADVERBS = _words("slowly often rarely quietly suddenly again twice together already never")


@dataclass(frozen=True)
class Needle:
    """A fact to be found: ``city``'s number of seven digits."""

    city: str
    number: str

    @property
    def sentence(self) -> str:
        """The line that is hidden."""
        return f"\n{stem(self.city)} {self.number}\n"


def stem(city: str) -> str:
    """What comes before the number, in the needle and in the completion-style prompt."""
    return f"The special magic {city} number is:"


def question(cities: Sequence[str]) -> str:
    """The question for one city or several."""
    if len(cities) == 1:
        return f"What is the special magic number for {cities[0]}?"
    return f"What are the special magic numbers for {', '.join(cities[:-1])} and {cities[-1]}?"


def draw_needles(count: int, draw: random.Random) -> list[Needle]:
    """``count`` needles with different cities.

    Raises:
        InputError: more needles than cities.
    """
    if count > len(CITIES):
        raise InputError(f"needles: at most {len(CITIES)} have different cities, {count} are asked for")
    return [Needle(city, str(draw.randrange(1_000_000, 10_000_000))) for city in draw.sample(CITIES, count)]


def sentences(draw: random.Random) -> Iterator[str]:
    """Sentences of the grammar without end; each begins with a blank."""
    while True:
        yield " " + _sentence(draw)


def haystack(path: str | None, draw: random.Random) -> Iterator[str]:
    """Pieces of text without end: of the file ``path``, from a random place on and round again, or of the grammar."""
    if path is None:
        yield from sentences(draw)
    assert path is not None
    try:
        text = decode(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"haystack {path}: not readable: {error.strerror}") from None
    if text is None:
        raise InputError(f"haystack {path}: not text in UTF-8")
    pieces = re.findall(r"[^.]*[^.\s][^.]*\.", text)
    if not pieces:
        raise InputError(f"haystack {path}: holds no sentence that ends with a full stop")
    start = draw.randrange(len(pieces))
    while True:
        yield from pieces[start:]
        start = 0


def _sentence(draw: random.Random) -> str:
    def thing() -> str:
        adjective = f"{draw.choice(ADJECTIVES)} " if draw.random() < 0.6 else ""
        return f"{draw.choice(_DETERMINERS)} {adjective}{draw.choice(NOUNS)}"

    words = f"{thing()} {draw.choice(_VERBS)} {thing()}"
    if draw.random() < 0.5:
        words += f" {draw.choice(_LINKS)} {thing()}"
    if draw.random() < 0.3:
        words += f" {draw.choice(_ADVERBS)}"
    return words[0].upper() + words[1:] + "."
