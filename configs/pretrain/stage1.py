"""Stage 1: MMLM, TLM and CAMLM on your own monolingual and parallel text.

Command: python -m ernie_m_jax.main --config=configs/pretrain/stage1.py:size=base --workdir=runs/stage1
  --config.tokenizer.path=TOKENIZER --config.languages=en,de,fr
  --config.data.monolingual.text.path='text/{language}.txt' --config.data.parallel.pairs.path='pairs/{pair}.{language}'
Arguments: size=tiny (tries data and a config out, on a CPU), size=small (the least that is worth comparing objectives
with, on one GPU, or on a CPU with patience), size=base (default) or size=large (the paper's, on many accelerators).
Without tokenizer.path a tokenizer of model.vocab_size entries is trained on the data. A path may also name ArrayRecord
files ('text/{language}.array_record') or a TFDS dataset ("tfds:NAME"): ernie_m_jax/data/records.py.
Hardware, time and result: not yet run. The paper starts from XLM-R; configs/pretrain/continue.py does so.
"""

from configs import base, recipes

WEIGHTS = {"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0}


def get_config(argument: str = ""):
    """Stage 1 at one of the sizes."""
    (size,) = base.parse(argument, size=base.SIZE)
    config = recipes.pretraining(size)
    config.stages.stage1 = recipes.pretraining_stage(size, WEIGHTS)
    return config
