"""Files of questions on texts (SQuAD, MLQA, XQuAD, XTREME's folders, TFDS) on generated data, and what is refused."""

import copy
import gzip
import json
import pickle
import unicodedata

import numpy as np
import pytest

from ernie_m_jax.data import squad
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record

CONTEXT = "Le café de Zoé 😀 ouvre à 7 heures."  # a character beyond the basic plane stands before the last answer


def question(name="q1", text="Quand ?", *answers):
    return {
        "id": name,
        "question": text,
        "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)} for answer in answers or ("7 heures",)],
    }


def document(*questions, context=CONTEXT, **keys):
    paragraphs = [{"context": context, "qas": list(questions or (question(),))}]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]} | keys


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = json.dumps(content, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def open_questions(path, split="train", languages=("fr",), **keys):
    return squad.open_questions(str(path), split, languages, **keys)


def test_a_question_is_a_record_with_its_text_and_answers(tmp_path):
    path = write(tmp_path / "own.json", document(question(), question("q2", "Qui ? ", "Zoé", "café de Zoé")))
    opened = open_questions(path)["fr"]
    assert list(opened) == [opened[0], opened[1]]
    assert opened[0] == Record(
        ("Quand ?", CONTEXT), ("fr", "fr"), {"id": "q1", "answers": (("7 heures", CONTEXT.index("7")),)}
    )
    assert opened[-1].fields["answers"] == (("Zoé", 11), ("café de Zoé", 3))
    assert opened.skipped == {}
    with pytest.raises(IndexError):
        opened[2]
    assert pickle.loads(pickle.dumps(opened))[1] == opened[1]


def test_questions_on_one_text_share_it(tmp_path):
    path = write(tmp_path / "own.json", document(*(question(f"q{number}") for number in range(5))))
    opened = open_questions(path)["fr"]
    assert len({id(record.texts[1]) for record in opened}) == 1


@pytest.mark.parametrize("name", ["own.json", "own.json.gz"])
@pytest.mark.parametrize("escaped", [True, False])
def test_escaped_characters_and_byte_order_marks_are_read(tmp_path, name, escaped):
    content = b"\xef\xbb\xbf" + json.dumps(document(), ensure_ascii=escaped).encode()
    assert open_questions(write(tmp_path / name, content))["fr"][0].texts == ("Quand ?", CONTEXT)


def test_an_answer_in_another_normal_form_is_taken_as_the_text_has_it(tmp_path):
    apart = unicodedata.normalize("NFD", CONTEXT)
    start = apart.index("cafe")
    made = question()
    made["answers"] = [{"text": "café de Zoé", "answer_start": start}]
    opened = open_questions(write(tmp_path / "own.json", document(made, context=apart)))["fr"]
    ((text, found),) = opened[0].fields["answers"]
    assert (found, text) == (start, unicodedata.normalize("NFD", "café de Zoé"))
    assert apart[start : start + len(text)] == text


# Languages and folders


def test_a_file_for_each_language(tmp_path):
    for language in ("fr", "de"):
        write(tmp_path / f"xquad.{language}.json", document(question(f"in {language}")))
    opened = open_questions(tmp_path / "xquad.{language}.json", "test", ("de", "fr"))
    assert {language: (part[0].languages, part[0].fields["id"]) for language, part in opened.items()} == {
        "de": (("de", "de"), "in de"),
        "fr": (("fr", "fr"), "in fr"),
    }
    with pytest.raises(DataError, match=r"xquad\.fr\.json: 2 languages are asked for; put \{language\} into the path"):
        open_questions(tmp_path / "xquad.fr.json", "test", ("de", "fr"))


LAYOUTS = [
    ("train", "en", "train-v1.1.json"),
    ("train", "en", "squad/train-v1.1.json"),
    ("dev", "en", "squad/dev-v1.1.json"),
    ("dev", "hi", "dev/dev-context-hi-question-hi.json"),
    ("dev", "hi", "MLQA_V1/dev/dev-context-hi-question-hi.json"),
    ("dev", "hi", "mlqa/MLQA_V1/dev/dev-context-hi-question-hi.json"),
    ("test", "zh", "test/test-context-zh-question-zh.json"),
    ("test", "zh", "test-context-zh-question-zh.json.gz"),
    ("test", "zh", "MLQA_V1/test/test-context-zh-question-zh.json"),
    ("test", "zh", "mlqa/MLQA_V1/test/test-context-zh-question-zh.json"),
    ("test", "el", "xquad.el.json"),
    ("test", "el", "xquad/xquad.el.json"),
    ("test", "el", "test-el.json"),
]


@pytest.mark.parametrize(("split", "language", "file"), LAYOUTS)
def test_a_folder_of_a_known_layout_is_read_by_split_and_language(tmp_path, split, language, file):
    write(tmp_path / file, document())
    assert len(open_questions(tmp_path, split, (language,))[language]) == 1
    with pytest.raises(DataError, match=f"no file of the {split} split in 'qq'; looked for: "):
        open_questions(tmp_path, split, ("qq",))


def test_two_files_that_fit_are_refused(tmp_path):
    write(tmp_path / "xquad/xquad.de.json", document())
    write(tmp_path / "mlqa/MLQA_V1/test/test-context-de-question-de.json", document())
    with pytest.raises(DataError, match=r"several files fit .* name one"):
        open_questions(tmp_path, "test", ("de",))


@pytest.mark.parametrize(("split", "language", "place"), [("train", "en", "SQuAD"), ("test", "de", "MLQA_V1")])
def test_what_is_missing_is_named_with_where_to_put_it(tmp_path, split, language, place):
    with pytest.raises(DataError, match=rf"nowhere: no such file or directory; .*https://.*{place}"):
        open_questions(tmp_path / "nowhere", split, (language,))
    with pytest.raises(DataError, match=rf"looked for: .*{split}.*https://.*{place}"):
        open_questions(tmp_path, split, (language,))


# TFDS


@pytest.fixture(scope="module")
def tfds_directory(tmp_path_factory):
    """A data set with the features of TFDS's `squad`, `mlqa` and `xquad`, prepared by TFDS itself."""
    import tensorflow_datasets as tfds

    text, offset = tfds.features.Text(), tfds.features.Tensor(shape=(), dtype=np.int32)
    features = {"id": text, "title": text, "context": text, "question": text}
    features["answers"] = tfds.features.Sequence({"text": text, "answer_start": offset})

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"validation": self._examples()}

        def _examples(self):
            for name, texts in (("q1", ("7 heures",)), ("q2", ("Zoé", "café de Zoé")), ("q3", ("7 heures",))):
                made = question(name, "Quoi ?", *texts) | {"title": "t", "context": CONTEXT}
                if name == "q3":
                    made["answers"][0]["answer_start"] = 0
                yield name, made

        _generate_examples = _examples

    tfds.disable_progress_bar()
    made = Tiny(data_dir=str(tmp_path_factory.mktemp("squad")), file_format="array_record")
    made.download_and_prepare()
    return str(made.data_dir)


def test_tfds_examples(tfds_directory):
    opened = open_questions(f"tfds:{tfds_directory}", "dev", bad_rows="skip")["fr"]
    found = {record.fields["id"]: record for record in opened}
    assert found["q1"].texts == ("Quoi ?", CONTEXT)
    assert found["q2"].fields["answers"] == (("Zoé", 11), ("café de Zoé", 3))
    assert opened.skipped == {"answer not at its place": 1}
    assert len({id(record.texts[1]) for record in opened}) == 1
    with pytest.raises(
        DataError, match=r"example \d, question 'q3': the answer '7 heures' does not stand at character 0"
    ):
        open_questions(f"tfds:{tfds_directory}", "dev")


def test_tfds_data_set_that_is_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"tfds:mlqa/fr \(split 'test'\): cannot be opened"):
        open_questions("tfds:mlqa/{language}", "test")


# Bad rows


def changed(**keys):
    """A question with other keys; None takes one out."""
    return {key: value for key, value in (question("bad") | keys).items() if value is not None}


def moved(start):
    return changed(answers=[{"text": "7 heures", "answer_start": start}])


BAD = {
    "off by one": (moved(CONTEXT.index("7") - 1), "does not stand at character 24", "answer not at its place"),
    "in UTF-16 units": (moved(CONTEXT.index("7") + 1), "does not stand at character 26", "answer not at its place"),
    "negative": (moved(-9), "does not stand at character -9", "answer not at its place"),
    "behind the end": (moved(10_000), "does not stand at character 10000", "answer not at its place"),
    "no number": (moved("25"), "answer_start is '25'", "answer not at its place"),
    "no offset": (changed(answers=[{"text": "7 heures"}]), "answer_start is None", "answer not at its place"),
    "elsewhere": (
        changed(answers=[{"text": "8 heures", "answer_start": 25}]),
        "'8 heures' does not stand at character 25, where the text has '7 heures'",
        "answer not at its place",
    ),
    "one of two": (
        changed(answers=[{"text": "Zoé", "answer_start": 11}, {"text": "Zoé", "answer_start": 12}]),
        "'Zoé' does not stand at character 12",
        "answer not at its place",
    ),
    "no answer": (changed(answers=[]), "no answer", "no answer"),
    "no answers": (changed(answers=None), "no answer", "no answer"),
    "empty answer": (changed(answers=[{"text": "", "answer_start": 0}]), "no answer", "no answer"),
    "answer of spaces": (changed(answers=[{"text": " ", "answer_start": 2}]), "no answer", "no answer"),
    "answers of another type": (changed(answers="7 heures"), "its answers are str", "no answer"),
    "answer of another type": (changed(answers=[7]), "an answer is int", "no answer"),
    "empty question": (changed(question=" \u3000"), "the question is empty", "empty question"),
    "no question": (changed(question=None), "the question is NoneType, not text", "empty question"),
    "surrogate": (changed(question="\ud800?"), "not valid Unicode", "invalid Unicode"),
    "known id": (changed(id="q0"), "a question before it has the same id", "repeated id"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_question_is_an_error_with_its_id_or_skipped_and_counted(tmp_path, case):
    bad, message, reason = BAD[case]
    name = bad["id"]
    made = document(question("q0"), bad, question("q9"))
    path = write(tmp_path / "own.json", json.dumps(made).encode())
    key = "config.objectives.mlqa.bad_rows"
    with pytest.raises(DataError) as caught:
        open_questions(path, config_key=key)
    said = str(caught.value)
    assert said.startswith(f"{path}: question '{name}': ")
    assert message in said
    assert f'set {key} to "skip"' in said
    opened = open_questions(path, bad_rows="skip")["fr"]
    assert [record.fields["id"] for record in opened] == ["q0", "q9"]
    assert opened.skipped == {reason: 1}


def test_a_file_without_a_good_question_is_refused(tmp_path):
    path = write(tmp_path / "own.json", document(moved(0)))
    with pytest.raises(DataError, match=r"no good question in 'fr': answer not at its place 1; the first is .*'bad'"):
        open_questions(path, bad_rows="skip")


def test_an_empty_text_is_named(tmp_path):
    made = question() | {"answers": []}
    with pytest.raises(DataError, match=r"question 'q1': its text is empty"):
        open_questions(write(tmp_path / "own.json", document(made, context=" ")))


@pytest.mark.parametrize("answers", [[], None, [{"text": "", "answer_start": 0}]])  # the last as XTREME hides them
def test_only_a_test_split_may_have_no_answers(tmp_path, answers):
    made = changed(answers=answers)
    path = write(tmp_path / "own.json", document(made, made | {"id": "other"}))
    records = open_questions(path, "test")["fr"]
    assert [record.fields for record in records] == [{"id": "bad"}, {"id": "other"}]
    for split in ("train", "dev"):
        with pytest.raises(DataError, match="question 'bad': no answer"):
            open_questions(path, split)
    with pytest.raises(DataError, match="question 'bad': no answer"):
        open_questions(write(path, document(question(), made)), "test")


def test_a_question_without_id_is_named_by_its_number(tmp_path):
    opened = open_questions(write(tmp_path / "own.json", document(question(), changed(id=None))))["fr"]
    assert [record.fields["id"] for record in opened] == ["q1", "2"]


# Files that cannot be read


def without(*keys):
    """The document without what lies under these keys."""
    made = copy.deepcopy(document())
    node = made
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    return made


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "no JSON": (b'{"data": [\n{"title": }', r"own\.json:2: not JSON"),
    "UTF-8": (b'{"data": "\xff"}', "invalid UTF-8"),
    "a list": ([], "no SQuAD file: it is list"),
    "no data": ({"version": "1.1"}, "no SQuAD file: no list `data`"),
    "no paragraphs": (without("data", 0, "paragraphs"), r"data\[0\] has no list `paragraphs`"),
    "no context": (without("data", 0, "paragraphs", 0, "context"), r"data\[0\]\.paragraphs\[0\] has no text `context`"),
    "no questions": (without("data", 0, "paragraphs", 0, "qas"), r"data\[0\]\.paragraphs\[0\] has no list `qas`"),
    "a question that is none": (document("Quand ?"), r"paragraphs\[0\]\.qas\[0\] is str"),
    "no articles": ({"data": []}, "no good question in 'fr': the file has no questions"),
    "gzip": (b"x", "cannot be read", "own.json.gz"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, case, bad_rows):
    content, message, *name = BAD_FILES[case]
    path = tmp_path / (name[0] if name else "own.json")
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError, match=message) as caught:
        open_questions(path, bad_rows=bad_rows)
    assert str(path) in str(caught.value)


BAD_CALLS = [
    ({"split": "valid"}, "split 'valid' must be train, dev or test"),
    ({"bad_rows": "drop"}, "bad_rows 'drop' must be error or skip"),
    ({"languages": ()}, "no language"),
]


@pytest.mark.parametrize(("keys", "message"), BAD_CALLS)
def test_a_call_that_makes_no_sense_is_refused(tmp_path, keys, message):
    with pytest.raises(DataError, match=message):
        open_questions(write(tmp_path / "own.json", document()), **keys)
