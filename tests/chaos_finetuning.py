"""`python -m tests.chaos finetuning`: fine-tuning with model selection that is killed again and again."""

import pathlib

from tests import labelled_files
from tests.chaos_kills import kills
from tests.chaos_runs import Report, Run

LANGUAGES = ("en", "de")
MOMENTS = (
    *("compilation", "step", "selecting evaluation", "prediction files", "save"),
    *("writing of selected.json", "deletion of old steps"),
)
STEPS = 24


def finetuning(rounds: int, seed: int, folder: pathlib.Path) -> Report:
    """Kills runs that select."""
    return kills(rounds, seed, folder, prepared(folder))


def prepared(folder: pathlib.Path) -> Run:
    """XNLI on small files: evaluated every 4 steps on dev, saved there where it is the best, and every 3."""
    labelled_files.write_xnli(folder, LANGUAGES, 60, 30, 24)
    paths = {"train": "XNLI-MT-1.0", "dev": "XNLI-1.0", "test": "XNLI-1.0"}
    arguments = (
        "--config=configs/finetune/xnli.py:size=tiny",
        f"--config.tokenizer.path={tokenizer(folder / 'tokenizer')}",
        "--config.model.vocab_size=800",
        "--config.model.num_layers=1",
        "--config.model.hidden_size=32",
        "--config.model.ffn_size=48",
        *(f"--config.objectives.xnli.{split}={folder / name}" for split, name in paths.items()),
        f"--config.languages={','.join(LANGUAGES)}",
        "--config.objectives.xnli.max_length=64",
        "--config.data.sequence_length=64",
        "--config.data.virtual_streams=4",
        "--config.data.packing_bins=4",
        "--config.train.batch_size=4",
        "--config.train.log_every=2",
        "--config.train.save_every=3",
        "--config.train.max_to_keep=2",
        f"--config.stages.finetune.steps={STEPS}",
        # So much that the best step is another after most evaluations, and at the end not the last one.
        "--config.stages.finetune.learning_rate=2e-2",
        "--config.model.initializer_range=0.08",
        "--config.optimizer.layer_decay=1.0",
        "--config.evals.dev.every=4",
    )
    return Run("fine-tuning", arguments, MOMENTS, instants=3)


def tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """One of the bundled text."""
    from ernie_m_jax import config as configs
    from ernie_m_jax.data import mixture
    from ernie_m_jax.tokenizer import train
    from tests.conftest import small_tree

    train(mixture.Sources(configs.resolve(small_tree())).texts(), 800, folder)
    return folder
