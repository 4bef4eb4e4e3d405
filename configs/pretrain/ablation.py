"""The paper's ablation over objectives: exp1 MMLM, exp2 + TLM, exp3 MMLM + CAMLM, exp4 + BTMLM, exp5 all four.

Command: python -m ernie_m_jax.main --config=configs/pretrain/ablation.py:exp3 --workdir=runs/exp3, and stage 1's data
Arguments: exp1 to exp5. BTMLM needs a generator, so exp4 and exp5 train the others alone for the first half of the
steps.
Hardware, time and result: not yet run.
"""

from configs import base

EXPERIMENTS = {
    "exp1": ("mmlm",),
    "exp2": ("mmlm", "tlm"),
    "exp3": ("mmlm", "camlm"),
    "exp4": ("mmlm", "camlm", "btmlm"),
    "exp5": ("mmlm", "tlm", "camlm", "btmlm"),
}


def get_config(argument: str = "exp5"):
    """One experiment of the ablation, at base size."""
    if argument not in EXPERIMENTS:
        raise ValueError(f"argument {argument!r}: expected one of {', '.join(EXPERIMENTS)}")
    config = base.pretraining("base")
    names = EXPERIMENTS[argument]
    first = {name: 1.0 for name in names if name != "btmlm"}
    config.stages.stage1 = base.stage(steps=100_000, weights=first, final_fraction=0.5)
    config.stages.stage2 = base.stage(
        steps=100_000, weights=dict.fromkeys(names, 1.0), learning_rate=1e-4, warmup_steps=0
    )
    return config
