"""Tatoeba: sentences found across 36 languages, zero-shot by layer, and fine-tuned on parallel pairs.

Command: python -m ernie_m_jax.main --config=configs/finetune/tatoeba.py:size=base,init=ernie-m-base
  --mode=evaluate --workdir=runs/tatoeba-zero   (zero-shot)
  or python -m ernie_m_jax.main --config=configs/finetune/tatoeba.py:size=base,init=ernie-m-base
  --workdir=runs/tatoeba --config.data.parallel.pairs.path='OPUS.{pair}.{language}'   (fine-tuned)
Arguments, joined by commas:
  size=base (default), large, small or tiny.
  loss=hardest (default: the paper's hardest-negative binary cross-entropy) or infonce.
  seed=0.
  init=PATH: a run or converted model of this project, or a released model's folder (default: ernie-m-base or -large).
Data: Tatoeba as XTREME lays it out, tatoeba/LANGUAGE-en.LANGUAGE and .en; other files of two languages by
  --config.evals.tatoeba.source.path. For fine-tuning parallel text between English and the languages.
Recipe: the paper gives the vectors (mean over tokens of layer 7 of 12, 13 of 24) and the loss; the rest is ours: 5,000
  steps of 32 packed rows, learning rate 2e-5, layer decay 0.8, temperature 0.05. tiny and small, on a CPU: 400 steps of
  16 rows of 128 tokens, no layer decay, learning rate 1e-3 (hardest: 2e-4).
Hardware, time and result: not yet run at base or large. tiny on one core of an AMD EPYC, 2026-11-26, from a model of
  four minutes: infonce on twelve languages takes accuracy on eleven others from 0.5 to 2.2 %, hardest to 0.3 % (with
  1e-3 to 0.2 %, all vectors being orthogonal): it needs a better start (benchmarks/tatoeba_small.py).
"""

from configs import base, recipes

LANGUAGES = (
    *("af", "ar", "bg", "bn", "de", "el", "es", "et", "eu", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja"),
    *("jv", "ka", "kk", "ko", "ml", "mr", "nl", "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi", "zh"),
)


def get_config(argument: str = ""):
    """Tatoeba at a size and with a loss."""
    size, loss, seed, init = base.parse(argument, size=base.SIZE, loss=("hardest", "infonce"), seed="0", init="")
    config = recipes.finetuning(size, (), init, seed)
    config.languages = (*LANGUAGES, "en")
    config.model.head = "none"
    config.model.pooler = False
    config.model.num_labels = 2
    config.init.drop = (*config.init.drop, "pooler")
    layer = config.model.num_layers // 2 + 1  # 7 of 12, 13 of 24 (paper)
    full = size in ("base", "large")
    pairs = tuple(f"{language}-en" for language in LANGUAGES)
    config.data.parallel.pairs = base.source("pairs/{pair}.{language}", pairs=pairs)
    config.data.sampling_exponent = 0.7
    config.objectives = {
        "tatoeba": {
            "layer": layer,
            "loss": loss,
            "temperature": 0.05,  # of the cosine
            "max_length": 128 if full else 64,  # tokens of a sentence
        }
    }
    config.stages.finetune = base.stage(
        steps=5_000 if full else 400,
        weights={"tatoeba": 1.0},
        learning_rate=2e-5 if full else {"hardest": 2e-4, "infonce": 1e-3}[loss],
        warmup_steps=0,
        warmup_fraction=0.1,
    )
    config.optimizer.layer_decay = 0.8 if full else 1.0
    config.compute.dtype = "bfloat16" if full else "float32"
    config.data.sequence_length = 256 if full else 128
    config.train.batch_size = 32 if full else 16
    source = base.source("tatoeba/{pair}.{language}", pairs=pairs)
    config.evals.tatoeba = base.evaluation(
        "retrieval", source=source, layer=layer, every_layer=True, every=1_000, paper=True
    )
    return config
