"""MLQA as a task: its windows as examples, their loss in packed rows, answers cut from the text, a run that learns."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from configs import base
from configs.finetune import mlqa as mlqa_config
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import finite, loader, mixture
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.finetune import answer_scoring, mlqa
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Group, Record
from ernie_m_jax.training import run
from tests.conftest import small_tree
from tests.small_models import random_params

LENGTH = 64
ROWS = 12
CONTEXT = (
    "The class may not be empty. The file has a name and the type has a value of the module. "
    "It is not in the list of the function."
)
QUESTIONS = (("What has a name?", "The file"), ("What may not be empty?", "The class"), ("What has it?", "a value"))


def keys(**changed):
    return {
        "train": "",
        "dev": "",
        "test": "",
        "train_languages": ("en",),
        "languages": ("en",),
        "max_length": 32,
        "stride": 6,
        "max_question": 8,
        "max_answer": 10,
        "n_best": 20,
        "bad_rows": "error",
        "scoring": "mlqa",
    } | changed


def tree(task_keys=None, **changed):
    return small_tree(
        **{
            "model__head": "question_answering",
            "model__mlm_head": "none",
            "objectives": {"mlqa": keys(**(task_keys or {}))},
            "stages__one__weights": {"mlqa": 1.0},
            "data__monolingual": {},
            "data__parallel": {},
            "evals": {},
        }
        | changed
    )


def bound(task_keys=None, **changed):
    return tasks.bind(configs.resolve(tree(task_keys, **changed)), "mlqa")


def record(question, answer=None, context=CONTEXT, language="en", name="q"):
    fields = {"answers": ((answer, context.index(answer)),)} if answer else {}
    return Record((question, context), (language, language), {"id": name, **fields})


def windows_of(task, tokenizer, one):
    return task.examples(one, tokenizer, np.random.default_rng(0))


@pytest.fixture(scope="module")
def model():
    config = configs.resolve(tree())
    return ErnieM(config.model, config.compute), random_params(config.model)


@pytest.fixture(scope="module")
def task():
    return bound()


# Examples


def test_a_window_is_question_and_part_of_the_text_with_one_separator_between(tokenizer):
    task = bound()
    question, text = (tokenizer.encode_ids(part) for part in ("The name?", CONTEXT))
    made = windows_of(task, tokenizer, record("The name?", "The file"))
    assert len(made) > 2
    begin = len(question) + 2
    for number, one in enumerate(made):
        part = text[number * 6 : number * 6 + 32 - begin - 1]
        expected = [tokenizer.cls_id, *question, tokenizer.sep_id, *part, tokenizer.sep_id]
        assert one["ids"].tolist() == expected
        assert one["positions"].tolist() == list(range(len(expected)))
        assert (one["offsets_host"][:begin] == -1).all()
        assert (one["offsets_host"][-1] == -1).all()
        assert [tuple(pair) for pair in one["offsets_host"][begin:-1]] == tokenizer.encode(CONTEXT).offsets[
            number * 6 : number * 6 + len(part)
        ]
        assert not one["may_start_host"][:begin].any()
    assert sum(one["may_start_host"].sum() for one in made) == len(text)


def test_a_question_is_cut_and_the_text_is_not(tokenizer):
    long = "What has " * 50
    made = windows_of(bound(), tokenizer, record(long, "The file"))
    assert made[0]["ids"].tolist()[:10] == [
        tokenizer.cls_id,
        *tokenizer.encode_ids(long)[:8],
        tokenizer.sep_id,
    ]
    assert sum(one["may_start_host"].sum() for one in made) == len(tokenizer.encode_ids(CONTEXT))


@pytest.mark.parametrize("answer", ["The class", "a name and the type has", "module", CONTEXT])
def test_labels_are_the_answers_first_and_last_token_or_the_windows_first(tokenizer, answer):
    found = []
    for one in windows_of(bound(), tokenizer, record("What?", answer)):
        (start,), (end,) = one["start_at"], one["end_at"]
        if start == 0:
            assert end == 0
            continue
        first, last = one["offsets_host"][start][0], one["offsets_host"][end][1]
        assert CONTEXT[first:last].strip() == answer  # the pieces of this text end where its words do
        found.append(one)
    assert bool(found) == (answer != CONTEXT)  # which is longer than a window


def test_an_answer_that_a_window_has_only_in_part_is_not_in_it(tokenizer):
    answer = "a name and the type has"
    made = windows_of(bound({"max_length": 28, "stride": 3}), tokenizer, record("What?", answer))
    whole = [one for one in made if one["start_at"][0] > 0]
    assert 0 < len(whole) < len(made)
    start = CONTEXT.index(answer)
    for one in made:
        inside = one["offsets_host"][one["offsets_host"][:, 0] >= 0]
        holds = inside[0][0] <= start and inside[-1][1] >= start + len(answer)
        assert holds == (one["start_at"][0] > 0)


def test_the_first_of_repeated_words_is_meant_by_its_place(tokenizer):
    second = CONTEXT.rindex("has a")
    one = Record(("What?", CONTEXT), ("en", "en"), {"id": "q", "answers": (("has a", second),)})
    for made in windows_of(bound({"max_length": 64}, data__sequence_length=64), tokenizer, one):
        assert made["offsets_host"][made["start_at"][0]][0] == second


def test_windows_without_labels_have_none(tokenizer):
    made = windows_of(bound(), tokenizer, record("What?"))
    assert all(len(one["start_at"]) == len(one["end_at"]) == 0 for one in made)
    assert windows_of(bound(), tokenizer, record("What?", context="\u200b")) == []  # nothing that the tokenizer keeps


def test_token_types_and_restarted_positions(tokenizer):
    task = bound(model__num_token_types=2, data__pair_positions="restarted")
    (one, *_) = windows_of(task, tokenizer, record("What?", "The file"))
    begin = len(tokenizer.encode_ids("What?")) + 2
    count = len(one["ids"])
    assert one["token_types"].tolist() == [0] * begin + [1] * (count - begin)
    assert one["positions"].tolist() == [*range(begin), *range(count - begin)]
    assert "token_types" in task.spec()


# Loss


def packed(task, examples):
    """All examples in as few rows as they need, with empty rows behind them to a shape that all tests share."""
    made = [(finite.Origin(0, number, 0), one) for number, one in enumerate(examples)]
    rows = list(finite.rows(made, task.spec()))
    return rows, finite.stack(rows, task.spec(), ROWS)


def all_windows(task, tokenizer):
    return [one for pair in QUESTIONS for one in windows_of(task, tokenizer, record(*pair))]


def test_host_features_are_never_packed(task, tokenizer):
    assert not [name for name in task.spec() if name.endswith(tasks.HOST)]
    _, batch = packed(task, all_windows(task, tokenizer))
    assert batch.keys() == task.spec().keys()

    class Three:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return record(*QUESTIONS[index])

    stream = loader.Loader(task, tokenizer, {"en": Group(Three(), 1.0)})
    row = next(iter(stream.rows(0)))
    assert row.keys() == task.spec().keys()
    traced = stream.state()
    next(stream)
    assert {one.record.fields["id"] for row in stream.trace(traced) for one in row} == {"q"}
    stream.close()


def total(task, model, batch, deterministic=True):
    encoder, params = model
    function = compiled(task, encoder, deterministic)
    return {name: (float(value), float(weight)) for name, (value, weight) in function(params, batch).items()}


@functools.lru_cache
def compiled(task, encoder, deterministic):
    """The task's sums of a batch, compiled once per shape."""
    return jax.jit(lambda params, batch: task.loss(encoder, params, batch, jax.random.key(0), deterministic))


def test_a_packed_row_has_the_loss_of_its_windows_alone(task, tokenizer, model):
    made = all_windows(task, tokenizer)
    rows, together = packed(task, made)
    assert max(len(row) for row in rows) > 1
    found = total(task, model, together)
    alone = [total(task, model, packed(task, [one])[1]) for one in made]
    for name, (value, weight) in found.items():
        assert weight == len(made)
        assert value == pytest.approx(sum(one[name][0] for one in alone), rel=1e-5)
    assert found["loss"][0] / len(made) > 1.0


def test_the_loss_is_the_cross_entropy_over_a_windows_own_tokens(task, tokenizer, model):
    made = all_windows(task, tokenizer)
    rows, batch = packed(task, made)
    encoder, params = model
    predict = jax.jit(lambda params, batch: task.predict(encoder, params, batch))
    logits = {name: np.float64(value) for name, value in predict(params, batch).items()}
    losses, right = [], []
    for number, row in enumerate(rows):
        for placed in row:
            both = []
            for side in ("start", "end"):
                own = finite.cut(placed, "ids", logits[f"ids/{side}"][number])
                at = int(placed.example[f"{side}_at"][0])
                losses.append(np.log(np.exp(own - own.max()).sum()) + own.max() - own[at])
                both.append(own.argmax() == at)
            right.append(all(both))
    found = total(task, model, batch)
    assert found["loss"][0] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert found["accuracy"] == (sum(right), len(made))


def test_windows_without_labels_and_empty_rows_count_nothing(task, tokenizer, model):
    made = all_windows(task, tokenizer)
    unlabelled = windows_of(task, tokenizer, record("What?"))
    rows, batch = packed(task, made + unlabelled)
    assert len(rows) < ROWS
    found = total(task, model, batch)
    assert found["loss"] == (pytest.approx(total(task, model, packed(task, made)[1])["loss"][0], rel=1e-5), len(made))
    empty = total(task, model, finite.stack([], task.spec(), ROWS))
    assert empty == {"loss": (0.0, 0.0), "accuracy": (0.0, 0.0)}


def test_the_gradient_is_finite_and_stays_within_a_window(task, tokenizer, model):
    made = all_windows(task, tokenizer)[:2]
    rows, batch = packed(task, made)
    assert len(rows) == 1
    encoder, params = model
    function = compiled(task, encoder, True)
    gradient = jax.jit(jax.grad(lambda params: function(params, batch)["loss"][0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert float(np.abs(gradient["head"]["kernel"]).max()) > 0


def test_the_loss_of_a_window_does_not_depend_on_the_logits_of_others():
    segments = np.repeat([[1, 2, 3, 0]], 5, axis=1)
    at = np.array([[7, 20]])  # of the second window, and none
    scores = np.float32(np.random.default_rng(0).normal(size=(1, 20)))
    gradient = jax.grad(lambda scores: mlqa.span_losses(scores, at, segments)[0].sum())(scores)
    assert (np.asarray(gradient != 0) == (segments == 2)).all()


def test_dropout_comes_before_the_head_in_training_only(task, tokenizer, model):
    assert model[0].config.hidden_dropout == 0.0  # so that only the task's own dropout is seen
    _, batch = packed(task, all_windows(task, tokenizer))
    expected = total(task, model, batch)
    assert total(task, model, batch, deterministic=False)["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-5)
    dropping = bound(model__hidden_dropout=0.5)
    assert total(dropping, model, batch)["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-5)
    assert total(dropping, model, batch, deterministic=False)["loss"][0] != pytest.approx(expected["loss"][0], rel=1e-2)


# Answers


def oracle(task, tokenizer, one, answer=None, start=None):
    """What a perfect model predicts: 9 at the answer's first and last token in the windows that have it whole."""
    context = one.texts[1]
    start = context.index(answer) if start is None else start
    labelled = dataclasses.replace(one, fields={"answers": ((answer, start),)})
    predictions = []
    for made in windows_of(task, tokenizer, labelled):
        logits = {f"ids/{side}": np.zeros(len(made["ids"]), np.float32) for side in ("start", "end")}
        for side in ("start", "end"):
            logits[f"ids/{side}"][made[f"{side}_at"][0]] = 9.0
        predictions.append(logits | {name: made[name] for name in ("offsets_host", "may_start_host")})
    return predictions


ODD = [
    ("The  file\u00a0 has\ta\n\nname.", "file\u00a0 has\ta\n\nname"),
    ("The file has a name", "name"),
    ("Der Ｆｉｌｅ　ｎａｍｅ ist １２３。", "Ｆｉｌｅ　ｎａｍｅ"),
    ("файл имеет имя, класс пуст", "имя"),
    ("“The type” — has a value…", "The type"),
    ("文件 名称 是 空的 。", "名称"),
    ("ไฟล์ มี ชื่อ", "ไฟล์"),
    ("e\u0301tait cafe\u0301 noir", "cafe\u0301"),
    ("ﬁle has 😀 a 👩‍👩‍👧 value", "👩‍👩‍👧"),
]


@pytest.mark.parametrize(("context", "answer"), ODD)
def test_answers_are_cut_from_the_text_as_it_stands(tokenizer, context, answer):
    task = bound()
    one = record("What?", context=context)
    (found,) = mlqa.answers(task.keys, [one], [oracle(task, tokenizer, one, answer)])
    assert found in context
    assert answer in found  # a piece may reach over an answer's end, but nothing of it is lost
    if answer in ("name", "The type", "имя") or " " in answer or "\t" in answer:
        assert found == answer


def test_an_answer_is_found_in_any_window_of_a_long_text(tokenizer):
    task = bound()
    context = " ".join(f"The class{number} may be {number}." for number in range(60))
    for number in (0, 7, 23, 41, 59):
        answer = f"class{number} may"
        one = record("What?", context=context)
        assert mlqa.answers(task.keys, [one], [oracle(task, tokenizer, one, answer)]) == [answer]


def test_an_answer_longer_than_allowed_is_not_given(tokenizer):
    one = record("What?", context=CONTEXT)
    answer = "The file has a name"
    for most, expected in ((10, True), (2, False)):
        task = bound({"max_answer": most})
        (found,) = mlqa.answers(task.keys, [one], [oracle(task, tokenizer, one, answer)])
        assert (found == answer) == expected


def test_a_question_on_a_text_without_tokens_is_answered_with_nothing(tokenizer):
    assert mlqa.answers(bound().keys, [record("What?", context="\u200b")], [[]]) == [""]


def test_score_and_the_official_file(tokenizer):
    task = bound()
    records = [
        Record((question, CONTEXT), ("en", "en"), {"id": f'"{number}"', "answers": ((answer, CONTEXT.index(answer)),)})
        for number, (question, answer) in enumerate(QUESTIONS)
    ]
    right = [oracle(task, tokenizer, one, answer) for one, (_, answer) in zip(records, QUESTIONS, strict=True)]
    assert task.score(records, right) == {"f1": 100.0, "exact_match": 100.0}
    wrong = [oracle(task, tokenizer, records[0], "The file has"), *right[1:]]
    assert task.score(records, wrong) == {
        "f1": pytest.approx(100 * (2 + 2 / 3) / 3),
        "exact_match": pytest.approx(200 / 3),
    }
    lines = task.task.lines(task.cfg, task.keys, records, right)
    assert json.loads("\n".join(lines)) == {f'"{number}"': answer for number, (_, answer) in enumerate(QUESTIONS)}
    assert len(lines) == len(records) + 2
    assert task.score([record("What?")], [oracle(task, tokenizer, record("What?"), "The file")]) == {}


def test_the_script_of_the_answers_language_scores(tokenizer):
    text = "The file has der Name"
    one = [Record(("What?", text), ("de", "de"), {"id": "1", "answers": (("Name", text.index("Name")),)})]
    predicted = [oracle(bound(), tokenizer, one[0], "der Name")]
    assert bound({"languages": ("de",)}).score(one, predicted)["exact_match"] == 100.0
    assert bound({"languages": ("de",), "scoring": "squad"}).score(one, predicted)["exact_match"] == 0.0


# Config


PROBLEMS = [
    ({"model__head": "token_classification"}, {}, "config.model.head is 'token_classification'"),
    ({}, {"max_length": 65}, "max_length 65 is above config.data.sequence_length 64"),
    ({}, {"max_length": 20, "max_question": 17}, "max_length 20 has no room for a text beside max_question 17"),
    ({}, {"languages": ("en", "fr")}, "languages: fr not among config.languages"),
    ({}, {"train_languages": ("fr",)}, "train_languages: fr not among"),
    ({}, {"languages": ("en", "ru")}, "languages: MLQA's script has no rules for ru"),
    ({"languages": ("en", "ru")}, {"languages": ()}, "languages: MLQA's script has no rules for ru"),
    ({"tokenizer__style": "xlm"}, {}, "config.tokenizer.style 'xlm' cannot say"),
    ({}, {"scoring": "bleu"}, "allowed: mlqa, squad"),
    ({}, {"stride": 0}, "at least 1"),
]


@pytest.mark.parametrize(("changed", "task_keys", "message"), PROBLEMS)
def test_what_does_not_fit_is_said_with_the_config(changed, task_keys, message):
    with pytest.raises(configs.ConfigError) as caught:
        bound(task_keys, **changed)
    assert message in str(caught.value)
    bound({"languages": ("en", "ru"), "scoring": "squad"})


def test_the_papers_row_is_shown_for_what_it_is_comparable_with():
    assert bound().task.paper(None, bound().keys) == ("mlqa", "transfer")
    for changed in ({"scoring": "squad"}, {"train_languages": ("en", "de")}, {"train_languages": ("de",)}):
        assert bound().task.paper(None, bound(changed).keys) is None


def test_the_papers_table_shows_f1_and_exact_match_together():
    task = bound()
    evaluator = TaskEvaluator("mlqa", configs.resolve(tree_with_evaluation()).evals["mlqa"], task, {"test": {}})
    metrics = {"test/en/f1": 81.25, "test/en/exact_match": 68.0, "test/de/f1": 64.0, "test/de/exact_match": 50.0}
    _, table = evaluator.show(metrics, "title")
    rows = {cells[0]: cells for cells in zip(*(map(str, column.cells) for column in table.columns), strict=True)}
    ours = next(cells for name, cells in rows.items() if name.startswith("ours"))
    assert "81.3/68.0" in ours or "81.2/68.0" in ours
    assert "64.0/50.0" in ours
    assert "81.6/68.5" in rows["ERNIE-M"]
    metrics.pop("test/de/exact_match")
    _, table = evaluator.show(metrics, "title")
    assert "64.0" not in str([str(cell) for column in table.columns for cell in column.cells][-8:])


def tree_with_evaluation(**task_keys):
    evaluation = {"kind": "task", "every": 0, "start": False, "batch_size": 4, "objective": "mlqa", "splits": ("test",)}
    # Two layers: unrolled is faster on a CPU.
    return tree(task_keys, evals={"mlqa": evaluation}, compute__scan_layers=False)


@pytest.mark.parametrize(("size", "rate", "decay"), [("base", 3e-4, 0.8), ("large", 8e-5, 0.9)])
def test_the_config_is_the_originals_recipe(size, rate, decay):
    config = configs.resolve(mlqa_config.get_config(f"size={size},mode=transfer,seed=3,init=somewhere"))
    chosen, stage = config.objectives["mlqa"], config.stages["finetune"]
    assert (chosen.max_length, chosen.stride, chosen.max_question) == (384, 128, 64)
    assert (chosen.max_answer, chosen.n_best, chosen.scoring) == (100, 20, "mlqa")
    assert (stage.learning_rate, stage.epochs, stage.warmup_fraction) == (rate, 2.0, 0.1)
    assert (config.optimizer.layer_decay, config.optimizer.weight_decay) == (decay, 0.0)
    assert (config.train.select, config.data.sequence_length, config.seed) == ("dev/dev/f1", 384, 3)
    assert not config.model.pooler
    assert chosen.train_languages == ("en",)
    assert sorted(config.languages) == sorted(answer_scoring.MLQA_LANGUAGES)
    with pytest.raises(ValueError, match="mode=transfer"):
        mlqa_config.get_config("mode=all")


def test_the_config_of_every_size_resolves():
    for size in base.SIZES:
        assert configs.resolve(mlqa_config.get_config(f"size={size}")).model.head == "question_answering"


# A run


@pytest.mark.slow
def test_a_small_model_learns_a_handful_of_questions(tmp_path, tokenizer_path):
    things = ("class", "file", "module", "type", "value", "name")
    articles = []
    for number, thing in enumerate(things):
        other = things[(number + 2) % len(things)]
        context = f"The error is in the {thing} of the function. " * 2 + f"It was not found in the {other}."
        answers = [f"the {other}", f"the {thing}"]
        qas = [
            {"id": f"{number}-{i}", "question": f"{word} {thing}", "answers": [{"text": answer, "answer_start": at}]}
            for i, (word, answer, at) in enumerate(
                [
                    ("Not found", answers[0], context.rindex(answers[0])),
                    ("Error", answers[1], context.index(answers[1])),
                ]
            )
        ]
        articles.append({"paragraphs": [{"context": context, "qas": qas}]})
    path = tmp_path / "own.en.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    template = str(tmp_path / "own.{language}.json")
    config = configs.resolve(
        tree_with_evaluation(train=template, test=template, max_length=30, stride=8)
        | {
            "tokenizer": {"path": str(tokenizer_path), "style": "ernie", "character_coverage": 0.9999},
            "stages": {"one": tree()["stages"]["one"] | {"steps": 80, "learning_rate": 5e-3, "warmup_steps": 10}},
        }
    )
    opened = tasks.bind(config, "mlqa").records(mixture.Sources(config))
    assert {name: len(group.records) for name, group in opened.items()} == {"en": 12}
    run.train(config, tmp_path / "run")
    last = (tmp_path / "run" / "one" / "mlqa.csv").read_text()
    predicted = json.loads((tmp_path / "run" / "one" / "mlqa-predictions" / "test-en.json").read_text())
    expected = {qa["id"]: qa["answers"][0]["text"] for one in articles for qa in one["paragraphs"][0]["qas"]}
    assert predicted.keys() == expected.keys()
    right = sum(predicted[name] == answer for name, answer in expected.items())
    assert right >= 11, predicted
    assert "exact_match" in last
