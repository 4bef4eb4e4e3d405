r"""Loads what this project wrote with the libraries it was written for, and compares their numbers with the record.

    python -m ernie_m_jax.convert --source CHECKPOINT --output DIR --to huggingface
    python tests/golden/check_exports.py torch ernie_m-tiny DIR      # where record_models.py torch runs
    python tests/golden/check_exports.py paddle paddle-tiny DIR      # where record_models.py paddle runs

CASE names the recorded case whose checkpoint was converted. Prints missing and unexpected keys and the largest absolute
error; exits with 1 if there is any such key or an error above 1e-5 (tiny) or 1e-4.
"""

import json
import pathlib
import sys

import numpy as np
import record_models
import weights


def torch_model(folder: pathlib.Path, name: str):
    """The class with the folder's weights; and the keys that were missing or unexpected."""
    library = record_models.Torch()
    kind = getattr(library.ernie_m, name, None) or getattr(library.library, name)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    return library, model.eval(), [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]


def paddle_model(folder: pathlib.Path, name: str):
    """As `torch_model`."""
    library = record_models.Paddle()
    state = library.paddle.load(str(folder / "model_state.pdparams"))
    kind = getattr(library.ernie_m, name)
    model = kind.from_pretrained(str(folder), num_choices=4)
    model.eval()
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    read = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [key for key in {*own, *read} if own.get(key) != read.get(key)]
    for key, value in model.state_dict().items():  # from_pretrained must have taken them
        wrong += [key] if not np.array_equal(value.numpy(), np.asarray(state[key])) else []
    return library, model, wrong


def main(kind: str, case: str, folder: pathlib.Path) -> int:
    """Checks one folder; see the module."""
    with np.load(record_models.OUTPUT / f"{case}.npz") as file:
        arrays = dict(file)
    facts = json.loads(str(arrays["case"]))
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    library, model, wrong = {"torch": torch_model, "paddle": paddle_model}[kind](folder, name)
    ids, mask = weights.batch(facts["lengths"], facts["config"]["vocab_size"], record_models.pad(facts["config"]))
    if "MultipleChoice" in name:
        ids, mask = ids[None, :4], mask[None, :4]
    found = library.run(model, input_ids=ids, attention_mask=mask)
    rows, positions = arrays["at"].T
    pairs = []
    if "hidden" in arrays and "hidden_states" in found:
        last = found["hidden_states"][-1][rows, positions]
        pairs.append((last, arrays["hidden"][-1]))
    if "pooled" in arrays:
        pairs.append((found["pooler_output"], arrays["pooled"]))
    if "mlm_logits" in arrays:
        pairs.append((found["logits"][rows, positions][:, arrays["columns"]], arrays["mlm_logits"]))
    if "start_logits" in found:
        pairs.append((np.stack([found["start_logits"], found["end_logits"]], -1)[rows, positions], arrays["logits"]))
    elif "logits" in arrays:
        logits = found["logits"]
        pairs.append((logits[rows, positions] if "Token" in name else logits, arrays["logits"]))
    error = max(float(np.abs(one - other).max()) for one, other in pairs)
    print(f"{case} as {name}: {len(wrong)} missing or unexpected {wrong[:3]}, largest error {error:.1e}", flush=True)
    return int(bool(wrong) or error > (1e-5 if "-tiny" in case else 1e-4))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])))
