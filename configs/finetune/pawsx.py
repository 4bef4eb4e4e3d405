"""PAWS-X: fine-tuned on English (cross-lingual transfer) or on all languages' translations, scored in 7 languages.

Command: python -m ernie_m_jax.main --config=configs/finetune/pawsx.py:size=base,mode=transfer --workdir=runs/pawsx
Arguments, joined by commas:
  size=base (default), large, small or tiny; the last two need init.
  mode=transfer (default: trained on English) or all (translate-train-all).
  seed=0; the paper's figures are means of five.
  init=PATH: a run or converted model of this project, or a released model's folder (default: ernie-m-base or -large).
Data: the folder x-final of PAWS-X, unpacked in the current directory; --config.objectives.pawsx.train=PATH and the
like name others (XTREME's folder, tfds:paws_x_wiki/{language}, your own table; data/labelled.py).
Recipe: ours, for the original has no script for this task: that of its XNLI. 5 epochs of about 32 pairs (all: 2 of
128), learning rate 5e-5, layer decay 0.8, no weight decay, warm-up over a tenth; the checkpoint that is best on dev,
mean of all languages.
Hardware, time and result: not yet run at base or large.
"""

from configs import base, recipes

LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "zh")


def get_config(argument: str = ""):
    """PAWS-X at a size and in a mode."""
    size, mode, seed, init = base.parse(argument, size=base.SIZE, mode=("transfer", "all"), seed="0", init="")
    config = recipes.finetuning(size, ("0", "1"), init, seed)
    config.languages = LANGUAGES
    config.objectives = {
        "pawsx": base.sentence_pairs(
            train="x-final",
            dev="x-final",
            test="x-final",
            train_languages=LANGUAGES if mode == "all" else ("en",),
        )
    }
    recipes.finetune_on(
        config, "pawsx", size, epochs=5.0 if mode == "transfer" else 2.0, rows=32 if mode == "all" else 8
    )
    return config
