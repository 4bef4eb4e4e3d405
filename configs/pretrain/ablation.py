"""The paper's ablation over objectives: exp1 MMLM, exp2 + TLM, exp3 MMLM + CAMLM, exp4 + BTMLM, exp5 all four.

Command: python -m ernie_m_jax.main --config=configs/pretrain/ablation.py:experiment=exp3 --workdir=runs/exp3, and stage
  1's data
Arguments: experiment=exp0 to exp5 (default exp5); size=tiny, small, base (default) or large, as stage 1; seed=N, after
commas: experiment=exp3,size=small,seed=1. exp0 is the start alone: one step that changes nothing, evaluated. BTMLM
needs a generator, so exp4 and exp5 train the others alone for the first half of the steps. experiment=ceiling is exp4
with the real translations of a study's corpus in place of back-translation, experiment=more-mmlm exp3 with more MMLM in
its second stage, as many steps as BTMLM has in exp4's.
size=study is for the Bibles of benchmarks/ablation_corpus.py and minutes on a GPU, size=study-messages and study-cpu
for its messages and strings and minutes on a core: corpus=FOLDER names the corpus, pairs=05 the share of pairs in it,
stage=first or second one stage only, rate=0.5 a factor on its learning rates, share=0.1 BTMLM's of the second stage's
steps. benchmarks/ablation.py runs many of them.
Hardware, time and result: docs/reproduction.md; sizes that are no study's are not yet run.
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
    "more-mmlm": ("camlm", "mmlm"),
}
LATER = ("btmlm", "ceiling")  # of the second stage alone
# What the studies' sizes differ in (ours). study: at a learning rate of 2e-3 every arm but one diverged. study-cpu: the
# quickstart's model, learning rate and batch, and as many steps for four languages.
STUDIES = {
    "study": {
        "languages": ("en", "de", "fr", "ru", "zh", "hi"),
        "model": {"vocab_size": 16_000, "hidden_size": 256, "num_layers": 6, "num_heads": 4, "ffn_size": 1024},
        "mmlm": 1.0,  # its weight beside the other objectives', 1 each
        "initializer_range": 0.05,
        "compute": {"dtype": "bfloat16", "vocab_chunk": 0},  # the logits of a batch fit into a GPU's memory
        "data": {"sequence_length": 256, "virtual_streams": 4, "packing_bins": 32},
        "joined": 400,  # characters: several verses
        "batch_size": 16,
        "held_out": (100, 200),  # rows of CAMLM's and of MMLM's accuracy
        "stage": {"steps": 3_000, "warmup_fraction": 0.06, "learning_rate": 7e-4},
    },
    "study-cpu": {
        "languages": ("en", "de", "tr", "ko"),
        "model": {"vocab_size": 3_000, "hidden_size": 128, "num_layers": 2, "num_heads": 4, "ffn_size": 256},
        "mmlm": 0.1,  # few pairs: what MMLM gets comes off the alignment (quickstart)
        "initializer_range": 0.08,
        "compute": {"dtype": "float32", "vocab_chunk": 0, "scan_layers": False},
        "data": {"sequence_length": 128, "virtual_streams": 4, "packing_bins": 32},
        "joined": 200,
        "batch_size": 8,
        "held_out": (100, 100),
        "stage": {"steps": 2_000, "warmup_fraction": 0.06, "learning_rate": 3e-3},
    },
}
# The quickstart's text, held out in the same way, without hidden pairs. Unlike there, queries and keys begin equal,
# positions as sines, lines of text are joined, and the rate does not fall to a tenth before the second stage.
STUDIES["study-messages"] = {
    **STUDIES["study-cpu"],
    "languages": ("en", "de", "fr", "ru"),
    "model": {**STUDIES["study-cpu"]["model"], "vocab_size": 2_000},
    "stage": {**STUDIES["study-cpu"]["stage"], "steps": 1_700},
}


def get_config(argument: str = ""):
    """One experiment of the ablation."""
    experiment, size, stage, corpus, pairs, rate, share, seed = base.parse(
        argument,
        experiment=tuple(EXPERIMENTS),
        size=(*base.SIZE, *STUDIES),
        stage=("both", "first", "second"),
        corpus="corpus",
        pairs="05",
        rate="1",
        share="0.25",
        seed="0",
    )
    study = STUDIES.get(size)
    scale = "small" if study else size
    config = recipes.pretraining(scale)
    config.seed = int(seed)
    names = EXPERIMENTS[experiment]
    whole = recipes.SCALES[scale]["stage"]
    half = {"steps": whole["steps"] // 2}
    if study:
        _study(config, study, corpus, pairs)
        whole = half = {**study["stage"], "learning_rate": float(rate) * study["stage"]["learning_rate"]}
    if experiment == "ceiling":
        translations = f"{corpus}/pairs-{pairs}/translations/{{language}}.tsv.gz"
        keys = {"path": translations, "mask_ratio": 0.15, "right": 1.0}
        config.objectives.ceiling = {"task": "benchmarks.ablation_ceiling", **keys}
    first = {name: study["mmlm"] if study and name == "mmlm" else 1.0 for name in names if name not in LATER}
    if stage != "second":
        config.stages.stage1 = recipes.pretraining_stage(scale, first, **{**whole, **half, "final_fraction": 0.5})
    if stage != "first":
        config.stages.stage2 = recipes.pretraining_stage(
            scale,
            _second(experiment, first, float(share) if study else 1 / (1 + len(first))),
            **{**whole, **half, "learning_rate": whole["learning_rate"] / 2, "warmup_steps": 0},
        )
    if experiment == "exp0":
        _start_alone(config)
    return config


def _second(experiment: str, first: dict[str, float], share: float) -> dict[str, float]:
    """The second stage's weights: the first's, and for a share of all steps what the experiment adds to them."""
    last = EXPERIMENTS[experiment][-1]
    if last not in LATER and experiment != "more-mmlm":
        return first
    return {**first, last: first.get(last, 0.0) + share * sum(first.values()) / (1 - share)}


def _start_alone(config) -> None:
    """One step whose update is far below what the parameters resolve; the evaluations find the start."""
    stage = next(iter(config.stages))
    for other in list(config.stages)[1:]:
        del config.stages[other]
    config.stages[stage].update({"steps": 1, "warmup_steps": 0, "learning_rate": 1e-12})


def _study(config, study: dict, corpus: str, pairs: str) -> None:
    """A small model on the corpus, the same for every experiment, and how it is measured."""
    config.languages = study["languages"]
    config.model.update(study["model"])
    config.model.initializer_range = study["initializer_range"]  # a narrow model learns faster from larger weights
    config.model.update({"key_init": "query", "position_init": "sinusoidal"})  # as the small models of the tasks
    config.compute.update(study["compute"])
    config.tokenizer.path = f"{corpus}/tokenizer"
    config.data.update(study["data"])
    config.data.pair_positions = "restarted"
    config.data.monolingual.text = base.source(f"{corpus}/pairs-{pairs}/text/{{language}}.txt.gz")
    config.data.parallel.pairs = base.source(f"{corpus}/pairs-{pairs}/pairs.tsv.gz")
    config.objectives.mmlm.join_to_characters = study["joined"]
    config.objectives.btmlm.join_to_characters = 0  # a text, as in the pairs that the generator learned from
    config.objectives.camlm.mask_ratio = 1.0  # a slot for every word: few pairs must teach what they can (quickstart)
    config.optimizer.clip_norm = 0.3  # the objectives' gradients differ in size; clipped, none dominates Adam's moments
    config.train.update({"batch_size": study["batch_size"], "grad_accumulation_steps": 1})
    config.train.update({"save_every": 0, "log_every": 50})
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
    pairs_measured, texts_measured = study["held_out"]
    dev = base.source(f"{corpus}/dev.tsv")
    config.evals.words = base.evaluation("heldout", objective="camlm", parallel=dev, max_records=pairs_measured)
    config.evals.text = base.evaluation("heldout", objective="mmlm", monolingual=dev, max_records=texts_measured)
    del config.evals["retrieval"]
