"""The tokenizer of a run: trained by it or given, and then copied, so that a work directory needs nothing beside it."""

from pathlib import Path

import jax

from ernie_m_jax import tokenizer
from ernie_m_jax.checkpoint import apart, saved_steps
from ernie_m_jax.config import Config, ConfigError
from ernie_m_jax.data import mixture
from ernie_m_jax.data.records import DataError
from ernie_m_jax.reporting import files, screen
from ernie_m_jax.training import claim


def open_tokenizer(config: Config, workdir: Path, sources: mixture.Sources | None) -> tokenizer.Tokenizer:
    """The tokenizer of `tokenizer.path`, or the work directory's own where there is no path.

    Training, which has `sources`, makes the work directory's own if it is not there yet. From the first checkpoint on
    that is never replaced, and is taken where there is nothing at the path any more: the directory may have been moved.

    Raises:
      ConfigError: there is none, it cannot be used, or its vocabulary does not match `model.vocab_size`.
      FileNotFoundError: there is none at the path.
    """
    named, style = config.tokenizer.path, config.tokenizer.style
    if sources is not None and style == "xlm":
        raise ConfigError("config.tokenizer.style 'xlm' cuts one language at a time: it is for using a model only")
    own = workdir / "tokenizer"
    in_use = sources is None or claim.is_begun(workdir)
    missing = not named and not tokenizer.Tokenizer.is_in(own, style)
    if missing and sources is None:
        raise ConfigError(f"{workdir} holds no tokenizer and config.tokenizer.path names none")
    if sources is not None:
        _train_tokenizer(config, sources, own, missing)
    if in_use and named and tokenizer.Tokenizer.is_in(own, style) and not tokenizer.Tokenizer.is_in(named, style):
        screen.show(f"no tokenizer in {named} any more; taking the run's copy, {own}")
        named = ""
    try:
        loaded = tokenizer.Tokenizer.load(named or own, style)
    except ValueError as error:
        raise ConfigError(f"config.tokenizer.path: {error}" if named else str(error)) from None
    if loaded.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"config.model.vocab_size is {config.model.vocab_size}, but the tokenizer in {named or own} has "
            f"{loaded.vocab_size} entries: set --config.model.vocab_size={loaded.vocab_size}, "
            "or name the tokenizer that the model was trained with"
        )
    if sources is not None:
        _keep(loaded, own, in_use)
    return loaded


def _keep(loaded: tokenizer.Tokenizer, own: Path, in_use: bool) -> None:
    """The first process copies it into the work directory, before anything is trained; the others fail with it."""
    error: OSError | None = None
    if jax.process_index() == 0 and not in_use and not _is_kept(loaded, own):
        try:
            if own.exists() or own.is_symlink():
                kept = files.aside(own, "replaced")
                own.rename(kept)
                screen.show(f"{own} is not the tokenizer of this run; it is kept as {kept}")
            loaded.save(own)
        except OSError as caught:
            error = caught
    saved_steps.raise_together(error, "copying the tokenizer")


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
