"""MLQA's answers, cut from the text as it stands, their scores and the official file of them."""

import dataclasses
import json

import numpy as np
import pytest

from ernie_m_jax.finetune import mlqa
from ernie_m_jax.task import Record
from tests.mlqa_questions import CONTEXT, QUESTIONS, bound, record, windows_of


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
