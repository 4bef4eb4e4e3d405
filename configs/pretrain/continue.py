"""ERNIE-M from a released model, on your own languages, on one GPU: stage 1 aligns them, stage 2 adds BTMLM.

Command: python -m ernie_m_jax.main --config=configs/pretrain/continue.py:gpu=24,init=xlm-roberta --workdir=runs/mine
  --config.languages=en,sw,yo --config.data.monolingual.text.path='text/{language}.txt'
  --config.data.parallel.pairs.path='OPUS.{pair}.{language}' --config.data.parallel.pairs.pairs=en-sw,en-yo
  --config.init.params=xlm-roberta-base --config.tokenizer.path=xlm-roberta-base
Only the languages and the paths are yours to give; init.params and tokenizer.path, the folder of the released model
with its tokenizer, are by default xlm-roberta-base (ernie-m-base with init=ernie-m, -large with size=large). Without
data.parallel.pairs.pairs every pair of the languages is read.
Arguments, joined by commas:
  gpu=24 (default), 40 or 80: the GPU's memory in GB; decides how many rows are computed at a time, nothing else.
  init=xlm-roberta (default) or ernie-m. XLM-R brings its MLM head; ERNIE-M's was not released and starts from scratch.
  size=base (default) or large, as the released models; small and tiny for models of your own.
Memory of the largest step (arguments and temporary buffers) as --mode=compile states it for a CPU, an estimate
of what a GPU needs: base 13.4, 21.9 and 38.9 GiB with gpu=24, 40 and 80; large 15.1, 29.1 and 48.0 GiB.
Hardware, time and result: not yet run.
"""

from configs import base, recipes

# Rows of 512 tokens computed at a time, by size and GB of memory; batch_size is a multiple of each.
ROWS = {
    "tiny": {"24": 64, "40": 64, "80": 64},
    "small": {"24": 64, "40": 64, "80": 64},
    "base": {"24": 32, "40": 64, "80": 128},
    "large": {"24": 8, "40": 32, "80": 64},
}
STYLES = {"xlm-roberta": "xlm-roberta", "ernie-m": "ernie"}


def get_config(argument: str = ""):
    """The two stages of ERNIE-M, shorter than from scratch and at half the learning rate (ours)."""
    gpu, init, size = base.parse(argument, gpu=("24", "40", "80"), init=tuple(STYLES), size=base.SIZE)
    config = recipes.pretraining(size)
    released = f"{init}-{size}"
    config.init.params = released
    config.tokenizer.path = released
    config.tokenizer.style = STYLES[init]
    if init == "ernie-m":
        config.init.fresh = (*config.init.fresh, "mlm_head")
    config.train.batch_size = 256
    config.train.grad_accumulation_steps = 256 // ROWS[size][gpu]
    config.data.virtual_streams = 16
    rate = recipes.SCALES[size]["stage"]["learning_rate"]
    first = {"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0}
    config.stages.stage1 = recipes.pretraining_stage(
        size, first, steps=20_000, warmup_steps=1_000, learning_rate=rate / 2, final_fraction=0.5
    )
    config.stages.stage2 = recipes.pretraining_stage(
        size, {**first, "btmlm": 1.0}, steps=10_000, warmup_steps=0, learning_rate=rate / 4
    )
    return config
