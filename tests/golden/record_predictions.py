r"""Records what fine-tuned models that this project exports predict in the libraries they are exported to.

    python -m tests.golden.record_predictions export DIR         # in this project's environment, from the repository
    pip install torch==2.13.0 transformers==4.57.6 sentencepiece protobuf    # in an environment of its own
    python -m tests.golden.record_predictions transformers DIR
    pip install paddlepaddle==3.0.0 paddlenlp==2.8.1 "huggingface_hub<0.27" "datasets<3" "aistudio-sdk<0.3" \
      "pyarrow<17" "pandas<2.3" "setuptools<81"                  # the same; newer ones do not go with PaddleNLP 2.8
    python -m tests.golden.record_predictions paddlenlp DIR      # after transformers

`export` makes a small model for each head with labels and saves it for both libraries: weights by `weights.py`, from
the parameters' names; the tokenizer of `golden/tokenizer/ernie_m`. The libraries load these folders with their own
classes, cut the texts of predictions/inputs.json with their own tokenizers, and predict:

  sequence_classification  a pair of sentences as the tokenizer joins them, cut to 64 tokens; the highest logit's label
  token_classification     a sentence given as words; a word's tag is its first piece's
  question_answering       windows `CLS question SEP part of the text SEP`, as the task mlqa has them (the libraries'
                           own pairs have two SEP between), a new one every 48 tokens; the best span over all windows

predictions/LIBRARY-HEAD.npz: `case` (JSON: class, labels by id, what was predicted, versions, digests of the folder),
`ids` of all windows joined, their `lengths`, `logits` of every row (pairs) or token. Recorded on 2026-11-26, CPU, fp32.
"""

import hashlib
import itertools
import json
import pathlib
import sys

import numpy as np

from tests.golden import weights

HERE = pathlib.Path(__file__).parent
OUTPUT = HERE / "predictions"
TOKENIZER = HERE / "tokenizer" / "ernie_m"
TARGETS = {"transformers": "huggingface", "paddlenlp": "paddle"}

# Deviation of the weights: what is predicted differs from input to input. Tokens grow alike where it is larger.
SCALES = {"sequence_classification": 0.28, "token_classification": 0.1, "question_answering": 0.1}
NAMES = {
    "sequence_classification": ("neutral", "contradiction", "entailment"),
    "token_classification": ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    "question_answering": (),
}
INPUTS = {
    "sequence_classification": "pairs",
    "token_classification": "sentences",
    "question_answering": "questions",
}
PAIR_LENGTH = 64
MAX_LENGTH, STRIDE, MAX_QUESTION, MAX_ANSWER, N_BEST = 96, 48, 24, 30, 20
MARGIN = 1e-3  # no prediction is recorded that hangs on less


def inputs(head: str) -> list[list[str]]:
    """Language and texts of each input."""
    return json.loads((OUTPUT / "inputs.json").read_text("utf-8"))[INPUTS[head]]


def model(head: str):
    """The model with this head, as this project has it."""
    import ernie_m_jax
    from configs import base
    from ernie_m_jax.checkpoint import tree
    from ernie_m_jax.config import ModelConfig
    from ernie_m_jax.convert import layers
    from ernie_m_jax.convert import model as conversion

    keys = base.get_config().model.to_dict() | {
        "vocab_size": 6000,
        "hidden_size": 48,
        "num_layers": 3,
        "num_heads": 4,
        "ffn_size": 192,
        "language_embedding": "none",
        "mlm_head": "none",
        "pooler": True,
        "head": head,
        "labels": NAMES[head],
        "num_labels": len(NAMES[head]) or 2,
    }
    config = ModelConfig(**keys)
    shapes = {name: np.empty(shape) for name, shape in conversion.shapes(config).items()}
    drawn = {name: weights.tensor(name, one.shape, SCALES[head]) for name, one in layers.unrolled(shapes).items()}
    tokenizer = ernie_m_jax.Tokenizer.load(TOKENIZER, "huggingface")
    return ernie_m_jax.Model(config, tree.nest(layers.stacked(drawn)), tokenizer)


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Of an exported folder's files; of its weights by their tensors."""
    names = ("config.json", "tensors.sha256.json", "tokenizer_config.json", "sentencepiece.bpe.model", "vocab.txt")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in names}


def export(folder: pathlib.Path, library: str, head: str) -> None:
    """One head for one library; transformers' classes for tokens have no pooler."""
    import ernie_m_jax

    drop = ("pooler",) if library == "transformers" and head != "sequence_classification" else ()
    ernie_m_jax.save(folder, model(head), to=TARGETS[library], drop=drop)


class Transformers:
    """transformers' classes, found by its Auto classes as a user does."""

    def __init__(self):
        import torch
        import transformers

        self.torch, self.library = torch, transformers
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.kinds = {
            "sequence_classification": transformers.AutoModelForSequenceClassification,
            "token_classification": transformers.AutoModelForTokenClassification,
            "question_answering": transformers.AutoModelForQuestionAnswering,
        }

    def load(self, folder: pathlib.Path, head: str):
        """The model and the tokenizer."""
        loaded, info = self.kinds[head].from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        return loaded.eval(), self.library.AutoTokenizer.from_pretrained(folder)

    def run(self, loaded, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Logits of a padded batch, with an axis for start and end."""
        with self.torch.no_grad():
            output = loaded(input_ids=self.torch.from_numpy(ids), attention_mask=self.torch.from_numpy(mask))
        if "start_logits" in output:
            return np.stack([output.start_logits.numpy(), output.end_logits.numpy()], -1)
        return output.logits.numpy()


class PaddleNLP:
    """PaddleNLP's classes. They always get the mask: without one they hide the token with id 0, CLS."""

    def __init__(self):
        import paddle
        from paddlenlp import __version__, transformers

        self.paddle = paddle
        self.versions = {"paddle": paddle.__version__, "paddlenlp": __version__}
        self.tokenizer = transformers.ErnieMTokenizer
        self.kinds = {
            "sequence_classification": transformers.ErnieMForSequenceClassification,
            "token_classification": transformers.ErnieMForTokenClassification,
            "question_answering": transformers.ErnieMForQuestionAnswering,
        }

    def load(self, folder: pathlib.Path, head: str):
        """The model and the tokenizer."""
        loaded = self.kinds[head].from_pretrained(str(folder))
        loaded.eval()
        return loaded, self.tokenizer.from_pretrained(str(folder))

    def run(self, loaded, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """As `Transformers.run`."""
        with self.paddle.no_grad():
            output = loaded(input_ids=self.paddle.to_tensor(ids), attention_mask=self.paddle.to_tensor(mask))
        return np.stack([part.numpy() for part in output], -1) if isinstance(output, tuple) else output.numpy()


def padded(tokenizer, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of a batch."""
    batch = tokenizer.pad({"input_ids": rows}, return_attention_mask=True, return_tensors="np")
    return batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)


def logits_of(library, loaded, tokenizer, rows: list[list[int]]) -> list[np.ndarray]:
    """Logits of each row: of its tokens or, where it is classified whole, of itself; in batches of 8."""
    found = []
    for start in range(0, len(rows), 8):
        chosen = rows[start : start + 8]
        ids, mask = padded(tokenizer, chosen)
        logits = library.run(loaded, ids, mask).astype(np.float32)
        found += [one if one.ndim == 1 else one[: len(row)] for one, row in zip(logits, chosen, strict=True)]
    return found


def ids_of(tokenizer, text: str) -> list[int]:
    """A text's pieces alone."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def best(scores: np.ndarray) -> int:
    """Index of the highest score, which the next one is far enough below."""
    second, first = np.sort(scores)[-2:]
    assert first - second > MARGIN, (first, second)
    return int(np.argmax(scores))


def classify(library, loaded, tokenizer) -> tuple[list, list, list]:
    """Labels of the pairs; ids and logits of each."""
    texts = [row[1:] for row in inputs("sequence_classification")]
    cut = {"truncation": "longest_first", "max_length": PAIR_LENGTH}
    rows = [list(tokenizer(first, second, **cut)["input_ids"]) for first, second in texts]
    logits = logits_of(library, loaded, tokenizer, rows)
    return [loaded.config.id2label[best(one)] for one in logits], rows, logits


def tag(library, loaded, tokenizer) -> tuple[list, list, list]:
    """Tags of the words; ids and logits of each sentence."""
    sentences = [row[1:] for row in inputs("token_classification")]
    rows = [list(tokenizer(words, is_split_into_words=True)["input_ids"]) for words in sentences]
    logits = logits_of(library, loaded, tokenizer, rows)
    tags = []
    for words, row, scores in zip(sentences, rows, logits, strict=True):
        pieces = [ids_of(tokenizer, word) for word in words]
        assert row[1:-1] == list(itertools.chain(*pieces))
        firsts = np.cumsum([1, *map(len, pieces[:-1])])
        tags.append([loaded.config.id2label[best(scores[first])] for first in firsts])
    return tags, rows, logits


def answer(library, loaded, tokenizer) -> tuple[list, list, list]:
    """[window, first token, last token, its text] of each question's best answer; ids and logits of each window."""
    found, all_rows, all_logits = [], [], []
    for _, question, text in inputs("question_answering"):
        asked, context = ids_of(tokenizer, question)[:MAX_QUESTION], ids_of(tokenizer, text)
        room, begin = MAX_LENGTH - len(asked) - 3, len(asked) + 2
        starts = [0]
        while starts[-1] + room < len(context):
            starts.append(starts[-1] + STRIDE)
        ends = [min(start + room, len(context)) for start in starts]
        rows = [
            [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id, *context[start:end], tokenizer.sep_token_id]
            for start, end in zip(starts, ends, strict=True)
        ]
        logits = logits_of(library, loaded, tokenizer, rows)
        candidates = []
        for window, (start, end, scores) in enumerate(zip(starts, ends, logits, strict=True)):
            inside = np.arange(begin, begin + end - start)
            owned = [at for at in inside if owner(at - begin + start, starts, ends) == window]
            first = sorted(owned, key=lambda at: -scores[at, 0])[:N_BEST]
            last = sorted(inside, key=lambda at: -scores[at, 1])[:N_BEST]
            candidates += [
                (float(scores[a, 0]) + float(scores[b, 1]), window, int(a), int(b))
                for a, b in itertools.product(first, last)
                if a <= b < a + MAX_ANSWER
            ]
        _, window, first, last = candidates[best(np.array([score for score, *_ in candidates]))]
        found.append([len(all_rows) + window, first, last, tokenizer.decode(rows[window][first : last + 1])])
        all_rows += rows
        all_logits += logits
    return found, all_rows, all_logits


def owner(token: int, starts: list[int], ends: list[int]) -> int:
    """The window in which a token of the text has most context on its poorer side; as BERT's code for SQuAD."""
    scores = [
        min(token - start, end - 1 - token) + 0.01 * (end - start) if start <= token < end else -np.inf
        for start, end in zip(starts, ends, strict=True)
    ]
    return int(np.argmax(scores))


def record(name: str, folder: pathlib.Path) -> None:
    """Every head in one library."""
    library = {"transformers": Transformers, "paddlenlp": PaddleNLP}[name]()
    predict = {"sequence_classification": classify, "token_classification": tag, "question_answering": answer}
    for head in INPUTS:
        loaded, tokenizer = library.load(folder / f"{name}-{head}", head)
        predicted, rows, logits = predict[head](library, loaded, tokenizer)
        facts = {
            "class": type(loaded).__name__,
            "tokenizer": type(tokenizer).__name__,
            "labels": {str(index): label for index, label in loaded.config.id2label.items()},
            "predicted": predicted,
            "versions": {**library.versions, "numpy": np.__version__},
            "folder": digests(folder / f"{name}-{head}"),
        }
        if name == "paddlenlp":
            facts["on transformers' ids"] = same_ids(library, loaded, tokenizer, head)
        save(OUTPUT / f"{name}-{head}.npz", facts, rows, logits)
        flat = predicted if head == "sequence_classification" else list(itertools.chain(*predicted))
        labels = sorted({str(one) for one in flat}) if NAMES[head] else ""
        print(head, type(tokenizer).__name__, len(predicted), labels, facts.get("on transformers' ids", ""), flush=True)


def same_ids(library, loaded, tokenizer, head: str) -> dict:
    """What comes of the ids that transformers recorded: whether each row, token or window gets what it has there."""
    _, rows, logits = read(OUTPUT / f"transformers-{head}.npz")
    found = logits_of(library, loaded, tokenizer, rows)
    axis = 0 if head == "question_answering" else -1  # a start and an end; a label
    pairs = list(zip(found, logits, strict=True))
    error = max(float(np.abs(one - other).max()) for one, other in pairs)
    assert error < 1e-4, error
    return {
        "largest difference": error,
        "rows": len(rows),
        "alike": sum(bool((one.argmax(axis) == other.argmax(axis)).all()) for one, other in pairs),
    }


def save(path: pathlib.Path, facts: dict, rows: list, logits: list) -> None:
    """One file; see the module."""
    arrays = {
        "ids": np.array(list(itertools.chain(*rows)), np.uint16),
        "lengths": np.array([len(row) for row in rows], np.int32),
        "logits": np.concatenate([np.atleast_2d(one) for one in logits]),
    }
    np.savez_compressed(path, case=np.array(json.dumps(facts, ensure_ascii=False)), **arrays)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


def read(path: pathlib.Path) -> tuple[dict, list[list[int]], list[np.ndarray]]:
    """A file's facts, the ids of each row and its logits, [labels] or [tokens, labels]."""
    with np.load(path) as file:
        facts, ids, lengths, logits = json.loads(str(file["case"])), file["ids"], file["lengths"], file["logits"]
    ends = np.cumsum(lengths)[:-1]
    rows = [part.tolist() for part in np.split(ids, ends)]
    return facts, rows, list(logits) if len(logits) == len(lengths) else np.split(logits, ends)


def main(action: str, folder: pathlib.Path) -> None:
    """See the module."""
    if action == "export":
        for library, head in itertools.product(TARGETS, INPUTS):
            export(folder / f"{library}-{head}", library, head)
    else:
        record(action, folder)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
