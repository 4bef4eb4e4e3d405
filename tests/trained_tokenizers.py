"""Two tokenizers for the tokenizer's tests, and the text that they are made of.

`hand_made` has a SentencePiece model whose pieces are set one by one, so that what SentencePiece itself does is known;
`trained` is trained on CORPUS.
"""

import csv
import gzip
import pathlib
import re

import pytest

from ernie_m_jax.tokenizer import train
from tests import sentencepiece_models

ROOT = pathlib.Path(__file__).parents[1]
MODEL, VOCABULARY = "sentencepiece.bpe.model", "vocab.txt"

SENTENCES = [
    "Everyone has the right to life, liberty and security of person.",
    "All human beings are born free and equal in dignity and rights.",
    "In 1948, on 10 December, 48 states of 58 voted for it: nobody voted against.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ กำเนิด",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。東京",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "“Quoted” words — with ‘dashes’, 20 of 200 or 2020; 「世界」 (yes)!",
]

with gzip.open(ROOT / "ernie_m_jax/data/corpora/udhr/udhr18.tsv.gz", "rt", encoding="utf-8", newline="") as file:
    UDHR = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
CORPUS = [
    *SENTENCES,
    *(row[language] for row in UDHR[:20] for language in ("en", "fr", "de", "el", "ru", "ar", "th", "vi")),
]

SPECIALS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
HAND_PIECES = re.findall(
    r"\S+",
    "▁ ▁The ▁in 15, ▁200, 200, ▁15 ▁200 15 200 2020 第15条 第 条 a1b a b 1 2 0 5 , ▁x x ▁, 東京2020年 東京 東 京 年 。 "
    ",。 ▁ab ab! ▁ab! ! c2▁d d c 3▁ 3 東d ▁b,",
)


def write(directory: pathlib.Path, model: bytes, tokens: list[str]) -> pathlib.Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL).write_bytes(model)
    (directory / VOCABULARY).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="")
    return directory


@pytest.fixture(scope="module")
def hand_made(tmp_path_factory):
    """Directory of a tokenizer with HAND_PIECES, fewest pieces first; vocab.txt in reverse order, without "a"."""
    base = tmp_path_factory.mktemp("base")
    train(SENTENCES, 300, base)
    proto = sentencepiece_models.read(base / MODEL)
    del proto.pieces[3:]
    for piece in HAND_PIECES:
        proto.pieces.add(piece=piece, score=-1.0 - 0.01 * len(piece))
    tokens = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *(p for p in reversed(HAND_PIECES) if p != "a"), "[MASK]"]
    return write(tmp_path_factory.mktemp("hand"), proto.SerializeToString(), tokens)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    train(CORPUS, 700, directory)
    return directory


def tokens_of(directory: pathlib.Path) -> list[str]:
    return (directory / VOCABULARY).read_text(encoding="utf-8").split("\n")[:-1]
