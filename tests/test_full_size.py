"""The full-size base configs of every fine-tuning task take a step on two cores in 24 GB."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from tests import labelled_files
from tests.command import ROOT, command

ENTRIES = 250_002  # of the released vocabulary
MEMORY = 24 << 30  # bytes


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path, tmp_path_factory):
    """The tests' tokenizer, with entries that no text has between its own and the mask."""
    folder = tmp_path_factory.mktemp("full") / "tokenizer"
    shutil.copytree(tokenizer_path, folder)
    *entries, mask = (folder / "vocab.txt").read_text("utf-8").splitlines()
    more = [f"\u2581none{number}" for number in range(ENTRIES - len(entries) - 1)]
    (folder / "vocab.txt").write_text("\n".join([*entries, *more, mask]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    labelled_files.write_xnli(folder, ("en",), 24, 4, 4)
    labelled_files.write_pawsx(folder, ("en",), 24, 4, 4)
    sentence = "Ana B-PER\nvisits O\nMelilla B-LOC\n\n"
    for split in ("train", "testa", "testb"):
        (folder / f"eng.{split}").write_text(sentence * 24)
    text = "The file is in the folder. " * 20
    questions = [
        {"id": str(i), "question": f"Where is file {i}?", "answers": [{"text": "in the folder", "answer_start": 12}]}
        for i in range(24)
    ]
    squad = {"data": [{"paragraphs": [{"context": text, "qas": questions}]}]}
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / name).write_text(json.dumps(squad))
    for code in ("en", "de"):
        (folder / f"de-en.{code}").write_text("".join(f"{code} sentence number {i} of a text\n" for i in range(64)))
    return folder


def arguments(task, data):
    own = {
        "xnli": {"train": "XNLI-MT-1.0", "dev": "XNLI-1.0", "test": "XNLI-1.0"},
        "pawsx": {"train": "x-final", "dev": "x-final", "test": "x-final"},
        "conll": {"train": "", "dev": "", "test": ""},
        "mlqa": {"train": "train-v1.1.json", "dev": "dev-v1.1.json", "test": "dev-v1.1.json"},
    }
    if task == "tatoeba":
        paths = ("data.parallel.pairs", "evals.tatoeba.source")
        return [
            "--config.languages=de,en",
            *(f"--config.{path}.path={data}/{{pair}}.{{language}}" for path in paths),
            *(f"--config.{path}.pairs=de-en" for path in paths),
            "--config.stages.finetune.steps=1",
        ]
    return [
        *(f"--config.objectives.{task}.{split}={data / name}" for split, name in own[task].items()),
        "--config.languages=en",
        "--config.stages.finetune.epochs=0",
        "--config.stages.finetune.steps=1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["xnli", "pawsx", "conll", "mlqa", "tatoeba"])
def test_a_base_model_takes_a_step_in_24_gb(task, tokenizer, data, tmp_path):
    given = [
        f"--config=configs/finetune/{task}.py:size=base",
        f"--workdir={tmp_path}",
        "--config.init.params=",
        f"--config.tokenizer.path={tokenizer}",
        "--config.compute.dtype=float32",  # bfloat16 is emulated on a CPU
        "--config.train.save_every=0",
        *arguments(task, data),
    ]
    pid = os.posix_spawn(
        sys.executable,
        command(*given),
        os.environ | {"PYTHONPATH": str(ROOT)},
        file_actions=[],
    )
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    assert used.ru_maxrss * 1024 < MEMORY
    (line,) = [
        found
        for text in (tmp_path / "finetune" / "metrics.jsonl").read_text().splitlines()
        if "loss" in (found := json.loads(text)) and "eval" not in found
    ]
    assert np.isfinite(line["loss"])
    print(f"{task}: loss {line['loss']:.3f}, {used.ru_maxrss / (1 << 20):.1f} GiB")
