"""Fine-tuned models that were exported predict here what they predict in the libraries they were exported to.

`golden/record_predictions.py` recorded what transformers and PaddleNLP make of these models and texts: labels by name,
answers, logits, and the ids of their own tokenizers. Here the same folder is exported and loaded
back, and predicts through the tasks' own code, in packed rows.
"""

import dataclasses
import itertools
import json
import re
import unicodedata

import numpy as np
import pytest

import ernie_m_jax
from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.finetune import conll, mlqa, sentence_pairs
from ernie_m_jax.task import Record
from ernie_m_jax.tokenizer.base import Encoding
from ernie_m_jax.tokenizer.sentencepiece import ErnieTokenizer
from tests.conftest import small_tree
from tests.golden import record_predictions as golden

TOLERANCE = 1e-5
CASES = list(itertools.product(golden.TARGETS, golden.INPUTS))


class PaddleNLPTokenizer(ErnieTokenizer):
    """PaddleNLP 2.8's tokenizer: as style "huggingface", but no bare "▁" is ever kept."""

    def encode_ids(self, text):
        return self.encode(text).ids

    def encode(self, text):
        ids, offsets = super().encode(text)
        kept = [i for i, index in enumerate(ids) if self.tokens([index]) != ["▁"]]
        return Encoding([ids[i] for i in kept], [offsets[i] for i in kept])


def records(head):
    """The inputs as the task's records."""
    made = []
    for number, (language, *texts) in enumerate(golden.inputs(head)):
        fields = {"words": tuple(texts), "id": str(number)} if head == "token_classification" else {"id": str(number)}
        texts = (" ".join(texts),) if head == "token_classification" else tuple(texts)
        made.append(Record(texts, (language,) * len(texts), fields))
    return made


def objective(head):
    """Name and keys of the task that has this head."""
    if head == "sequence_classification":
        return "xnli", base.sentence_pairs(max_length=golden.PAIR_LENGTH)
    if head == "token_classification":
        return "conll", base.tagged_words(max_length=golden.MAX_LENGTH)
    return "mlqa", base.question_answering(
        max_length=golden.MAX_LENGTH,
        stride=golden.STRIDE,
        max_question=golden.MAX_QUESTION,
        max_answer=golden.MAX_ANSWER,
        n_best=golden.N_BEST,
        scoring="squad",
    )


def with_logits(cfg, keys, model, params, batch):
    """The logits beside what the task predicts, and the ids that they are of."""
    found = {"ids/id": batch["ids"]}
    if cfg.model.head == "sequence_classification":
        found["class_at/logits"] = sentence_pairs.logits(cfg, model, params, batch)
        return found | sentence_pairs.predict(cfg, keys, model, params, batch)
    if cfg.model.head == "token_classification":
        found["ids/logits"] = conll.logits(model, params, batch)
        return found | conll.predict(cfg, keys, model, params, batch)
    return found | mlqa.predict(cfg, keys, model, params, batch)


def predict(model, given):
    """The lines that the task writes of the records, and what it predicted of each example."""
    name, keys = objective(model.config.head)
    tree = small_tree(
        languages=tuple(dict.fromkeys(record.languages[0] for record in given)),
        model=dataclasses.asdict(model.config),
        data__sequence_length=256,
        objectives={name: keys.to_dict()},
        stages__one__weights={name: 1.0},
        data__monolingual={},
        data__parallel={},
        evals={"scored": base.evaluation("task", objective=name, splits=("test",), batch_size=4).to_dict()},
    )
    tree["objectives"][name]["test"] = "read from memory"
    cfg = configs.resolve(tree)
    bound, seen = tasks.bind(cfg, name), []

    def score(cfg, keys, records, predictions):
        seen.extend(itertools.chain.from_iterable(predictions))
        return bound.task.score(cfg, keys, records, predictions)

    task = dataclasses.replace(bound.task, predict=with_logits, score=score)
    task = tasks.Bound(name, task, cfg, bound.keys)
    evaluator = TaskEvaluator("scored", cfg.evals["scored"], task, {"test": {"all": given}})
    (lines,) = evaluator.run(model.encoder(), model.params, model.tokenizer).files.values()
    return lines, seen


def logits_of(example):
    """As they were recorded: [labels] of a pair, [tokens, labels] or [tokens, 2] otherwise."""
    if "ids/start" in example:
        return np.stack([example["ids/start"], example["ids/end"]], axis=-1)
    return example["class_at/logits"][0] if "class_at/logits" in example else example["ids/logits"]


def expected_lines(head, given, facts, examples):
    """What was recorded, as the task writes it."""
    if head == "sequence_classification":
        return facts["predicted"]
    if head == "token_classification":
        return "\n\n".join("\n".join(tags) for tags in facts["predicted"]).split("\n")
    answers = {}
    for record, (window, first, last, _) in zip(given, facts["predicted"], strict=True):
        offsets = examples[window]["offsets_host"]
        answers[record.fields["id"]] = record.texts[1][offsets[first][0] : offsets[last][1]].strip()
    return json.dumps(answers, ensure_ascii=False, indent=1).split("\n")


def check_texts(answers, given, facts):
    """Our answers are cut from the text; the library's put together from pieces, without some spaces."""
    for record, (*_, pieces) in zip(given, facts["predicted"], strict=True):
        known = (re.escape(plain(part)) for part in pieces.split("[UNK]"))
        assert re.fullmatch(".+".join(known), plain(answers[record.fields["id"]]))


def plain(text):
    """Text as SentencePiece sees it, without its spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize(("library", "head"), CASES)
def test_an_exported_model_predicts_as_it_does_there(library, head, tmp_path):
    facts, rows, logits = golden.read(golden.OUTPUT / f"{library}-{head}.npz")
    golden.export(tmp_path / "out", library, head)
    assert golden.digests(tmp_path / "out") == facts["folder"]  # that is the folder that was loaded there
    stated = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stated["architectures"] == [facts["class"]]
    if golden.NAMES[head]:
        assert stated["id2label"] == facts["labels"]  # what the library had read
        assert stated["label2id"] == {label: int(index) for index, label in facts["labels"].items()}
        assert tuple(facts["labels"].values()) == golden.NAMES[head]
    model = ernie_m_jax.load(tmp_path / "out", style="huggingface")
    assert model.labels == golden.NAMES[head]
    if library == "paddlenlp":
        files = {name: (tmp_path / "out" / name).read_bytes() for name in ErnieTokenizer.required}
        model = dataclasses.replace(model, tokenizer=PaddleNLPTokenizer(files, "huggingface"))
    given = records(head)
    lines, examples = predict(model, given)
    assert [example["ids/id"].tolist() for example in examples] == rows
    error = max(np.abs(logits_of(one) - other).max() for one, other in zip(examples, logits, strict=True))
    print(f"{library} {head}: {len(rows)} rows, {error:.1e}")
    assert error <= TOLERANCE
    assert list(lines) == expected_lines(head, given, facts, examples)
    if head == "question_answering":
        check_texts(json.loads("\n".join(lines)), given, facts)
