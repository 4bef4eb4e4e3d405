"""MLQA's configs: what is refused, the original's recipe, the paper's table; and a run that learns."""

import json

import pytest

from configs import base
from configs.finetune import mlqa as mlqa_config
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import mixture
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.finetune import answer_scoring
from ernie_m_jax.training import run
from tests.mlqa_questions import bound, tree


def tree_with_evaluation(**task_keys):
    evaluation = {"kind": "task", "every": 0, "start": False, "batch_size": 4, "objective": "mlqa", "splits": ("test",)}
    # Two layers: unrolled is faster on a CPU.
    return tree(task_keys, evals={"mlqa": evaluation}, compute__scan_layers=False)


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
