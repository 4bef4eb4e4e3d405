"""Stage 1 at the size of the paper: MMLM, TLM and CAMLM on your own monolingual and parallel text.

Command: python -m ernie_m_jax.main --config=configs/pretrain/stage1.py:size=base --workdir=runs/stage1
  --config.tokenizer.path=TOKENIZER --config.languages="('en','de','fr')"
  --config.data.monolingual.text.path='text/{language}.txt' --config.data.parallel.pairs.path='pairs/{pair}.{language}'
Arguments: size=base or size=large.
Hardware, time and result: not yet run. The paper starts from XLM-R; so does a run with
`--config.init.params=xlm-roberta-base --config.tokenizer.path=xlm-roberta-base --config.tokenizer.style=xlm-roberta`.
"""

from configs import base

WEIGHTS = {"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0}


def get_config(argument: str = "size=base"):
    """Stage 1 for a size of the paper."""
    size, learning_rate = base.parse_size(argument)
    config = base.pretraining(size)
    config.stages.stage1 = base.stage(weights=WEIGHTS, learning_rate=learning_rate)
    return config
