r"""Records what the reference implementations compute, for tests that need none of them.

    pip install torch==2.13.0 transformers==4.57.6 safetensors    # CPU builds are enough
    python tests/golden/record_models.py torch
    pip install paddlepaddle==3.0.0 paddlenlp==2.8.1              # in an environment of its own: it needs NumPy 1
    python tests/golden/record_models.py paddle

Further arguments record only the cases whose names contain one of them. Weights are random, by `weights.py`; sizes are
"tiny" and those of the released models. Each case becomes
tests/golden/models/<case>.npz: `case` (JSON: class, config, tensors' names and shapes, lengths, versions, digest of the
weights), `at` [P, 2] rows and positions, `hidden` [K, P, H] of the layers `layers`, pooled output, logits, and for two
cases the gradients of a fine-tuning step. Recorded on 2026-11-22, CPU, fp32, dropout 0.
"""

import json
import pathlib
import sys

import numpy as np
import weights

HERE = pathlib.Path(__file__).parent
OUTPUT = HERE / "models"
VOCABULARY_SAMPLE = 500  # columns of a full vocabulary's logits that are kept
GRADIENT_SAMPLE = 64  # numbers of a tensor's gradient that are kept in the large case

TINY = {"lengths": [1, 2, 9, 64, 512], "most": 24, "scale": weights.SCALE}
FULL = {"lengths": [1, 2, 17, 130, 512], "most": 5, "scale": weights.FULL_SCALE}
ERNIE = {"pad_token_id": 1, "max_position_embeddings": 514, "layer_norm_eps": 1e-5}
SIZES = {
    "tiny": {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "base": {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
HEADS = (
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForInformationExtraction",
)


def sized(size: str, **more) -> dict:
    keys = SIZES[size]
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {**keys, "intermediate_size": 4 * keys["hidden_size"], **no_dropout, **more}


def wanted(case: str) -> bool:
    return not sys.argv[2:] or any(part in case for part in sys.argv[2:])


def save(case: str, facts: dict, arrays: dict) -> None:
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"{case}.npz"
    np.savez_compressed(path, case=np.array(json.dumps(facts)), **arrays)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB", flush=True)


class Torch:
    """transformers' classes."""

    def __init__(self):
        import torch
        import transformers
        from transformers.models.deprecated.ernie_m import modeling_ernie_m

        torch.set_num_threads(2)
        self.torch, self.library, self.ernie_m = torch, transformers, modeling_ernie_m
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}

    def model(self, name: str, config: dict, scale: float):
        """The class with its weights set; and the names and shapes of its tensors, tied ones once."""
        torch = self.torch
        kind = getattr(self.ernie_m, name, None) or getattr(self.library, name)
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in kind(kind.config_class(**config)).state_dict().items()}
        model = kind(kind.config_class(**config)).eval()
        tied = {"lm_head.decoder.weight", "lm_head.decoder.bias", "cls.predictions.decoder.weight"}
        tied |= {"cls.predictions.decoder.bias", "pred_layer.proj.weight"}
        names = {name: shape for name, shape in shapes.items() if name not in tied}
        state = {
            name: torch.from_numpy(weights.tensor(weights.bare(name), shape, scale)) for name, shape in names.items()
        }
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= tied, missing
        model.tie_weights()
        return model, names

    def run(self, model, **inputs) -> dict:
        with self.torch.no_grad():
            inputs = {key: self.torch.from_numpy(value.copy()) for key, value in inputs.items()}
            output = model(**inputs, output_hidden_states=True, return_dict=True)
        found = {}
        for key in ("pooler_output", "logits", "start_logits", "end_logits", "prediction_logits"):
            if output.get(key) is not None:
                found[key] = output[key].numpy()
        if output.get("hidden_states") is not None:
            found["hidden_states"] = np.stack([x.numpy() for x in output["hidden_states"]])
        return found

    def gradients(self, model, labels: np.ndarray, **inputs) -> dict:
        inputs = {key: self.torch.from_numpy(value.copy()) for key, value in inputs.items()}
        loss = model(**inputs, labels=self.torch.from_numpy(labels), return_dict=True).loss
        loss.backward()
        return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()} | {
            "loss": loss.detach().numpy()
        }


class Paddle:
    """PaddleNLP's classes."""

    def __init__(self):
        import paddle
        import paddlenlp
        from paddlenlp.transformers.ernie_m import modeling

        self.paddle, self.ernie_m = paddle, modeling
        versions = {"paddle": paddle.__version__, "paddlenlp": paddlenlp.__version__, "numpy": np.__version__}
        self.versions = versions

    def model(self, name: str, config: dict, scale: float):
        model = getattr(self.ernie_m, name)(self.ernie_m.ErnieMConfig(**config))
        model.eval()
        names = {}
        for key, parameter in model.state_dict().items():
            names[key] = tuple(parameter.shape)
            parameter.set_value(weights.tensor(weights.bare(key), names[key], scale))
        return model, names

    def run(self, model, **inputs) -> dict:
        inputs = {key: self.paddle.to_tensor(value) for key, value in inputs.items()}
        with self.paddle.no_grad():
            name = type(model).__name__
            if name == "ErnieMModel":
                sequence, pooled = model(**inputs)
                return {"hidden_states": sequence.numpy()[None], "pooler_output": pooled.numpy()}
            output = model(**inputs)
        if name in ("ErnieMForQuestionAnswering", "UIEM"):
            return {"start_logits": output[0].numpy(), "end_logits": output[1].numpy()}
        return {"logits": output.numpy()}


def common(library, name: str, config: dict, names: dict, setting: dict, **more) -> dict:
    first = next(iter(names))
    return {
        "class": name,
        "config": config,
        "tensors": [[key, list(shape)] for key, shape in names.items()],
        "digest": {first: weights.digest(weights.tensor(weights.bare(first), names[first], setting["scale"]))},
        "versions": library.versions,
        **setting,
        **more,
    }


def encoder_case(library, case: str, name: str, config: dict, setting: dict, every: int, **inputs) -> None:
    """Hidden states and whatever else the class computes."""
    if not wanted(case):
        return
    model, names = library.model(name, config, setting["scale"])
    ids, mask = weights.batch(setting["lengths"], config.get("vocab_size") or config["n_words"], pad(config))
    at = weights.sample(setting["lengths"], setting["most"])
    found = library.run(model, input_ids=ids, attention_mask=mask, **inputs)
    arrays = {"at": at}
    if "hidden_states" in found:
        states = found["hidden_states"]
        layers = list(range(0, len(states), every)) if len(states) > 1 else [-1]
        arrays["hidden"] = states[layers][:, at[:, 0], at[:, 1]]
        arrays["layers"] = np.array([index if index >= 0 else -1 for index in layers])
    if "pooler_output" in found:
        arrays["pooled"] = found["pooler_output"]
    logits = found.get("prediction_logits", found.get("logits"))
    if logits is not None:  # a masked language model's
        columns = np.arange(logits.shape[-1])
        if len(columns) > VOCABULARY_SAMPLE:
            columns = np.sort(np.random.Generator(np.random.Philox(key=3)).choice(columns, VOCABULARY_SAMPLE, False))
        arrays |= {"columns": columns, "mlm_logits": logits[at[:, 0], at[:, 1]][:, columns]}
    save(case, common(library, name, config, names, setting), arrays)


def head_case(library, case: str, name: str, config: dict, setting: dict) -> None:
    """A fine-tuning head's logits."""
    if not wanted(case):
        return
    model, names = library.model(name, config, setting["scale"])
    ids, mask = weights.batch(setting["lengths"], config["vocab_size"], pad(config))
    arrays = {"at": weights.sample(setting["lengths"], setting["most"])}
    if "MultipleChoice" in name:
        ids, mask = ids[None, :4], mask[None, :4]
    found = library.run(model, input_ids=ids, attention_mask=mask)
    rows, positions = arrays["at"].T
    if "start_logits" in found:
        arrays["logits"] = np.stack([found["start_logits"], found["end_logits"]], -1)[rows, positions]
    elif "Token" in name:
        arrays["logits"] = found["logits"][rows, positions]
    else:
        arrays["logits"] = found["logits"]
    save(case, common(library, name, config, names, setting), arrays)


def gradient_case(library, case: str, config: dict, setting: dict, whole: bool) -> None:
    """The gradients of a sentence classifier's mean cross-entropy, one step, no dropout."""
    if not wanted(case):
        return
    name = "ErnieMForSequenceClassification"
    model, names = library.model(name, config, setting["scale"])
    ids, mask = weights.batch(setting["lengths"], config["vocab_size"], 1)
    labels = np.arange(len(ids), dtype=np.int64) % config["num_labels"]
    found = library.gradients(model, labels, input_ids=ids, attention_mask=mask)
    arrays = {"loss": found.pop("loss"), "labels": labels}
    rng = np.random.Generator(np.random.Philox(key=5))
    for tensor, gradient in found.items():
        flat = gradient.reshape(-1)
        if not whole:
            touched = np.flatnonzero(flat) if flat.size > 10**7 else np.arange(flat.size)
            index = np.sort(rng.choice(touched, min(GRADIENT_SAMPLE, touched.size), replace=False))
            arrays[f"index:{tensor}"], flat = index, flat[index]
        arrays[f"gradient:{tensor}"] = flat
    save(case, common(library, name, config, names, setting), arrays)


def fairseq_file(library) -> None:
    """A checkpoint as fairseq's trainer saves VECO and XLM-R: arguments, model, optimizer; names as in its RoBERTa."""
    import argparse

    torch, width, ffn = library.torch, 8, 16
    start = "decoder.sentence_encoder."
    shapes = {f"{start}embed_tokens.weight": (30, width), f"{start}embed_positions.weight": (20, width)}
    shapes |= {f"{start}emb_layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    for layer in range(2):
        linear = {f"self_attn.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
        linear |= {"fc1": (ffn, width), "fc2": (width, ffn)}
        norms = {"self_attn_layer_norm": (width,), "final_layer_norm": (width,)}
        for name, shape in {**linear, **norms}.items():
            shapes[f"{start}layers.{layer}.{name}.weight"] = shape
            shapes[f"{start}layers.{layer}.{name}.bias"] = shape[:1]
    shapes |= {"decoder.lm_head.bias": (30,), "decoder.lm_head.dense.weight": (width, width)}
    shapes |= {"decoder.lm_head.dense.bias": (width,)}
    shapes |= {f"decoder.lm_head.layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    state = {name: torch.from_numpy(weights.tensor(name, shape)) for name, shape in shapes.items()}
    state["decoder.lm_head.weight"] = state[f"{start}embed_tokens.weight"]
    args = argparse.Namespace(arch="roberta_base", encoder_layers=2, encoder_embed_dim=width, max_positions=18)
    args.encoder_ffn_embed_dim, args.encoder_attention_heads, args.dropout, args.attention_dropout = ffn, 4, 0.1, 0.2
    args.activation_fn = "gelu"
    content = {"args": args, "model": state, "optimizer_history": [{"num_updates": 3}], "extra_state": {"epoch": 1}}
    torch.save(content, HERE / "files" / "veco.pt", _use_new_zipfile_serialization=False)


def pad(config: dict) -> int:
    return config.get("pad_token_id", config.get("pad_index", 0))


def record_torch() -> None:
    library = Torch()
    if wanted("fairseq"):
        fairseq_file(library)
    for size, setting, every in (("tiny", TINY, 1), ("base", FULL, 6), ("large", FULL, 12)):
        ernie = sized(size, **ERNIE, num_labels=3)
        encoder_case(library, f"ernie_m-{size}", "ErnieMModel", ernie, setting, every)
        for head in HEADS:
            keys = ernie | ({"num_labels": 2} if head == "ForQuestionAnswering" else {})
            head_case(library, f"ernie_m-{size}-{head}", f"ErnieM{head}", keys, setting)
        if size != "large":
            gradient_setting = {**setting, "lengths": [1, 2, 9, 64] if size == "tiny" else [3, 17, 40], "most": 1}
            gradient_case(library, f"ernie_m-{size}-gradients", ernie, gradient_setting, size == "tiny")
        xlm_r = sized(size, **ERNIE, type_vocab_size=1)
        encoder_case(library, f"xlm_roberta-{size}-lm", "XLMRobertaForMaskedLM", xlm_r, setting, every)
        if size == "tiny":
            encoder_case(library, f"xlm_roberta-{size}", "XLMRobertaModel", xlm_r, setting, every)
            head_case(library, f"xlm_roberta-{size}-head", "XLMRobertaForSequenceClassification", xlm_r, setting)
        if size == "large":
            continue
        bert = sized(size, pad_token_id=0, max_position_embeddings=512, layer_norm_eps=1e-12, type_vocab_size=2)
        bert |= {"vocab_size": 119547} if size == "base" else {}
        types = {"token_type_ids": (np.arange(512)[None] // 5 % 2).repeat(len(setting["lengths"]), 0)}
        encoder_case(library, f"bert-{size}", "BertModel", bert, setting, every, **types)
        encoder_case(library, f"bert-{size}-lm", "BertForPreTraining", bert, setting, every, **types)
        xlm = {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "vocab_size": 90, "n_langs": 3}
        if size == "base":
            xlm = {"emb_dim": 1024, "n_layers": 12, "n_heads": 8, "vocab_size": 95000, "n_langs": 15}
        xlm |= {"use_lang_emb": True, "dropout": 0.0, "attention_dropout": 0.0, "max_position_embeddings": 512}
        xlm |= {"pad_index": 2}
        langs = {"langs": (np.arange(512)[None] // 7 % xlm["n_langs"]).repeat(len(setting["lengths"]), 0)}
        encoder_case(library, f"xlm-{size}", "XLMWithLMHeadModel", xlm, setting, every, **langs)
        if size == "tiny":
            encoder_case(library, "xlm-tiny-no_languages", "XLMWithLMHeadModel", xlm, setting, every)


def record_paddle() -> None:
    library = Paddle()
    for size, setting in (("tiny", TINY), ("base", FULL), ("large", FULL)):
        config = sized(size, pad_token_id=1, max_position_embeddings=514, num_labels=3, num_choices=4)
        encoder_case(library, f"paddle-{size}", "ErnieMModel", config, setting, 1)
        for head in (*HEADS[:4], "UIEM"):
            name = head if head == "UIEM" else f"ErnieM{head}"
            keys = config | ({"num_labels": 2} if head == "ForQuestionAnswering" else {})
            head_case(library, f"paddle-{size}-{head}", name, keys, setting)


if __name__ == "__main__":
    {"torch": record_torch, "paddle": record_paddle}[sys.argv[1]]()
