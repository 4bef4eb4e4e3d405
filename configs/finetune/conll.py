"""CoNLL: named entities, fine-tuned on English (cross-lingual transfer) or on all four languages, scored in each.

Command: python -m ernie_m_jax.main --config=configs/finetune/conll.py:size=base,mode=transfer --workdir=runs/conll
Arguments, joined by commas:
  size=base (default), large, small or tiny.
  mode=transfer (default: trained on English) or all (on all languages' training data).
  seed=0; the paper's figures are means of five.
  init=PATH: a run or converted model of this project, or a released model's folder (default: ernie-m-base or -large).
Data: the folder conll in the current directory, with esp.train, esp.testa, esp.testb and ned.* (CoNLL-2002), eng.* and
deu.* (CoNLL-2003; licensed, a missing one is named with where to get it). --config.objectives.conll.train=PATH and the
like name others, perhaps by language: en=tfds:conll2003,es=tfds:conll2002/es,nl=tfds:conll2002/nl (data/tagged.py).
Without the German texts: --config.objectives.conll.languages=en,nl,es, and with mode=all the same train_languages.
Recipe of the original code for base and large: sentences of at most 512 tokens, 10 epochs of batches of 8, learning
rate 4e-4 (all: 3e-4, large 2e-4), layer decay 0.8 (all with large: 0.9), weight decay 0.01, warm-up over a tenth. A
batch here is one packed row with 8 sentences; on several devices set train.batch_size=8,
data.virtual_streams=8 and objectives.conll.sentences_per_row=1. The result is the checkpoint that is best on dev, mean
of all languages (ours: the paper does not say of which).
tiny and small, on a CPU, are ours, for a model that nothing but the training text has taught: 10 epochs of batches of 8
rows of 128 tokens that are filled up, more dropout, no layer decay, the checkpoint with the best word F1. For the
tokenizer and parameters to start from, MMLM on its sentences (text/es.txt: one per line, words between spaces):
  python -m ernie_m_jax.main --config=configs/pretrain/stage1.py:size=tiny --workdir=runs/text --config.languages=es
    --config.data.monolingual.text.path='text/{language}.txt' --config.data.parallel.pairs.path=
    --config.stages.stage1.weights.tlm=0 --config.stages.stage1.weights.camlm=0 --config.model.vocab_size=4000
    --config.model.initializer_range=0.08 --config.objectives.mmlm.mask_ratio=0.3
    --config.stages.stage1.steps=2500 --config.stages.stage1.warmup_steps=100
    --config.stages.stage1.learning_rate=2e-3
  python -m ernie_m_jax.main --config=configs/finetune/conll.py:size=tiny,init=runs/text --workdir=runs/conll
    --config.languages=es --config.objectives.conll.train_languages=es
Scores: piece_f1, chunk F1 over word pieces, is the paper's; word_f1, with its precision and recall, is conlleval's.
Hardware, time and result: not yet run at base or large. The two commands above: 21 minutes of one core of an AMD EPYC,
2026-11-26, word F1 65.0 on testa and 67.8 on testb, seed 0 (benchmarks/conll_small.py); with 6 epochs 62.1 and 63.2.
"""

from configs import base, recipes

LANGUAGES = ("en", "nl", "es", "de")
LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")


def get_config(argument: str = ""):
    """CoNLL at a size and in a mode."""
    size, mode, seed, init = base.parse(argument, size=base.SIZE, mode=("transfer", "all"), seed="0", init="")
    config = recipes.finetuning(size, LABELS, init, seed, head="token_classification")
    config.languages = LANGUAGES
    full = size in ("base", "large")
    config.data.sequence_length = 512 if full else 128
    config.objectives = {
        "conll": base.tagged_words(
            train="conll",
            dev="conll",
            test="conll",
            train_languages=LANGUAGES if mode == "all" else ("en",),
            max_length=config.data.sequence_length,
            sentences_per_row=8 if full else 0,
        )
    }
    recipes.finetune_on(config, "conll", size, epochs=10.0, rows=8, metric="piece_f1" if full else "word_f1")
    config.train.batch_size = 1 if full else 8
    config.data.virtual_streams = config.train.batch_size
    config.optimizer.weight_decay = 0.01
    if full:
        rates = {"transfer": 4e-4, "all": 3e-4 if size == "base" else 2e-4}
        config.stages.finetune.learning_rate = rates[mode]
        config.optimizer.layer_decay = 0.9 if (size, mode) == ("large", "all") else 0.8
    else:  # (ours)
        config.stages.finetune.learning_rate = {"tiny": 1e-3, "small": 3e-4}[size]
        config.optimizer.layer_decay = 1.0
        config.model.hidden_dropout = 0.2  # also where `init` was trained without
        config.model.attention_dropout = 0.1
        config.evals.dev.every = 800  # steps, one to two epochs of CoNLL-2002
    return config
