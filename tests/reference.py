"""Golden cases for the tests: what a reference implementation computed, and its checkpoint made anew from names.

`golden/record_models.py` says how they were recorded.
"""

import dataclasses
import json
import pathlib
import pickle

import numpy as np
from safetensors.numpy import save_file

from ernie_m_jax.checkpoint import tree
from tests.golden import weights

MODELS = pathlib.Path(__file__).parent / "golden" / "models"
NAMES = sorted(path.stem for path in MODELS.glob("*.npz"))


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded case: `facts` as the script wrote them, `arrays` by name."""

    name: str
    facts: dict
    arrays: dict

    @property
    def tolerance(self) -> float:
        return 1e-5 if "-tiny" in self.name else 1e-4

    def tensors(self) -> dict[str, np.ndarray]:
        """The checkpoint's tensors; the first is compared with the digest of the recording."""
        scale = self.facts.get("scale", weights.SCALE)
        made = {name: weights.tensor(weights.bare(name), tuple(shape), scale) for name, shape in self.facts["tensors"]}
        for name, digest in self.facts["digest"].items():
            assert weights.digest(made[name]) == digest, "this NumPy draws other numbers than the recording's did"
        return made

    def config(self) -> dict:
        """The checkpoint's config.json."""
        config = dict(self.facts["config"])
        if "num_labels" in config:
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.pop("num_labels"))}
        name = self.facts["class"]
        kinds = {"XLMRoberta": "xlm-roberta", "XLM": "xlm", "Bert": "bert"}
        kind = next((kind for start, kind in kinds.items() if name.startswith(start)), "ernie_m")
        return {"architectures": [name], "model_type": kind, **config}

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """The checkpoint as its library would save it."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config()))
        if self.name.startswith("paddle"):
            with (folder / "model_state.pdparams").open("wb") as file:
                pickle.dump({**self.tensors(), "StructuredToParameterName@@": {}}, file, protocol=4)
        else:
            save_file(self.tensors(), folder / "model.safetensors", {"format": "pt"})
        return folder

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """ids and mask, int64 [rows, longest]."""
        config = self.facts["config"]
        pad = config.get("pad_token_id", config.get("pad_index", 0))
        return weights.batch(self.facts["lengths"], config["vocab_size"], pad)


def case(name: str) -> Case:
    """A recorded case by its file's name."""
    with np.load(MODELS / f"{name}.npz") as file:
        arrays = dict(file)
    return Case(name, json.loads(str(arrays.pop("case"))), arrays)


def flat(params) -> dict[str, np.ndarray]:
    """Arrays by path."""
    return {name: np.asarray(array) for name, array in tree.named(params).items()}


def assert_same(found, expected) -> None:
    """Two trees of parameters with the same names, dtypes and bits."""
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)
