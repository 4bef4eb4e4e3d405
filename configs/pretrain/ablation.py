"""The paper's ablation over objectives: exp1 MMLM, exp2 + TLM, exp3 MMLM + CAMLM, exp4 + BTMLM, exp5 all four.

Command: python -m ernie_m_jax.main --config=configs/pretrain/ablation.py:experiment=exp3 --workdir=runs/exp3, and stage
  1's data
Arguments: experiment=exp0 to exp5 (default exp5); size=tiny, small, base (default) or large, as stage 1; seed=N, after
commas: experiment=exp3,size=small,seed=1. exp0 is the start alone: one step that changes nothing, evaluated. BTMLM
needs a generator, so exp4 and exp5 train the others alone for the first half of the steps. experiment=ceiling is exp4
with the real translations of a study's corpus in place of back-translation.
size=study is for a corpus of benchmarks/ablation_corpus.py and minutes on a GPU: corpus=FOLDER names it, pairs=05 the
share of pairs in it, stage=first or second one stage only; benchmarks/ablation.py runs many of them side by side.
Hardware, time and result: size=study in docs/reproduction.md; the other sizes are not yet run.
"""

from configs import base, recipes

EXPERIMENTS = {
    "exp5": ("mmlm", "tlm", "camlm", "btmlm"),
    "exp4": ("mmlm", "camlm", "btmlm"),
    "exp3": ("mmlm", "camlm"),
    "exp2": ("mmlm", "tlm"),
    "exp1": ("mmlm",),
    "exp0": ("mmlm",),
    "ceiling": ("mmlm", "camlm", "ceiling"),  # exp4 with real translations: benchmarks/ablation_ceiling.py
}
LATER = ("btmlm", "ceiling")  # of the second stage alone
# A stage of the study (ours); at a learning rate of 2e-3 every arm but one diverged.
STUDY = {"steps": 3_000, "warmup_fraction": 0.06, "learning_rate": 7e-4}
BACK_TRANSLATED = 0.25  # share of BTMLM's steps in the study's second stage (ours)


def get_config(argument: str = ""):
    """One experiment of the ablation."""
    experiment, size, stage, corpus, pairs, seed = base.parse(
        argument,
        experiment=tuple(EXPERIMENTS),
        size=(*base.SIZE, "study"),
        stage=("both", "first", "second"),
        corpus="corpus",
        pairs="05",
        seed="0",
    )
    scale = "small" if size == "study" else size
    config = recipes.pretraining(scale)
    config.seed = int(seed)
    names = EXPERIMENTS[experiment]
    whole = recipes.SCALES[scale]["stage"]
    half = {"steps": whole["steps"] // 2}
    if size == "study":
        _study(config, corpus, pairs)
        whole = half = STUDY
    if experiment == "ceiling":
        translations = f"{corpus}/pairs-{pairs}/translations/{{language}}.tsv.gz"
        config.objectives.ceiling = {"task": "benchmarks.ablation_ceiling", "path": translations, "mask_ratio": 0.15}
    first = {name: 1.0 for name in names if name not in LATER}
    if stage != "second":
        config.stages.stage1 = recipes.pretraining_stage(scale, first, **{**whole, **half, "final_fraction": 0.5})
    if stage != "first":
        config.stages.stage2 = recipes.pretraining_stage(
            scale,
            _with_a_share(first, names[-1]) if size == "study" else dict.fromkeys(names, 1.0),
            **{**whole, **half, "learning_rate": whole["learning_rate"] / 2, "warmup_steps": 0},
        )
    if experiment == "exp0":
        _start_alone(config)
    return config


def _with_a_share(weights: dict[str, float], last: str) -> dict[str, float]:
    """The first stage's weights and that of the second's own objective, if it has one: its share of all steps."""
    if last not in LATER:
        return weights
    return {**weights, last: BACK_TRANSLATED * sum(weights.values()) / (1 - BACK_TRANSLATED)}


def _start_alone(config) -> None:
    """One step whose update is far below what the parameters resolve; the evaluations find the start."""
    stage = next(iter(config.stages))
    for other in list(config.stages)[1:]:
        del config.stages[other]
    config.stages[stage].update({"steps": 1, "warmup_steps": 0, "learning_rate": 1e-12})


def _study(config, corpus: str, pairs: str) -> None:
    """A small model on the corpus, the same for every experiment, and how it is measured."""
    config.languages = ("en", "de", "fr", "ru", "zh", "hi")
    config.model.update({"vocab_size": 16_000, "hidden_size": 256, "num_layers": 6, "num_heads": 4, "ffn_size": 1024})
    config.model.initializer_range = 0.05  # a narrow model learns faster from larger weights
    config.model.update({"key_init": "query", "position_init": "sinusoidal"})  # as the small models of the tasks
    config.compute.update({"dtype": "bfloat16", "vocab_chunk": 0})  # the logits of a batch fit into a GPU's memory
    config.tokenizer.path = f"{corpus}/tokenizer"
    config.data.update({"sequence_length": 256, "virtual_streams": 4, "packing_bins": 32})
    config.data.pair_positions = "restarted"
    config.data.monolingual.text = base.source(f"{corpus}/pairs-{pairs}/text/{{language}}.txt.gz")
    config.data.parallel.pairs = base.source(f"{corpus}/pairs-{pairs}/pairs.tsv.gz")
    config.objectives.mmlm.join_to_characters = 400  # several verses
    config.objectives.btmlm.join_to_characters = 0  # a verse, as in the pairs that the generator learned from
    config.objectives.camlm.mask_ratio = 1.0  # a slot for every word: few pairs must teach what they can (quickstart)
    config.optimizer.clip_norm = 0.3  # the objectives' gradients differ in size; clipped, none dominates Adam's moments
    config.train.update({"batch_size": 16, "grad_accumulation_steps": 1, "save_every": 0, "log_every": 50})
    english = tuple(f"en-{code}" for code in config.languages if code != "en")
    for name in ("dev", "test"):
        rows = base.source(f"{corpus}/{name}.tsv")
        config.evals[name] = base.evaluation("retrieval", source=rows, every_layer=True, start=False)
        config.evals[f"{name}_margin"] = base.evaluation(
            "retrieval",
            source=base.source(f"{corpus}/{name}.tsv", pairs=english),
            every_layer=True,
            similarity="margin",
            start=False,
        )
    config.evals.udhr = base.evaluation("retrieval", source=base.source("corpus:udhr"), every_layer=True, start=False)
    dev = base.source(f"{corpus}/dev.tsv")
    config.evals.words = base.evaluation("heldout", objective="camlm", parallel=dev, max_records=100)
    config.evals.text = base.evaluation("heldout", objective="mmlm", monolingual=dev, max_records=200)
    del config.evals["retrieval"]
