"""A labelled task for the arms of `ablation.py`, by fine-tuning in English: to which group does a message belong?

    python -m ernie_m_jax.main --config=benchmarks/ablation_groups.py:init=runs/messages/camlm-0,data=groups \
        --workdir=runs/groups/camlm-0

The whole encoder and a new head learn from the English texts of all messages that are not held out (1,454, in 13 groups
of the compiler's numbers); accuracy is that of the held-out ones in every language. The English ones of development
choose the checkpoint, as of a user who has labels in English alone. `benchmarks/ablation_finetuned.py` writes the files
and runs the arms.
"""

from configs import base, recipes
from ernie_m_jax.finetune.sentence_pairs import Labels

GROUPS = ("1", "2", "4", "5", "6", "7", "8", "9", "17", "18", "80", "90", "95")
LANGUAGES = ("en", "de", "fr", "ru")
TASK = Labels(GROUPS).task()


def get_config(argument: str = ""):
    """Fine-tuning from an arm's run; seed=N is of the head and of the order."""
    init, data, seed = base.parse(argument, init="", data="groups", seed="0")
    config = recipes.finetuning("tiny", GROUPS, init, seed)
    config.languages = LANGUAGES
    files = {split: f"{data}/{split}-{{language}}.tsv" for split in ("train", "dev", "test")}
    keys = base.sentence_pairs(task="benchmarks.ablation_groups", train_languages=LANGUAGES[:1], **files)
    config.objectives = {"groups": keys}
    recipes.finetune_on(config, "groups", "tiny", epochs=20.0, rows=8)
    config.evals.dev.every = 50  # steps, about an epoch
    config.train.select = f"dev/dev/{LANGUAGES[0]}/accuracy"
    config.compute.update({"scan_layers": False, "vocab_chunk": 0})  # faster for few layers on a CPU
    config.optimizer.layer_decay = 1.0
    return config
