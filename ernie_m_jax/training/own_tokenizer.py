"""The tokenizer of a run: trained by it or given, and then copied, so that a work directory needs nothing beside it."""

from pathlib import Path

import jax

from ernie_m_jax import tokenizer
from ernie_m_jax.checkpoint import apart, saved_steps
from ernie_m_jax.config import Config, ConfigError, TokenizerConfig
from ernie_m_jax.data import mixture
from ernie_m_jax.data.records import DataError
from ernie_m_jax.reporting import files, screen


def open_tokenizer(config: Config, workdir: Path, sources: mixture.Sources | None) -> tokenizer.Tokenizer:
    """The tokenizer of `tokenizer.path`, or the work directory's own where there is no path or nothing there any more.

    Training, which has `sources`, makes the work directory's own if it is not there yet.

    Raises:
      ConfigError: there is none, it cannot be used, or its vocabulary does not match `model.vocab_size`.
    """
    if sources is not None and config.tokenizer.style == "xlm":
        raise ConfigError("config.tokenizer.style 'xlm' cuts one language at a time: it is for using a model only")
    own = workdir / "tokenizer"
    missing = not config.tokenizer.path and not (own / "vocab.txt").exists()
    if missing and sources is None:
        raise ConfigError(f"{workdir} holds no tokenizer and config.tokenizer.path names none")
    if sources is not None:
        _train_tokenizer(config, sources, own, missing)
    try:
        loaded = _load(config.tokenizer, own)
    except ValueError as error:
        raise ConfigError(f"config.tokenizer.path: {error}") from None
    if loaded.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"config.model.vocab_size is {config.model.vocab_size}, but the tokenizer in "
            f"{config.tokenizer.path or own} has {loaded.vocab_size} entries"
        )
    if sources is not None and jax.process_index() == 0 and not _is_kept(loaded, own):
        if own.exists():
            own.rename(files.aside(own, "replaced"))
        loaded.save(own)
    return loaded


def _load(keys: TokenizerConfig, own: Path) -> tokenizer.Tokenizer:
    """A work directory may have been moved away from the place that its config names; then its copy is read."""
    try:
        return tokenizer.Tokenizer.load(keys.path or own, keys.style)
    except FileNotFoundError:
        if not keys.path or not own.is_dir():
            raise
    screen.show(f"no tokenizer in {keys.path} any more; taking the run's copy, {own}")
    return tokenizer.Tokenizer.load(own, keys.style)


def _is_kept(loaded: tokenizer.Tokenizer, own: Path) -> bool:
    try:
        return tokenizer.Tokenizer.load(own, loaded.style).fingerprint == loaded.fingerprint
    except (FileNotFoundError, ValueError):
        return False


def _train_tokenizer(config: Config, sources: mixture.Sources, folder: Path, missing: bool) -> None:
    """The first process trains it if it is missing; the others wait, and fail with it."""
    error: ValueError | None = None
    if missing and jax.process_index() == 0:
        screen.show(f"training a tokenizer of {config.model.vocab_size} entries")
        try:
            coverage = config.tokenizer.character_coverage
            tokenizer.train(sources.texts(), config.model.vocab_size, folder, coverage)
        except DataError as caught:
            error = caught
        except ValueError as caught:
            error = ConfigError(f"config.model.vocab_size and config.tokenizer: {caught}")
    saved_steps.raise_together(error, "training the tokenizer")
    if not config.tokenizer.path:  # the others may have one that the first process has put aside
        apart.bring(folder)
