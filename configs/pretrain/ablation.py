"""The paper's ablation over objectives: exp1 MMLM, exp2 + TLM, exp3 MMLM + CAMLM, exp4 + BTMLM, exp5 all four.

Command: python -m ernie_m_jax.main --config=configs/pretrain/ablation.py:experiment=exp3 --workdir=runs/exp3, and stage
  1's data
Arguments: experiment=exp1 to exp5 (default exp5); size=tiny, small, base (default) or large, as stage 1, after a comma:
experiment=exp3,size=small. BTMLM needs a generator, so exp4 and exp5 train the others alone for the first half of the
steps.
Hardware, time and result: not yet run.
"""

from configs import base, recipes

EXPERIMENTS = {
    "exp5": ("mmlm", "tlm", "camlm", "btmlm"),
    "exp4": ("mmlm", "camlm", "btmlm"),
    "exp3": ("mmlm", "camlm"),
    "exp2": ("mmlm", "tlm"),
    "exp1": ("mmlm",),
}


def get_config(argument: str = ""):
    """One experiment of the ablation."""
    experiment, size = base.parse(argument, experiment=tuple(EXPERIMENTS), size=base.SIZE)
    config = recipes.pretraining(size)
    names = EXPERIMENTS[experiment]
    whole = recipes.SCALES[size]["stage"]
    half = whole["steps"] // 2
    config.stages.stage1 = recipes.pretraining_stage(
        size, {name: 1.0 for name in names if name != "btmlm"}, steps=half, final_fraction=0.5
    )
    config.stages.stage2 = recipes.pretraining_stage(
        size, dict.fromkeys(names, 1.0), steps=half, learning_rate=whole["learning_rate"] / 2, warmup_steps=0
    )
    return config
