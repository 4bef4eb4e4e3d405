"""MLQA: fine-tuned on SQuAD 1.1 in English (cross-lingual transfer), answers questions in 7 languages.

Command: python -m ernie_m_jax.main --config=configs/finetune/mlqa.py:size=base,mode=transfer,seed=0 --workdir=runs/mlqa
Arguments, joined by commas:
  size=base (default), large, small or tiny.
  mode=transfer: trained on English, the only one the paper has.
  seed=0; the paper's figures are means of five.
  init=PATH: a run or converted model of this project, or a released model's folder (default: ernie-m-base or -large).
Data: train-v1.1.json of SQuAD in a folder squad, and MLQA_V1, unpacked, both in the current directory;
--config.objectives.mlqa.train=PATH and the like name others (XTREME's folders, tfds:squad/v1.1, tfds:mlqa/{language};
data/squad.py). For XQuAD: --config.objectives.mlqa.test=xquad.{language}.json --config.objectives.mlqa.scoring=squad
Recipe of the original code for base and large: windows of 384 tokens, one every 128; 2 epochs of batches of 32,
learning rate 3e-4 (large 8e-5), layer decay 0.8 (large 0.9), no weight decay, warm-up over a tenth. A batch here is
packed rows that hold about as many windows. The result is the checkpoint whose F1 is best on dev, mean of all languages
(ours: the paper does not say of which). tiny and small, on a CPU, are ours: batches of 4 rows, no layer decay.
Hardware, time and result: not yet run at base or large. tiny with 3 layers, trained on 200 paragraphs of XQuAD in eight
languages for 34 minutes on a CPU core, reaches F1 16.7; what needs no model has 16.3 (benchmarks/xquad_small.py).
"""

from configs import base, recipes

LANGUAGES = ("en", "es", "de", "ar", "hi", "vi", "zh")
RATES = {"base": 3e-4, "large": 8e-5}


def get_config(argument: str = ""):
    """MLQA at a size."""
    size, _, seed, init = base.parse(argument, size=base.SIZE, mode=("transfer",), seed="0", init="")
    config = recipes.finetuning(size, (), init, seed, head="question_answering")
    config.languages = LANGUAGES
    config.objectives = {"mlqa": base.question_answering(train="squad", dev="MLQA_V1", test="MLQA_V1")}
    recipes.finetune_on(config, "mlqa", size, epochs=2.0, rows=8, metric="f1")
    config.stages.finetune.learning_rate = RATES.get(size, config.stages.finetune.learning_rate)
    config.optimizer.layer_decay = {"base": 0.8, "large": 0.9}.get(size, 1.0)
    config.data.sequence_length = 384
    config.train.batch_size = 16 if size in RATES else 4  # packed rows; SQuAD's windows have about 180 tokens
    config.data.virtual_streams = 8 if size in RATES else 4
    config.evals.dev.every = 500  # steps; two epochs are about 5,500
    return config
