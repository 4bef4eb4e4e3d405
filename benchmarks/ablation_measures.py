"""What retrieval at one layer does not tell of an arm of `ablation.py`: how it writes, and what it does with that.

    python benchmarks/ablation_measures.py --run runs/ablation/camlm+btmlm-0 --corpus corpus

Reads a run, the pairs held out for development and the test; prints JSON, and writes it to RUN/measures.json.

writing: of what BTMLM's generator writes for texts of development, every direction alike: "f1", of the tokens with a
  letter, as a multiset, with those of the real translation; "f1_other", with those of another text's translation, which
  frequent words of the right language give as well; "chrf", of the text; "script", the share of letters in a script of
  the target language; "copied", the share of tokens that the source has as well.
use: loss in nats of 15 % masked words of these texts, given beside the text its "own" pseudo tokens, "another" text's,
  "none", or the real "translation": how much BTMLM's second step uses what it is given.
retrieval: mean over all directions by layer, 0 the embeddings: "cosine", "margin", and both with every language's mean
  vector taken off ("centred"); "test" at the layer that is best in "dev".
transfer: of a classifier that sees English alone, accuracy in English ("first") and in the "others"
  (`ablation_transfer.py`), where the corpus has labels.
With --every, writing and use of every checkpoint of the run's last stage.
"""

import argparse
import csv
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import ablation_transfer
import ablation_writing

import ernie_m_jax
from ernie_m_jax.evaluation import encode, retrieval

SETS = ("dev", "test")
TEXTS = 20  # per direction, of development


def table(path: pathlib.Path) -> dict[str, list[str]]:
    """The texts of each language of a TSV that `ablation_corpus.py` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))


def of_layers(vectors: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Retrieval by layer in four ways.

    Args:
      vectors: of each language, [layers + 1, N, H].
    """
    found: dict[str, list[float]] = {}
    for layer in range(len(next(iter(vectors.values())))):
        plain = {code: values[layer] for code, values in vectors.items()}
        centred = {code: values - values.mean(axis=0) for code, values in plain.items()}
        for name, ours in (("", plain), ("centred_", centred)):
            unit = {code: retrieval.unit_vectors(values, code, len(values)) for code, values in ours.items()}
            for similarity in ("cosine", "margin"):
                result = retrieval.of_vectors(unit, similarity)
                found.setdefault(f"{name}{similarity}", []).append(result.average)
    return found


def vectors_of(model: Any, texts: Sequence[str]) -> np.ndarray:
    """The mean over each text's tokens after every layer, [layers + 1, N, H]."""
    return encode.encode_texts(
        model.encoder(), model.params, model.tokenizer, texts,
        layer=None, pooling="mean", max_length=128, batch_size=64,
    )  # fmt: skip


def transferred(model: Any, corpus: pathlib.Path) -> dict[str, Any]:
    """Zero-shot transfer, where the corpus has labels."""
    parts = {name: corpus / "labelled" / f"{name}.tsv" for name in ("train", *SETS)}
    if not all(path.exists() for path in parts.values()):
        return {}
    tables = {name: table(path) for name, path in parts.items()}
    return {"transfer": ablation_transfer.transfer(lambda texts: vectors_of(model, texts), tables)}


def retrievals(model: Any, corpus: pathlib.Path) -> dict[str, Any]:
    """`of_layers` of both sets, and what the layer chosen on dev finds in the test."""
    by_layer = {}
    for name in SETS:
        vectors = {code: vectors_of(model, texts) for code, texts in table(corpus / f"{name}.tsv").items()}
        by_layer[name] = of_layers(vectors)
    chosen = {way: values[int(np.argmax(by_layer["dev"][way]))] for way, values in by_layer["test"].items()}
    return {"by_layer": by_layer, "test": chosen}


def writing_and_use(model: Any, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How the model writes every language from every other, and uses what it wrote; samples of it.

    Nothing of a model that cannot be told which language to write.
    """
    if model.config.language_embedding == "none":
        return {}
    languages = tuple(texts)
    directions = [(source, target) for source in languages for target in languages if source != target]
    scores, losses, samples = [], [], []
    for source, target in directions:
        translations = list(texts[target][:TEXTS])
        sources = list(texts[source][:TEXTS])
        written = model.back_translate(sources, source, target)
        scores.append(ablation_writing.quality(model.tokenizer, sources, written, translations, target))
        losses.append(ablation_writing.losses(model, sources, written, translations, (source, target)))
        if languages[0] in (source, target):
            sample = {"direction": f"{source}>{target}", "source": sources[0], "written": written[0].text}
            samples.append({**sample, "translation": translations[0]})
    writing, use = ({name: mean(found[name] for found in many) for name in many[0]} for many in (scores, losses))
    return {"writing": writing, "use": use, "samples": samples}


def checkpoints(run: pathlib.Path) -> dict[int, pathlib.Path]:
    """The folders of the kept checkpoints of the run's last stage, by step."""
    stages = sorted(path for path in run.glob("*/checkpoints") if path.is_dir())
    return {int(path.name): path for path in sorted(stages[-1].iterdir(), key=lambda path: path.name.zfill(9))
            if path.name.isdigit()}  # fmt: skip


def at_step(run: pathlib.Path, checkpoint: pathlib.Path) -> Any:
    """The run's model as it was at a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "config.json").write_bytes((run / "config.json").read_bytes())
        if (run / "tokenizer").is_dir():
            (place / "tokenizer").symlink_to((run / "tokenizer").absolute())
        (place / "checkpoints").mkdir()
        (place / "checkpoints" / checkpoint.name).symlink_to(checkpoint.absolute())
        return ernie_m_jax.load(place, scan_layers=False)


def measured(run: pathlib.Path, corpus: pathlib.Path, every: bool) -> dict[str, Any]:
    """All measures of a run."""
    texts = table(corpus / "dev.tsv")
    model = ernie_m_jax.load(run, scan_layers=False)
    found = {"retrieval": retrievals(model, corpus), **transferred(model, corpus), **writing_and_use(model, texts)}
    if every:
        found["by_step"] = {}
        for step, checkpoint in checkpoints(run).items():
            then = writing_and_use(at_step(run, checkpoint), texts)
            found["by_step"][step] = {name: then[name] for name in ("writing", "use") if name in then}
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="work directory of a finished arm")
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder that ablation_corpus.py wrote")
    parser.add_argument("--every", action="store_true", help="also of every kept checkpoint")
    arguments = parser.parse_args()
    found = measured(arguments.run, arguments.corpus, arguments.every)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    temporary = arguments.run / "measures.json.part"
    temporary.write_text(text + "\n", "utf-8")
    temporary.rename(arguments.run / "measures.json")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
