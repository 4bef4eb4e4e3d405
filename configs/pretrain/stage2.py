"""Stage 2 at the size of the paper: all four objectives, from stage 1's checkpoint.

Command: python -m ernie_m_jax.main --config=configs/pretrain/stage2.py:size=base --workdir=runs/stage2
  --config.init.params=runs/stage1, and the tokenizer, languages and data of stage 1
Arguments: size=base or size=large.
Hardware, time and result: not yet run.
"""

from configs import base

WEIGHTS = {"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0, "btmlm": 1.0}


def get_config(argument: str = "size=base"):
    """Stage 2 for a size of the paper."""
    size, learning_rate = base.parse_size(argument)
    config = base.pretraining(size)
    config.stages.stage2 = base.stage(weights=WEIGHTS, learning_rate=learning_rate)
    config.init.params = "runs/stage1"
    return config
