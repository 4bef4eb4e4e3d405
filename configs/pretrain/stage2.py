"""Stage 2: all four objectives, from stage 1's checkpoint.

Command: python -m ernie_m_jax.main --config=configs/pretrain/stage2.py:size=base --workdir=runs/stage2
  --config.init.params=runs/stage1, and the tokenizer, languages and data of stage 1
Arguments: size=tiny, small, base (default) or large, as stage 1.
Hardware, time and result: not yet run.
"""

from configs import base, recipes

WEIGHTS = {"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0, "btmlm": 1.0}


def get_config(argument: str = ""):
    """Stage 2 at one of the sizes."""
    (size,) = base.parse(argument, size=base.SIZE)
    config = recipes.pretraining(size)
    config.stages.stage2 = recipes.pretraining_stage(size, WEIGHTS)
    config.init.params = "runs/stage1"
    return config
