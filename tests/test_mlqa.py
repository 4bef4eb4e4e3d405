"""MLQA as a task: its windows as examples, and their loss in packed rows."""

import functools

import jax
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import finite, loader
from ernie_m_jax.finetune import mlqa
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.task import Group, Record
from tests.mlqa_questions import CONTEXT, QUESTIONS, bound, record, tree, windows_of
from tests.small_models import random_params

ROWS = 12


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
