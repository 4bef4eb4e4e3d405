"""PAWS-X, paraphrases in 7 languages (Yang et al. 2019): do the two sentences mean the same? 1: yes, 0: no.

Files: the published `x-final` folder, XTREME's folders or TFDS (`paws_x_wiki`); `data/labelled.py` describes them.
"""

from ernie_m_jax.finetune.sentence_pairs import Labels

LABELS = Labels(
    names=("0", "1"),
    aliases={},
    paper="pawsx",
    languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
    origin="Unpack https://storage.googleapis.com/paws/pawsx/x-final.tar.gz and name its folder x-final",
)
TASK = LABELS.task()
