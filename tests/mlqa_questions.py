"""MLQA's task on a small model, and a text with questions for it."""

import numpy as np

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.task import Record
from tests.conftest import small_tree

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
