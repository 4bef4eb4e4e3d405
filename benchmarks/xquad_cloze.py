"""Questions to learn from, more than a data set of some hundred: clozes on its paragraphs, and its own questions anew.

A cloze, as in unsupervised question answering (Lewis et al. 2019, https://arxiv.org/abs/1906.04980): words around a
span ask for it. A small model has to learn that the words of a question are to be looked for in the text; some hundred
questions do not teach that, thousands of clozes do. Both kinds stand on a part of the paragraph, drawn anew each time,
and with rare words exchanged, the same in question and text, so that words are compared and not remembered.
"""

import collections
import json
import pathlib
import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MARKS = r"\u0300-\u036f\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963"  # of vowels and accents
WORD = re.compile(rf"[\u3400-\u9fff]|[^\W_]+(?:[^\w\s]+[^\W_]+)*[{MARKS}]*", re.UNICODE)  # Chinese by character
END = re.compile(r"[.!?؟।](?=\s)|[。！？]")  # of a sentence
RARE = 4  # paragraphs: a word that is in no more of them may get another's place
LENGTHS = (1, 1, 2, 2, 3, 4, 6)  # words of a cloze's answer, drawn
EASY, ROOMS = 60, (60, 150, 300, 600)  # characters of a text beside the sentence of the answer, drawn
DENSE = {"zh": 3}  # by how much fewer characters say the same


class Item(NamedTuple):
    """A question, and the text around its answer: before it, the answer, behind it."""

    question: str
    before: str
    answer: str
    after: str


def sentence(text: str, at: int) -> tuple[int, int]:
    """The characters of the sentence that text[at] is in."""
    ends = [0, *(found.end() for found in END.finditer(text)), len(text)]
    return max(end for end in ends if end <= at), min(end for end in ends if end > at)


def shape(word: str) -> str:
    """What a word may be exchanged for: numbers, words with a capital and others, each of about their length."""
    kind = "number" if word[0].isdigit() else "capital" if word[0].isupper() else "other"
    return f"{kind}{min(len(word), 12) // 3}"


class Rare:
    """The words of few texts, to be exchanged for one another."""

    def __init__(self, texts: Sequence[str]):
        count = collections.Counter(word for text in texts for word in set(WORD.findall(text)))
        self.words = {word for word, seen in count.items() if seen <= RARE}
        self.groups: dict[str, list[str]] = {}
        for word in sorted(self.words):
            self.groups.setdefault(shape(word), []).append(word)

    def exchanged(self, item: Item, share: float, rng: random.Random) -> Item:
        """The item with about `share` of its rare words exchanged, each for the same word everywhere."""
        table: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            word = found[0]
            if word not in table:
                drawn = word in self.words and rng.random() < share
                table[word] = rng.choice(self.groups[shape(word)]) if drawn else word
            return table[word]

        return Item(*(WORD.sub(other, text) for text in item))


def around(text: str, at: int, room: int, rng: random.Random) -> tuple[int, int]:
    """The characters of the sentence that text[at] is in and of about `room` more on its sides, cut at white space."""
    first, last = sentence(text, at)
    begin = max(0, first - rng.randint(0, room))
    return text.rfind(" ", 0, begin) + 1, last + room - (first - begin)


def span(found: Sequence[re.Match[str]], rng: random.Random) -> tuple[int, int]:
    """First word and the one behind the last of a cloze's answer; every other one begins with a name or number."""
    length = min(rng.choice(LENGTHS), len(found) - 2)
    starts = range(len(found) - length + 1)
    named = [at for at in starts if found[at][0][0].isdigit() or (at and found[at][0][0].isupper())]
    start = rng.choice(named if named and rng.random() < 0.5 else starts)
    return start, start + length


def cloze(text: str, room: int, other: str, rng: random.Random) -> Item | None:
    """A cloze on one sentence of a text; None where that is too short.

    An easy one has all words around its answer, in order. With `other`, a text, it is as loose as a question: words are
    missing, a few come from there, the order may be another.
    """
    at = rng.randrange(len(text))
    found = list(WORD.finditer(text, *sentence(text, at)))
    if len(found) < 5:
        return None
    start, stop = span(found, rng)
    reach = rng.randint(8, 18 if other else 14)
    left = rng.randint(min(reach, max(0, reach - (len(found) - stop))), reach)
    near = [one[0] for one in (*found[max(0, start - left) : start], *found[stop : stop + reach - left])]
    dropped = rng.uniform(0.2, 0.7) if other else 0.0
    kept = [word for word in near if rng.random() >= dropped] or near
    if not kept:
        return None
    if other:
        strange = [one[0] for one in WORD.finditer(other)]
        begin = rng.randrange(len(strange))
        kept = strange[begin : begin + rng.randint(0, 4)] + kept
        if rng.random() < 0.3:
            rng.shuffle(kept)
    joint = "" if all("\u3400" <= word <= "\u9fff" for word in kept) else " "
    begin, end = around(text, at, room, rng)
    first, last = found[start].start(), found[stop - 1].end()
    return Item(joint.join(kept) + "?", text[begin:first], text[first:last], text[last:end])


def clozes(texts: Sequence[str], language: str, count: int, easy: bool, rng: random.Random) -> Iterator[Item]:
    """Clozes on random texts."""
    rare = Rare(texts)
    while count:
        room = EASY if easy else rng.choice(ROOMS)
        other = "" if easy else rng.choice(texts)
        item = cloze(rng.choice(texts), room // DENSE.get(language, 1), other, rng)
        if item:
            count -= 1
            yield rare.exchanged(item, rng.choice((0.0, 0.7)), rng)


def again(part: Sequence[dict], language: str, times: int, rng: random.Random) -> Iterator[Item]:
    """The questions on some paragraphs, each `times` times, at first with no word exchanged."""
    rare = Rare([paragraph["context"] for paragraph in part])
    for time in range(times):
        for paragraph in part:
            text = paragraph["context"]
            for asked in paragraph["qas"]:
                answer, start = asked["answers"][0]["text"], asked["answers"][0]["answer_start"]
                begin, end = around(text, start, rng.choice(ROOMS) // DENSE.get(language, 1), rng)
                stop = start + len(answer)
                item = Item(asked["question"], text[begin:start], answer, text[stop : max(stop, end)])
                yield rare.exchanged(item, rng.choice((0.0, 0.3)) if time else 0.0, rng)


def write(path: pathlib.Path, items: Iterator[Item]) -> None:
    """Writes questions as SQuAD's JSON."""
    listed = [
        {
            "context": item.before + item.answer + item.after,
            "qas": [
                {
                    "id": str(number),
                    "question": item.question,
                    "answers": [{"text": item.answer, "answer_start": len(item.before)}],
                }
            ],
        }
        for number, item in enumerate(items)
    ]
    tree = {"version": "1.1", "data": [{"title": path.stem, "paragraphs": listed}]}
    path.write_text(json.dumps(tree, ensure_ascii=False), "utf-8")
