"""A pre-training config's text in, its token ids stored in a prepared folder out: `prepare.py corpus`.

What is stored is what the stages' objectives ask the config's sources for: each language's lines, or groups of them as
an objective joins them, and each pair. `stored_ids.py` says how.
"""

import functools
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence

from ernie_m_jax import stores
from ernie_m_jax import task as tasks
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import mixture, preparation_checks, prepared, records, stored_ids
from ernie_m_jax.task import RandomAccess
from ernie_m_jax.tokenizer import Tokenizer, train

HELD = "config.data names ids that are stored already; name the text they were made of"
TOKENIZER = "tokenizer"  # in the folder, where the config names none

_say = functools.partial(print, flush=True)  # a line of what is done


class Asked:
    """A config's sources that note what the objectives ask them for; see `task.Sources`.

    Attributes:
      files: the records to store, by the name of their file.
      joins: to how many characters lines are to be joined, 0: not.
      opened: the languages of "monolingual" and the pairs of "parallel", where they are asked for.
    """

    def __init__(self, sources: mixture.Sources):
        self._sources = sources
        self.files: dict[str, RandomAccess] = {}
        self.joins: set[int] = set()
        self.opened: dict[records.Kind, Sequence[str]] = {}

    def monolingual(self, join_to_characters: int = 0) -> Mapping[str, RandomAccess]:
        """See `task.Sources.monolingual`."""
        join = max(join_to_characters, 0)
        opened = self._sources.monolingual(join)
        self.joins.add(join)
        self.opened["monolingual"] = list(opened)
        self.files |= {stored_ids.monolingual_file(join, name): part for name, part in opened.items()}
        return opened

    def parallel(self) -> Mapping[str, RandomAccess]:
        """See `task.Sources.parallel`."""
        opened = self._sources.parallel()
        self.opened["parallel"] = list(opened)
        self.files |= {stored_ids.parallel_file(pair): part for pair, part in opened.items()}
        return opened


def corpus(config: Config, config_file: str, output: str) -> prepared.Manifest:
    """Stores the ids of all text that the config's stages train on.

    Without `config.tokenizer.path` the tokenizer is trained as a run would train it, into `OUTPUT/tokenizer`.

    Args:
      config: of the run; only `data`, `languages`, `objectives`, `stages`, `tokenizer` and `model.vocab_size` count.
      config_file: its file, for the manifest.
      output: the folder.

    Raises:
      ConfigError, DataError: what is wrong and where; a folder that is prepared already.
    """
    prepared.check_free(output)
    sources = mixture.Sources(config)
    asked = ask(config, sources)
    if sources.holds_ids():
        raise ConfigError(HELD)
    check_apart(config, output)
    with prepared.writing(output) as writer:
        tokenizer = _tokenizer(config, sources, str(writer.directory))
        for name, found in sorted(asked.files.items()):
            lines = stored_ids.Lines(found, tokenizer)
            writer.add(name, lines, {}, compressed=False)
            file = writer.counted(name, lines.tokens)
            _say(f"{name}: {file.records:,} records, {file.tokens:,} tokens, {file.bytes:,} bytes")
        manifest = writer.finish(stored_ids.TASK, (), config_file, tokenizer.fingerprint)
    say_flags(config, output, asked)
    return manifest


def ask(config: Config, sources: mixture.Sources) -> Asked:
    """What the objectives of the config's stages ask its sources for.

    Raises:
      ConfigError: they ask for nothing.
    """
    asked = Asked(sources)
    active = {name for stage in config.stages.values() for name, weight in stage.weights.items() if weight > 0}
    for name in sorted(active):
        tasks.bind(config, name).records(asked)
    if not asked.files:
        raise ConfigError(f"config.data is not read by {', '.join(sorted(active))}: there is no corpus to prepare")
    return asked


def say_flags(config: Config, output: str, asked: Asked) -> None:
    """Prints what the run's command needs."""
    _say(f"for the config: {' '.join(map(shlex.quote, flags(config, output, asked.opened)))}")


def check_apart(config: Config, output: str) -> None:
    """The sources' files must not stand in the folder, where a later preparation may remove what it did not write."""
    for sources in (config.data.monolingual, config.data.parallel):
        for source in sources.values():
            if not source.path.startswith("corpus:"):
                preparation_checks.folders(source.path, output, config.languages)


def _tokenizer(config: Config, sources: mixture.Sources, folder: str) -> Tokenizer:
    """The config's tokenizer, or one trained into the folder.

    Raises:
      ConfigError: it cannot be opened or trained.
    """
    keys, path = config.tokenizer, config.tokenizer.path
    try:
        if not path:
            path = os.path.join(folder, TOKENIZER)
            _say(f"training a tokenizer of {config.model.vocab_size} entries")
            train(sources.texts(), config.model.vocab_size, path, keys.character_coverage)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"config.tokenizer: {error}") from error
    return load_tokenizer(config, path)


def load_tokenizer(config: Config, path: str) -> Tokenizer:
    """The tokenizer of a folder, in the config's style.

    Raises:
      ConfigError: it cannot be opened, or has another number of entries than the config's model.
    """
    try:
        loaded = Tokenizer.load(path, config.tokenizer.style)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"config.tokenizer: {error}") from error
    if loaded.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"config.model.vocab_size is {config.model.vocab_size}, but the tokenizer in {path} has "
            f"{loaded.vocab_size} entries: set --config.model.vocab_size={loaded.vocab_size}, "
            "or name the tokenizer that the model was trained with"
        )
    return loaded


def flags(config: Config, output: str, opened: Mapping[records.Kind, Sequence[str]]) -> Sequence[str]:
    """What a command line adds to the config so that it reads the ids in place of its text.

    Args:
      config: the config that was prepared.
      output: the folder.
      opened: the languages of "monolingual" and the pairs of "parallel" that were, if any.
    """
    found = []
    for kind, names in opened.items():
        found += [f"--config.data.{kind}.{name}.path=" for name in getattr(config.data, kind)]
        found.append(f"--config.data.{kind}.ids.path={output}")
        key, groups = ("languages", 1) if kind == "monolingual" else ("pairs", 2)
        if list(names) != ["-".join(group) for group in itertools.combinations(config.languages, groups)]:
            found.append(f"--config.data.{kind}.ids.{key}={','.join(names)}")
    if not config.tokenizer.path:
        found.append(f"--config.tokenizer.path={stores.join(output, TOKENIZER)}")
        found.append(f"--config.model.vocab_size={config.model.vocab_size}")
    return found
