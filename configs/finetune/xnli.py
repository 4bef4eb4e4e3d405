"""XNLI: fine-tuned on English (cross-lingual transfer) or on all languages' translations, scored in 15 languages.

Command: python -m ernie_m_jax.main --config=configs/finetune/xnli.py:size=base,mode=transfer,seed=0 --workdir=runs/xnli
Arguments, joined by commas:
  size=base (default), large, small or tiny; the last two need init.
  mode=transfer (default: trained on English) or all (translate-train-all).
  seed=0; the paper's figures are means of five.
  init=PATH: a run or converted model of this project, or a released model's folder (default: ernie-m-base or -large).
Data: XNLI-1.0 and XNLI-MT-1.0, unpacked in the current directory; --config.objectives.xnli.train=PATH and the like
name others (MultiNLI, XTREME's folder, tfds:multi_nli, tfds:xnli, your own table; data/labelled.py).
Recipe of the original code for base and large: pairs of at most 256 tokens, 5 epochs of batches of 32 (all: 2 epochs
of 128, large 1), learning rate 5e-5, layer decay 0.8, no weight decay, warm-up over a tenth. A batch here is packed
rows that hold about as many pairs. The result is the checkpoint that is best on dev, mean of all languages (ours: the
paper does not say of which). tiny and small, on a CPU, are ours.
Hardware, time and result: not yet run at base or large.
"""

from configs import base, recipes

LANGUAGES = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur")


def get_config(argument: str = ""):
    """XNLI at a size and in a mode."""
    size, mode, seed, init = base.parse(argument, size=base.SIZE, mode=("transfer", "all"), seed="0", init="")
    config = recipes.finetuning(size, ("contradiction", "entailment", "neutral"), init, seed)
    config.languages = LANGUAGES
    config.objectives = {
        "xnli": base.sentence_pairs(
            train="XNLI-MT-1.0",
            dev="XNLI-1.0",
            test="XNLI-1.0",
            train_languages=LANGUAGES if mode == "all" else ("en",),
        )
    }
    epochs = 5.0 if mode == "transfer" else 1.0 if size == "large" else 2.0
    # Pairs take 40 to 45 tokens, by our estimate: these rows hold about 32 and 128, the batches of the original.
    recipes.finetune_on(config, "xnli", size, epochs, rows=24 if mode == "all" else 6)
    return config
