"""The arms of `benchmarks/ablation.py`: what each trains, from where, and which of them are compared.

Arms of one group differ in nothing but the seed. Every arm of a phase has the same steps, rows and learning rate. In
the second phase all start from an arm of the first and train for a stage more, so that they differ in that stage alone.
"""

import dataclasses
from typing import Any

BTMLM = "--config.objectives.btmlm"
ALL_MASKED = f"{BTMLM}.mask_ratio=1.0"
CONFIDENT = f"{BTMLM}.confidence_threshold=0.3"
CEILING = "--config.objectives.ceiling"
CEILING_ALL_MASKED = f"{CEILING}.mask_ratio=1.0"
ANOTHER = f"{CEILING}.wrong=another"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One run.

    Attributes:
      group: what it trains; arms of a group are shown as one row, mean and range.
      seed: of data order, masks and, in the first phase, initial weights.
      experiment: of `configs/pretrain/ablation.py`.
      pairs: share of pairs in the corpus, percent, two digits; "" for the study's usual one.
      start: group of the first phase whose arm of the same seed it starts from; "" for an arm of the first phase.
      rate: factor on the learning rate of its stage.
      share: of BTMLM's steps in the second stage.
      flags: more of the command line.
      reads_written: whether its `ceiling` reads what its start has written of the monolingual text, once, in place of
        real translations: a generator that does not change.
    """

    group: str
    seed: int
    experiment: str
    pairs: str = ""
    start: str = ""
    rate: str = "1"
    share: str = "0.25"
    flags: tuple[str, ...] = ()
    reads_written: bool = False

    @property
    def name(self) -> str:
        """Of its directory."""
        return f"{self.group}-{self.seed}"

    @property
    def keys(self) -> str:
        """Of the config's argument."""
        return f"rate={self.rate},share={self.share},seed={self.seed}"

    @property
    def stage(self) -> str:
        """Which of the config's stages it trains."""
        return "second" if self.start else "first"


def _arms(seeds: int, group: str, experiment: str, *flags: str, **keys: Any) -> list[Arm]:
    return [Arm(group, seed, experiment, flags=flags, **keys) for seed in range(seeds)]


def _second(seeds: int, group: str, experiment: str, *flags: str, start: str = "camlm", **keys: Any) -> list[Arm]:
    return _arms(seeds, group, experiment, *flags, start=start, **keys)


def _few(pairs: str) -> list[Arm]:
    """Few pairs and much monolingual text, on the messages."""
    first, keys = f"camlm-{pairs}", {"start": f"camlm-{pairs}", "pairs": pairs}
    return [
        *_arms(1, first, "exp3", pairs=pairs),
        *_second(1, f"{first}+camlm", "exp3", **keys),
        *_second(1, f"{first}+mmlm", "more-mmlm", **keys),
        *_second(1, f"{first}+btmlm", "exp4", **keys),
        *_second(1, f"{first}+btmlm-all-masked", "exp4", ALL_MASKED, **keys),
        *_second(1, f"{first}+btmlm-all-masked-confident", "exp4", ALL_MASKED, CONFIDENT, **keys),
        *_second(1, f"{first}+real-translation", "ceiling", **keys),
        *_second(1, f"{first}+real-translation-all-masked", "ceiling", CEILING_ALL_MASKED, **keys),
    ]


def _language_embedding(name: str, mode: str) -> list[Arm]:
    """Which tokens are told their language, from the start; usual are those in whose place a word is to be written."""
    flag, first = f"--config.model.language_embedding={mode}", f"camlm-{name}"
    return [
        *_arms(1, first, "exp3", flag),
        *_second(1, f"{first}+camlm", "exp3", flag, start=first),
        *_second(1, f"{first}+btmlm-all-masked", "exp4", flag, ALL_MASKED, start=first),
    ]


FIRST = [
    *_arms(3, "mmlm", "exp1"),
    *_arms(3, "tlm", "exp2"),
    *_arms(3, "camlm", "exp3"),
    # As many settings tried for TLM as for CAMLM: the paper's share of masks and a larger one.
    *_arms(1, "tlm-half-masked", "exp2", "--config.objectives.tlm.mask_ratio=0.5"),
    *_arms(1, "camlm-few-slots", "exp3", "--config.objectives.camlm.mask_ratio=0.15"),
    *_arms(1, "camlm-02", "exp3", pairs="02"),
    *_arms(1, "camlm-33", "exp3", pairs="33"),
]
SECOND = [
    *_second(3, "camlm+camlm", "exp3"),
    *_second(3, "camlm+btmlm", "exp4"),
    # The paper's claim without the shortcut: nothing but the pseudo tokens to restore the source from.
    *_second(2, "camlm+btmlm-pseudo-alone", "exp4", f"{BTMLM}.restore_from=pseudo", f"{BTMLM}.mask_ratio=0.5"),
    # What BTMLM could give at most: the real translation of the same monolingual text.
    *_second(2, "camlm+real-translation", "ceiling"),
    *_second(1, "camlm+btmlm-other", "exp4", f"{BTMLM}.pseudo=other"),
    *_second(1, "camlm+mmlm", "more-mmlm"),
    *_second(1, "camlm+btmlm-half-masked", "exp4", f"{BTMLM}.mask_ratio=0.5"),
    *_second(1, "camlm+all-four", "exp5"),
    *_second(1, "camlm-02+camlm", "exp3", start="camlm-02", pairs="02"),
    *_second(1, "camlm-02+btmlm", "exp4", start="camlm-02", pairs="02"),
]
# Run when they are named.
MORE = [
    *_arms(1, "start", "exp0"),
    # A regime in which BTMLM might help: fewer steps of it, source words that little but the pseudo tokens can tell (of
    # ten one still stands there and one is another word, as always), and more or less learning in the second phase, for
    # both sides of the comparison.
    *_second(1, "camlm+btmlm-tenth", "exp4", share="0.1"),
    *_second(1, "camlm+btmlm-all-masked", "exp4", ALL_MASKED),
    *_second(1, "camlm+real-translation-all-masked", "ceiling", CEILING_ALL_MASKED),
    *_second(1, "camlm+btmlm-all-masked-confident", "exp4", ALL_MASKED, CONFIDENT),
    *_second(1, "camlm+btmlm-tenth-all-masked", "exp4", ALL_MASKED, share="0.1"),
    *_second(1, "camlm+btmlm-half-all-masked", "exp4", ALL_MASKED, share="0.5"),
    # How right must a generator be? The real translation with random words in place of some.
    *_second(1, "camlm+three-quarters-right-all-masked", "ceiling", CEILING_ALL_MASKED, f"{CEILING}.right=0.75"),
    *_second(1, "camlm+half-right-all-masked", "ceiling", CEILING_ALL_MASKED, f"{CEILING}.right=0.5"),
    *_second(1, "camlm+quarter-right-all-masked", "ceiling", CEILING_ALL_MASKED, f"{CEILING}.right=0.25"),
    *_second(1, "camlm+none-right-all-masked", "ceiling", CEILING_ALL_MASKED, f"{CEILING}.right=0.0"),
    # The same with another text's words in place of random ones: of the right language, and as frequent as they are.
    *_second(
        1,
        "camlm+three-quarters-right-another-all-masked",
        "ceiling",
        CEILING_ALL_MASKED,
        ANOTHER,
        f"{CEILING}.right=0.75",
    ),
    *_second(1, "camlm+half-right-another-all-masked", "ceiling", CEILING_ALL_MASKED, ANOTHER, f"{CEILING}.right=0.5"),
    *_second(
        1, "camlm+quarter-right-another-all-masked", "ceiling", CEILING_ALL_MASKED, ANOTHER, f"{CEILING}.right=0.25"
    ),
    *_second(1, "camlm+none-right-another-all-masked", "ceiling", CEILING_ALL_MASKED, ANOTHER, f"{CEILING}.right=0.0"),
    # How the generator writes: word by word after the surest, by a draw, or once, before the second phase.
    *_second(1, "camlm+btmlm-all-masked-four-passes", "exp4", ALL_MASKED, f"{BTMLM}.passes=4"),
    *_second(1, "camlm+btmlm-all-masked-drawn", "exp4", ALL_MASKED, f"{BTMLM}.temperature=1.0"),
    *_second(1, "camlm+written-once-all-masked", "ceiling", CEILING_ALL_MASKED, reads_written=True),
    *_second(1, "camlm+btmlm-all-masked-short", "exp4", ALL_MASKED, f"{BTMLM}.length_ratio=0.5"),
    *_second(1, "camlm+btmlm-all-masked-long", "exp4", ALL_MASKED, f"{BTMLM}.length_ratio=1.5"),
    *_second(1, "camlm+btmlm-all-masked-shuffled", "exp4", ALL_MASKED, f"{BTMLM}.pseudo=shuffled"),
    *_second(1, "camlm+btmlm-all-masked-other", "exp4", ALL_MASKED, f"{BTMLM}.pseudo=other"),
    *_second(1, "camlm+camlm-slow", "exp3", rate="0.5"),
    *_second(1, "camlm+btmlm-slow", "exp4", rate="0.5"),
    *_second(1, "camlm+camlm-fast", "exp3", rate="2"),
    *_second(1, "camlm+btmlm-fast", "exp4", rate="2"),
    *_second(1, "camlm+btmlm-all-masked-slow", "exp4", ALL_MASKED, rate="0.5"),
    *_second(1, "camlm+btmlm-all-masked-fast", "exp4", ALL_MASKED, rate="2"),
    *_second(1, "camlm+btmlm-third-masked", "exp4", f"{BTMLM}.mask_ratio=0.3"),
    *_language_embedding("told-all", "all"),
    *_language_embedding("told-none", "none"),
    *_second(1, "camlm+btmlm-shuffled", "exp4", f"{BTMLM}.pseudo=shuffled"),
    *_second(1, "camlm-33+camlm", "exp3", start="camlm-33", pairs="33"),
    *_second(1, "camlm-33+btmlm", "exp4", start="camlm-33", pairs="33"),
    *_few("25"),
    *_few("12"),
    *_second(1, "mmlm+mmlm", "exp1", start="mmlm"),
    *_second(1, "tlm+tlm", "exp2", start="tlm"),
    *_second(1, "camlm-few-slots+camlm", "exp3", "--config.objectives.camlm.mask_ratio=0.15", start="camlm-few-slots"),
    *_second(1, "camlm-few-slots+btmlm", "exp4", "--config.objectives.camlm.mask_ratio=0.15", start="camlm-few-slots"),
]


def chosen(groups: list[str], seeds: int = 0) -> list[Arm]:
    """The arms of the named groups and, of the first phase, those that they start from; all usual ones for no name.

    Args:
      groups: names; none for all but MORE.
      seeds: how many of each group; 0 for as many as stand above.

    Raises:
      ValueError: no such group.
    """
    everything = [*FIRST, *SECOND, *MORE]
    if unknown := set(groups) - {arm.group for arm in everything}:
        known = ", ".join(dict.fromkeys(arm.group for arm in everything))
        raise ValueError(f"no arms {', '.join(sorted(unknown))}; there are {known}")
    groups = groups or [arm.group for arm in (*FIRST, *SECOND)]
    if seeds:
        everything = [
            dataclasses.replace(arm, seed=seed) for arm in everything if arm.seed == 0 for seed in range(seeds)
        ]
    picked = [arm for arm in everything if arm.group in groups]
    starts = {(arm.start, arm.seed) for arm in picked}
    return [arm for arm in everything if arm in picked or (arm.group, arm.seed) in starts]
