"""Records the small files of weights under `files/`, each made by the program that makes such files in earnest.

Recorded 2026-11-22 with Python 3.11, in two environments since the two frameworks do not go together:

    pip install torch==2.13.0 transformers==4.57.6 numpy==2.4.6;  python record_files.py torch
    pip install paddlepaddle==3.0.0 numpy==1.26.4;                python record_files.py paddle

Beside the files stand the arrays in them, as .npz; bfloat16, which NumPy lacks, as uint16 under "name:bfloat16".
"""

import argparse
import builtins
import os
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent / "files"


def expect(name, arrays):
    """Writes what a reader must find; of arrays in bfloat16 the caller gives the bits."""
    np.savez_compressed(HERE / f"{name}.npz", **arrays)


def record_torch():
    import torch

    rng = np.random.default_rng(0)

    def normal(*shape):
        return torch.from_numpy(rng.normal(size=shape).astype("f4"))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 4)
            self.output = torch.nn.Linear(4, 7)
            self.output.weight = self.embedding.weight  # tied: one storage, two names
            for dtype in ("half", "bfloat16", "double", "long", "int", "short", "int8", "uint8", "bool"):
                self.register_buffer(f"as_{dtype}", (normal(2, 3) * 3).to(getattr(torch, dtype)))
            self.register_buffer("transposed", normal(3, 5).t())
            self.register_buffer("part", normal(6, 4)[1:5, ::2])
            self.register_buffer("scalar", torch.tensor(2.5))
            self.register_buffer("empty", torch.zeros(0, 3))
            self.register_buffer("large", normal(33, 35))  # above the size that is read with the pickle

    torch.manual_seed(0)
    model = Model()
    state = model.state_dict()
    expect(
        "torch",
        {
            (f"{name}:bfloat16" if value.dtype == torch.bfloat16 else name): (
                value.view(torch.uint16) if value.dtype == torch.bfloat16 else value
            ).numpy()
            for name, value in state.items()
        },
    )
    parameters = {"model": dict(model.named_parameters()), "epoch": 3}  # nn.Parameter, under "model"
    trained = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(trained.parameters())
    trained(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    small = {"decoder.sentence_encoder.embed_tokens.weight": normal(5, 4), "decoder.lm_head.bias": normal(5)}
    expect("fairseq", {name: value.numpy() for name, value in small.items()})
    expect("parameters", {name: value.detach().numpy() for name, value in parameters["model"].items()})
    fairseq = {
        "args": argparse.Namespace(arch="roberta_base", encoder_layers=12, dropout=0.1, tokens=["a", "b"], data=None),
        "model": small,
        "optimizer_history": [{"criterion_name": "MaskedLmLoss", "num_updates": 7, "best_loss": np.float64(1.5)}],
        "extra_state": {"train_iterator": {"epoch": 2}, "val_loss": 2.25, "pair": (1, True)},
        "last_optimizer_state": optimizer.state_dict(),
    }
    for name, value in (("torch", state), ("fairseq", fairseq), ("parameters", parameters)):
        torch.save(value, HERE / f"{name}_zip.pt")
        torch.save(value, HERE / f"{name}_legacy.pt", _use_new_zipfile_serialization=False)
    attributed = normal(2, 2)
    attributed.note = "x"  # saved through _rebuild_from_type_v2
    torch.save({"state_dict": {"weight": attributed}}, HERE / "attributed_zip.pt")
    expect("attributed", {"weight": attributed.numpy()})
    torch.save({"model": torch.nn.Linear(2, 2)}, HERE / "refused_module.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(HERE / "refused_script.pt"))
    record_transformers()


def record_transformers():
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=24,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    expect("bert", {name: value.numpy() for name, value in model.state_dict().items()})
    for safe in (True, False):
        name = "safetensors" if safe else "bin"
        model.save_pretrained(HERE / f"bert_{name}", safe_serialization=safe)
        model.save_pretrained(HERE / f"bert_{name}_sharded", safe_serialization=safe, max_shard_size="3KB")
    half = model.to(torch.bfloat16)
    half.save_pretrained(HERE / "bert_bfloat16")
    expect(
        "bert_bfloat16",
        {f"{name}:bfloat16": value.view(torch.uint16).numpy() for name, value in half.state_dict().items()},
    )


def record_paddle():
    # Programs as Paddle had them until 2.6, which have variables to save.
    os.environ["FLAGS_enable_pir_api"] = "0"  # noqa: SIM112
    import paddle
    from paddle.framework import io_utils

    rng = np.random.default_rng(0)

    class Model(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.embedding = paddle.nn.Embedding(7, 4)
            self.linear = paddle.nn.Linear(4, 3)
            for dtype in ("float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"):
                self.register_buffer(f"as_{dtype}", paddle.to_tensor(rng.normal(size=(2, 3)) * 3).astype(dtype))
            self.register_buffer("large", paddle.to_tensor(rng.normal(size=(33, 35)).astype("f4")))

    paddle.seed(0)
    state = Model().state_dict()
    expect(
        "paddle",
        {
            (f"{name}:bfloat16" if value.dtype == paddle.bfloat16 else name): value.numpy()
            for name, value in state.items()
        },
    )
    for protocol in (2, 4):
        paddle.save(state, str(HERE / f"paddle_{protocol}.pdparams"), protocol=protocol)
    # A dictionary with more than tensors goes another way: each tensor becomes a pair of its name and its array.
    some = {name: state[name] for name in ("embedding.weight", "linear.bias")}
    paddle.save({**some, "epoch": 3, "deep": {"x": [1]}}, str(HERE / "pairs.pdparams"))
    expect("pairs", {name: value.numpy() for name, value in some.items()})
    # Arrays above 2^30 bytes are cut with protocol 2: make it 5 elements, by the only number that io_utils rounds.
    io_utils.int = lambda value: min(builtins.int(value), 9)
    paddle.save(some, str(HERE / "parts.pdparams"), protocol=2)
    expect("parts", {name: value.numpy() for name, value in some.items()})
    record_static()


def record_static():
    import paddle

    paddle.enable_static()
    rng = np.random.default_rng(1)
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        x = paddle.static.data("x", [2, 4])
        y = paddle.static.nn.fc(x, 3, weight_attr="encoder_fc.w_0", bias_attr="encoder_fc.b_0")
        schedule = paddle.optimizer.lr.NoamDecay(8, 10)
        for dtype in ("float16", "float64", "int64", "int32", "int8", "uint8"):
            paddle.static.create_global_var([2, 3], 1, dtype, persistable=True, name=f"buffer_{dtype}")
        paddle.optimizer.Adam(schedule).minimize(paddle.mean(y))
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup)
    scope, arrays = paddle.static.global_scope(), {}
    kept = [v for v in main.list_vars() if v.persistable and v.type == paddle.base.core.VarDesc.VarType.DENSE_TENSOR]
    for variable in kept:
        tensor = scope.find_var(variable.name).get_tensor()
        if variable.name.startswith(("buffer_", "encoder_fc.")) and "_moment" not in variable.name:
            old = np.array(tensor)
            if variable.name.startswith("buffer_"):
                tensor.set((rng.normal(size=old.shape) * 9).astype(old.dtype), paddle.CPUPlace())
            if "_pow_acc" not in variable.name:
                arrays[variable.name] = np.array(tensor)
    paddle.static.io.save_vars(executor, str(HERE / "variables" / "params"), main, vars=kept)
    (HERE / "variables" / "ernie_config.json").write_text("{}\n")
    (HERE / "variables" / "params" / "vocab.txt").write_text("[PAD]\n")
    expect("variables", arrays)
    # All in one file, without names: what inference models have, which is refused.
    paddle.static.io.save_vars(executor, str(HERE), main, vars=kept, filename="refused_combined")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    {"torch": record_torch, "paddle": record_paddle}[sys.argv[1]]()
