"""What the tests share: a small config over the bundled corpus, and a tokenizer for it."""

import os

import jax
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax.tokenizer import Tokenizer, train

VOCAB_SIZE = 1000


def pytest_configure(config):
    """Most of the tests' time is compilation, and many compile the same programs: share them between the processes."""
    keys = {
        "jax_compilation_cache_dir": str(config.rootpath / ".pytest_cache" / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    if "not slow" in config.getoption("markexpr"):
        keys["jax_disable_most_optimizations"] = True  # compiles faster, and what is small runs no slower for it
    for key, value in keys.items():
        jax.config.update(key, value)
        os.environ[key.upper()] = str(value)


def pytest_addoption(parser):
    """`--begin`: where a run that time may cut short begins, so that over several runs every test has its turn."""
    meaning = "begin behind so much of the tests, then run those before"
    parser.addoption("--begin", type=int, default=0, metavar="PERCENT", help=meaning)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Puts the modules before the one at `--begin` behind the others."""
    percent = config.getoption("begin")
    if not 0 <= percent < 100:
        raise pytest.UsageError(f"--begin takes 0 to 99, got {percent}")
    begin = len(items) * percent // 100
    while 0 < begin < len(items) and items[begin].path == items[begin - 1].path:
        begin += 1
    items[:] = items[begin:] + items[:begin]


def small_tree(**keys):
    """The tree of a two-layer model on the bundled messages, for `resolve`; a key is a path (`train__max_to_keep`)."""
    tree = base.get_config()
    tree.languages = ("en", "de", "ru")
    tree.model.update(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        ffn_size=48,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    tree.compute.vocab_chunk = 128
    tree.data.sequence_length = 64
    tree.data.monolingual.diagnostics = base.source("corpus:diagnostics/mono")
    tree.data.parallel.diagnostics = base.source("corpus:diagnostics/pairs")
    tree.data.virtual_streams = 4
    tree.data.packing_bins = 4
    tree.stages.one = base.stage(
        steps=6, weights={"mmlm": 1.0, "tlm": 1.0, "camlm": 1.0, "btmlm": 1.0}, learning_rate=1e-2, warmup_steps=2
    )
    tree.train.update(batch_size=8, log_every=2, save_every=0)
    tree = tree.to_dict()  # plain dictionaries take values of any type, so that wrong ones can be tried
    for key, value in keys.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return tree


@pytest.fixture
def small_config():
    """A function from keys (`train__max_to_keep=1`) to the resolved small config."""
    return lambda **keys: configs.resolve(small_tree(**keys))


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory):
    """The folder of a tokenizer of the small config's size, trained on the bundled messages."""
    from ernie_m_jax.data import mixture

    path = tmp_path_factory.mktemp("tokenizer")
    train(mixture.Sources(configs.resolve(small_tree())).texts(), VOCAB_SIZE, path)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path) -> Tokenizer:
    """That tokenizer."""
    return Tokenizer.load(tokenizer_path)
