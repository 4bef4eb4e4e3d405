"""A fine-tuned model in use: a user's own rows in, answers out, from Python and by the command."""

import dataclasses
import itertools
import json
import sys

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
        ("sequence_classification", [("a", "b")], {"objective": "conll"}, "tagging needs 'token_classification'"),
        ("sequence_classification", [("a", "b")], {"language": "en"}, "leave language out"),
        (
            "sequence_classification",
            [("a", "b")],
            {"batch_size": 0},
            "batch_size is 0; it must be a whole number from 1",
        ),
        ("sequence_classification", [("a", "b")], {"batch_size": "8"}, "batch_size is '8'"),
        (
            "sequence_classification",
            [("a", "b")],
            {"languages": ["en"]},
            "languages counts in training and scoring alone",
        ),
        ("none", [("a", "b")], {"similarity": "nope"}, "similarity is 'nope'; it must be one of cosine, margin"),
        ("none", [("a", "b")], {"max_len": 3}, "max_len is no key of searching"),
        ("none", [("a", "\ud800")], {}, r"rows\[0\]: candidate is not valid Unicode"),
        ("token_classification", [["a", "\ud800"]], {}, r"rows\[0\]: text is not valid Unicode"),
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
        ((*say, f"--output={tmp_path / 'a.tsv'}"), "must be a file whose name ends in '.jsonl'"),
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
    assert {**task.use.keys, **task.use.fixed} == {"task": "", **stated().to_dict(), **other}


OUTSIDE = "tests.own_use"


@pytest.mark.parametrize(
    ("objectives", "keys", "message"),
    [
        # A folder may come from anyone: no module that it names alone is imported, whatever its entry is called.
        ({"xnli": {"task": OUTSIDE}}, {}, f"xnli is the task {OUTSIDE}, code outside the package"),
        ({"xnli": {"task": OUTSIDE}}, {"objective": "xnli"}, f"to execute it, say '{OUTSIDE}'"),
        ({"mine": {"task": OUTSIDE}}, {}, "mine is the task"),
        ({"xnli": {}, "mine": {"task": OUTSIDE}}, {}, "several objectives can predict: say objective=NAME"),
        ({"xnli": {"max_length": 64}}, {"objective": "pawsx"}, "there is no objective 'pawsx'.*; there are xnli"),
    ],
)
def test_which_of_a_runs_tasks_answers(models, objectives, keys, message):
    model = dataclasses.replace(models["sequence_classification"], objectives=objectives)
    with pytest.raises(ValueError, match=message):
        model.predict(PAIRS, **keys)
    assert OUTSIDE not in sys.modules


def test_the_runs_own_keys_count(models):
    model = models["sequence_classification"]
    long = [("the class name " * 40, "the file " * 40)]
    run = dataclasses.replace(model, objectives={"xnli": {"max_length": 24}, "mlm": {"task": "mmlm"}})
    assert run.predict(long) == model.predict(long, max_length=24) != model.predict(long)
    assert run.predict(long, max_length=48) == model.predict(long, max_length=48)


def test_a_run_scored_by_mlqas_script_answers_in_any_language(models):
    model = models["question_answering"]
    run = dataclasses.replace(model, objectives={"mlqa": {"scoring": "mlqa", "max_length": 96}})
    assert run.predict([("What?", CONTEXT)]) == model.predict([("What?", CONTEXT)], max_length=96)


def test_labels_of_other_kinds(models):
    model = models["token_classification"]
    for labels, names in (((), [f"LABEL_{i}" for i in range(5)]), (tuple("ABCDE"), list("ABCDE"))):
        other = dataclasses.replace(model, config=dataclasses.replace(model.config, labels=labels))
        (found,) = other.predict(["the class name"])
        assert list(found) == ["words", "tags"]
        assert set(found["tags"]) <= set(names)
    twice = dataclasses.replace(model, config=dataclasses.replace(model.config, labels=tuple("AABCD")))
    with pytest.raises(ValueError, match="labels are not all different: A, A, B, C, D"):
        twice.predict(["a"])


def test_numbers_that_are_not_finite_are_no_answers(models):
    model = models["sequence_classification"]
    damaged = dataclasses.replace(model, params=jax.tree.map(lambda array: array * np.nan, model.params))
    with pytest.raises(ValueError, match=r"rows\[0\]: what the model predicts is not finite"):
        damaged.predict(PAIRS)


def test_nothing_is_lost_or_begun_where_a_row_is_bad(folders, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"premise": "a", "hypothesis": "b"}\n{"premise": "a", "hypothesis": " "}\n')
    say = (f"--workdir={folders / 'sequence_classification'}", "--mode=predict", f"--input={source}")
    status, _, said = command(*say, f"--output={source}")
    assert (status, "is the input; name another file" in said) == (2, True)
    status, _, said = command(*say, f"--output={tmp_path / 'out.jsonl'}")
    assert (status, said) == (2, f"error: {source}:2: sentence2 is empty\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    for flag, message in (("--input=", "--input=FILE is missing"), ("--language=de", "leave it out")):
        status, _, said = command(*say, f"--output={tmp_path / 'out.jsonl'}", flag)
        assert (status, message in said) == (2, True)


def test_a_converted_model_keeps_its_runs_keys(models, tmp_path):
    model = dataclasses.replace(models["sequence_classification"], objectives={"xnli": {"max_length": 24}})
    ernie_m_jax.save(tmp_path / "model", model)
    assert ernie_m_jax.load(tmp_path / "model").objectives == {"xnli": {"max_length": 24}}
    source, target = tmp_path / "rows.tsv", tmp_path / "out.jsonl"
    source.write_text("the class name " * 40 + "\t" + "the file " * 40 + "\n")
    say = (f"--workdir={tmp_path / 'model'}", "--mode=predict", f"--input={source}", f"--output={target}")
    assert command(*say)[0] == 0
    expected = model.predict([tuple(source.read_text().rstrip("\n").split("\t"))])
    assert rounded(json.loads(target.read_text())) == rounded(expected[0])


def test_the_head_of_init_params_is_taken_by_its_labels(models, folders, tokenizer_path, tmp_path):
    source, target = tmp_path / "rows.tsv", tmp_path / "out.jsonl"
    source.write_text("".join("\t".join(row) + "\n" for row in PAIRS))
    say = (
        f"--config=configs/finetune/xnli.py:size=tiny,init={folders / 'sequence_classification'}",
        f"--workdir={tmp_path / 'empty'}",
        "--mode=predict",
        f"--input={source}",
        f"--output={target}",
    )
    assert command(*say)[0] == 0  # the config's labels stand in another order
    found = [json.loads(line) for line in target.read_text().splitlines()]
    expected = models["sequence_classification"].predict(PAIRS)
    for one, other in zip(found, expected, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    target.unlink()
    status, _, said = command(*say[1:], f"--config=configs/finetune/pawsx.py:size=tiny,init={folders / 'none'}")
    assert (status, "nothing trained to predict with" in said, target.exists()) == (2, True, False)
