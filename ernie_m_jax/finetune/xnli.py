"""XNLI, natural language inference in 15 languages (Conneau et al. 2018): does the first sentence entail the second?

Files: XNLI-1.0 (dev, test), XNLI-MT-1.0 (the translated MultiNLI, for training in other languages), MultiNLI (English),
XTREME's folders or TFDS; `data/labelled.py` describes them. `-` as MultiNLI's label means that its annotators did not
agree; such pairs are left out.
"""

from ernie_m_jax.finetune.sentence_pairs import Labels

LABELS = Labels(
    names=("contradiction", "entailment", "neutral"),
    aliases={"contradictory": "contradiction"},  # as XNLI-MT-1.0 spells it
    paper="xnli",
    languages=("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"),
    origin="Unpack XNLI-1.0.zip (dev and test) and XNLI-MT-1.0.zip (train) of https://dl.fbaipublicfiles.com/XNLI/, or "
    "for English training multinli_1.0.zip of https://cims.nyu.edu/~sbowman/multinli/, and name the folder of each, "
    "or the one that holds both",
)
TASK = LABELS.task()
