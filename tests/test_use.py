"""A fine-tuned model in use: a user's own rows in, answers out, from Python and by the command."""

import itertools
import json

import jax
import numpy as np
import pytest

import ernie_m_jax
from configs import base
from ernie_m_jax import task as tasks
from ernie_m_jax.model import FULL, Inputs
from tests.small_models import random_model
from tests.test_finetune import command

NLI = ("neutral", "contradiction", "entailment")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
HEADS = {
    "sequence_classification": {"pooler": True, "num_labels": 3, "labels": NLI},
    "token_classification": {"num_labels": 5, "labels": TAGS},
    "question_answering": {},
    "none": {},
}
PAIRS = [("the class name is not a valid name", "a name"), ("the file", "der Typ ist leer"), ("x", "y")]
CONTEXT = "The class may not be empty. The file has a name, and the type has a value of the module."


@pytest.fixture(scope="module")
def models(tokenizer):
    return {
        head: random_model(
            tokenizer, (), language_embedding="none", num_languages=0, mlm_head="none", head=head, **keys
        )
        for head, keys in HEADS.items()
    }


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    for head, model in models.items():
        ernie_m_jax.save(path / head, model)
    return path


def alone(model, ids):
    """The last layer's output of one text alone in its row, [L, H]."""
    ids = np.array([ids], np.int32)
    zeros, encoder = np.zeros_like(ids), model.encoder()
    inputs = Inputs(ids=ids, positions=np.arange(ids.shape[1])[None], segments=zeros + 1, roles=zeros, languages=zeros)
    return encoder, encoder.apply({"params": model.params}, inputs, FULL, method="encode")


def test_a_pairs_label_and_probabilities(models):
    model = models["sequence_classification"]
    found = model.predict(PAIRS)
    assert [list(one) for one in found] == [["label", "probabilities"]] * 3
    for (first, second), one in zip(PAIRS, found, strict=True):
        encoder, hidden = alone(model, model.tokenizer.encode_pair(first, second, 256))
        pooled = encoder.apply({"params": model.params}, hidden[:, :1], method="pool")
        shares = jax.nn.softmax(encoder.apply({"params": model.params}, pooled, method="classify").reshape(-1))
        np.testing.assert_allclose([one["probabilities"][name] for name in NLI], shares, atol=1e-5)
        assert one["label"] == NLI[int(np.argmax(shares))]
    assert model.predict(PAIRS[::-1], batch_size=1)[::-1] == [
        {"label": one["label"], "probabilities": pytest.approx(one["probabilities"], abs=1e-5)} for one in found
    ]
    named = [{"premise": first, "hypothesis": second, "id": str(i)} for i, (first, second) in enumerate(PAIRS)]
    assert model.predict(named) == [{"id": str(i)} | one for i, one in enumerate(found)]
    assert model.predict([]) == []


def test_a_texts_words_tags_and_entities(models):
    model = models["token_classification"]
    text = "  The class (of Paris), U.S. file."
    (found,) = model.predict([text])
    assert found["words"] == ["The", "class", "(", "of", "Paris", ")", ",", "U.S", ".", "file", "."]
    pieces = [model.tokenizer.encode_ids(word) for word in found["words"]]
    encoder, hidden = alone(
        model, [model.tokenizer.cls_id, *itertools.chain.from_iterable(pieces), model.tokenizer.sep_id]
    )
    best = np.argmax(encoder.apply({"params": model.params}, hidden, method="classify")[0], -1)
    firsts = np.cumsum([1, *map(len, pieces[:-1])])
    assert found["tags"] == [TAGS[best[at]] for at in firsts]
    assert any(tag != "O" for tag in found["tags"])
    for entity in found["entities"]:
        assert entity["text"] == text[entity["start"] : entity["end"]]
    words = ["The", "class", "has", "no", "name"]
    (given,) = model.predict([words])
    assert given["words"] == words
    assert all(one["text"] == " ".join(words)[one["start"] : one["end"]] for one in given["entities"])
    (long,) = model.predict([["class", "name"] * 400], max_length=32)
    assert len(long["tags"]) == 800


@pytest.mark.parametrize("context", [CONTEXT, f" \u3000{CONTEXT} " * 30, "文件名不能为空。" * 20, "ชื่อไฟล์ว่างเปล่า" * 9])
def test_an_answer_is_cut_from_its_text(models, context):
    (found,) = models["question_answering"].predict(
        [("What has a name?", context)], max_length=64, stride=16, max_question=24
    )
    assert found["answer"] == context[found["start"] : found["end"]]
    assert found["n_best"][0]["text"] == found["answer"]
    assert sum(one["probability"] for one in found["n_best"]) == pytest.approx(1)
    shares = [one["probability"] for one in found["n_best"]]
    assert shares == sorted(shares, reverse=True)
    assert all(one["text"] == context[one["start"] : one["end"]] for one in found["n_best"])


def test_the_most_similar_sentence_is_found_without_a_head(models):
    model = models["none"]
    texts = [first for first, _ in PAIRS]
    found = model.predict(list(zip(texts, texts[::-1], strict=True)), layer=1)
    vectors = model.encode(texts, layer=1, normalize=True)
    for i, one in enumerate(found):
        best = int(np.argmax(vectors[::-1] @ vectors[i]))
        assert (one["index"], one["found"]) == (best, texts[::-1][best])
        assert one["cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("head", "rows", "keys", "message"),
    [
        ("sequence_classification", "a b", {}, "rows is a single one; put it into a list"),
        ("sequence_classification", ["ab"], {}, r"rows\[0\] must have sentence1, sentence2; got 'ab'"),
        ("sequence_classification", [("a", "b"), ("a", " ")], {}, r"rows\[1\]: sentence2 is empty"),
        ("sequence_classification", [("a", 1)], {}, r"rows\[0\]: sentence2 is int, not text"),
        ("sequence_classification", [("a", "\ud800")], {}, r"rows\[0\]: sentence2 is not valid Unicode"),
        ("sequence_classification", [("a", "b")], {"max_len": 8}, "max_len"),
        ("sequence_classification", [("a", "b")], {"max_length": 4}, "max_length is 4"),
        ("sequence_classification", [("a", "b")], {"max_length": 4000}, "the model has positions for 512"),
        ("sequence_classification", [("a", "b")], {"objective": "nothing"}, "no task 'nothing'"),
        ("sequence_classification", [("a", "b")], {"objective": "mlqa"}, "answering questions needs"),
        ("sequence_classification", [("a", "b")], {"objective": "mmlm"}, "mmlm is no task that answers"),
        ("token_classification", [["a", ""]], {}, r"rows\[0\]: text is neither a text nor a list of words"),
        ("question_answering", [("q", "")], {}, r"rows\[0\]: context is empty"),
        ("question_answering", [("q", "c")], {"max_length": 32}, "no room for a text"),
        ("none", [("q", 3)], {}, r"rows\[0\]: candidate is int, not text"),
    ],
)
def test_what_cannot_be_predicted_is_said(models, head, rows, keys, message):
    with pytest.raises(ValueError, match=message):
        models[head].predict(rows, **keys)


@pytest.mark.parametrize("head", HEADS)
def test_the_command_writes_the_same_answers(models, folders, head, tmp_path):
    rows = {
        "sequence_classification": PAIRS,
        "token_classification": [(first,) for first, _ in PAIRS],
        "question_answering": [("What?", CONTEXT), ("Which file?", CONTEXT)],
        "none": PAIRS,
    }[head]
    source, target = tmp_path / "rows.tsv", tmp_path / "out" / "answers.jsonl"
    source.write_text("".join("\t".join(row) + "\n" for row in rows))
    say = (f"--workdir={folders / head}", "--mode=predict", f"--input={source}", f"--output={target}")
    status, shown, _ = command(*say)
    assert (status, shown.splitlines()[-1]) == (0, f"{target}: {len(rows)} answers")
    written = [json.loads(line) for line in target.read_text().splitlines()]
    loaded = ernie_m_jax.load(folders / head)
    expected = loaded.predict([row if len(row) > 1 else row[0] for row in rows])
    assert json.dumps(rounded(written)) == json.dumps(rounded(expected))
    source.write_text("a\tb\nc\td\te\tf\n" if head != "token_classification" else "a\n\n")
    status, _, said = command(*say)
    assert (status, said.startswith(f"error: {source}:2: ")) == (2, True)
    assert len(target.read_text().splitlines()) == len(rows)  # what was there stays


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def test_a_wrong_name_of_output_and_no_output(folders, tmp_path):
    (tmp_path / "a.txt").write_text("a b\n")
    say = (f"--workdir={folders / 'token_classification'}", "--mode=predict", f"--input={tmp_path / 'a.txt'}")
    for given, message in (
        (say, "--output=FILE is missing; --mode=predict needs it"),
        ((*say, f"--output={tmp_path / 'a.tsv'}"), "must end in '.jsonl'"),
        ((*say[:2], f"--output={tmp_path / 'a'}"), "no evaluation of a task's test split"),
    ):
        status, _, said = command(*given)
        assert (status, said.count("\n"), message in said) == (2, 1, True)


@pytest.mark.parametrize(
    ("name", "stated", "other"),
    [
        ("xnli", base.sentence_pairs, {"train_languages": ()}),
        ("pawsx", base.sentence_pairs, {"train_languages": ()}),
        ("conll", base.tagged_words, {"train_languages": ()}),
        ("mlqa", base.question_answering, {"train_languages": (), "scoring": "squad"}),
    ],
)
def test_keys_without_a_config_are_the_configs_defaults(name, stated, other):
    task = tasks.load(name)
    assert dict(task.use.keys) == {"task": "", **stated().to_dict(), **other}
