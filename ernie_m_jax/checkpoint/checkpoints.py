"""Checkpoints: the train state and the data streams on disk and back. With `apart` the only module that knows Orbax.

In: the state (a pytree of possibly sharded `jax.Array`s), each virtual stream's position and a few facts about the run.
Out: the same, bit for bit, on any mesh, or a `CheckpointError` that says what is wrong with which file.

    <directory>/<step>/state/           the arrays, an Orbax pytree of nested dictionaries
    <directory>/<step>/streams/<name>.json
    <directory>/<step>/meta.json        step, tokenizer fingerprint, every array's shape and dtype, the caller's `meta`
    <directory>/<step>/manifest.json    size and SHA-256 of every file above; written last
    <directory>/selected.json           the step that model selection chose, if it did

A step counts only when its manifest is there, so neither a run killed in the middle of a save nor a stray directory can
be taken for a checkpoint. Orbax itself restores an array with a flipped bit silently; the manifest notices, and
reading the newest step falls back to the newest good one (`saved_steps`).

With several processes, `save`, `wait`, `newest_good` and `restore` are called by all of them at the same point of the
program. Process 0 writes `meta.json` and the manifest and does all renaming and deleting; each process writes the
streams it owns. Of a directory behind a URL each process has a mirror of its own: process 0 is given everything and
writes it alone, and the others see what is in the store (`apart`).
"""

import os
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from ernie_m_jax import config_fields, mirrors, stores
from ernie_m_jax.checkpoint import apart, saved_steps, tables, tree
from ernie_m_jax.checkpoint.manifest import CheckpointError, dump_json, load_json, write_manifest
from ernie_m_jax.config import TrainConfig

FORMAT = 1
META = "meta.json"


class Checkpoints:
    """The checkpoints of one run, in one local directory, perhaps of a mirror (`mirrors.py`).

    Nothing is created before the first `save`, so an instance also serves for reading another run's checkpoints.

    Args:
      directory: where the step directories lie.
      keep: how many of the newest to keep; 0 keeps all.
      keep_every: multiples of it are kept for good; 0: none is.
      fingerprint: the tokenizer's; a checkpoint written with another tokenizer is refused. None compares nothing, for
        reading a model together with its own tokenizer; "" is written for a model without one.
      words: entries of the vocabulary, where the state's tables may have more rows than that on the devices; what is
        on disk never has (`tables.py`). 0: they have as many.

    Raises:
      ConfigError: `keep` or `keep_every` is negative.
      CheckpointError: the directory is a URL.
    """

    def __init__(self, directory: Any, keep: int, fingerprint: str | None, words: int = 0, keep_every: int = 0):
        config_fields.check_value(TrainConfig, "max_to_keep", keep, "config.train.max_to_keep")
        config_fields.check_value(TrainConfig, "keep_every", keep_every, "config.train.keep_every")
        if stores.is_url(directory):
            raise CheckpointError(f"{directory} is a URL; mirrors.mirrored gives a local directory that stands for it")
        self.directory = epath.Path(os.path.abspath(directory))  # Orbax refuses relative paths
        self.keep, self.keep_every = keep, keep_every
        self.fingerprint = fingerprint
        self.words = words
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self._good: int | None = None  # the step that was found good last: need not be checked once more
        self._apart = apart.is_apart(self.directory)
        self._orbax = apart.checkpointer(self._apart)

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending."""
        return saved_steps.complete(self.directory)

    def latest(self) -> int | None:
        """Returns the newest step with a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def newest_good(self, set_aside: bool = False) -> int | None:
        """Returns the newest step all of whose files are as they were written, or None if no step is complete.

        Each damaged step that is passed over is printed with its damage.

        Args:
          set_aside: rename those to `<step>.damaged`; for the run that writes here, never for a reader of it.

        Raises:
          CheckpointError: no complete step is good; each is named with its damage.
        """
        self._settle()
        self._good = saved_steps.newest_good(self.directory, set_aside)
        return self._good

    def to_use(self) -> int | None:
        """Returns the step to use the model of: the selected one, else the newest good one; None without any.

        Raises:
          CheckpointError: as `newest_good` and `saved_steps.selected_good`.
        """
        self._settle()
        self._good = saved_steps.selected_good(self.directory)
        return self.newest_good() if self._good is None else self._good

    def save(
        self, step: int, state: Any, streams: Mapping[str, Any], meta: Mapping[str, Any], selected: bool = False
    ) -> None:
        """Starts writing a checkpoint and returns as soon as the caller may donate or overwrite `state`.

        A save still under way is waited for first. A complete checkpoint of the same step is left as it is; a
        half-written one is replaced. Checkpoints beyond `keep` are deleted only once the new one is complete.

        Args:
          step: updates done so far.
          state: pytree of `jax.Array`s; its top level has an entry `params` if `restore_params` is to work.
          streams: JSON-able position of each virtual stream that this process owns.
          meta: JSON-able facts to keep with it, such as the stage and versions.
          selected: it is the one to use so far; it is kept until another is.

        Raises:
          CheckpointError: this save could not begin, or the previous one failed in the background.
          TypeError: a leaf is no `jax.Array`, or a value is not JSON-able.
          ValueError: a stream's name cannot be a file name.
        """
        self.wait()
        if saved_steps.of_first_process(step in self.steps()):
            if selected:
                saved_steps.select(self.directory, step)
                if jax.process_index() == 0:  # the one that was selected until now
                    saved_steps.delete_old(self.directory, self.keep, step, self.keep_every)
            return
        target = self.directory / str(step)
        arrays = {name: tree.checked(name, leaf) for name, leaf in tree.named(state).items()}
        arrays = {name: tables.without_padding(name, array, self.words) for name, array in arrays.items()}
        small = {f"streams/{tree.checked_stream(name)}.json": dump_json(value) for name, value in streams.items()}
        if jax.process_index() == 0:
            index = {name: tree.described(leaf) for name, leaf in arrays.items()}
            record = {"format": FORMAT, "step": step, "tokenizer": self.fingerprint, "state": index, "meta": dict(meta)}
            small[META] = dump_json(record)
        try:
            nested = tree.nest(arrays)
            if self._apart:
                nested, small = apart.gathered(nested), apart.texts(small)
            self._begin(target, nested, small)
        except Exception as error:
            raise self._failed(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, selected), name=f"checkpoint-{step}")
        self._thread.start()
        if (mirror := mirrors.of(self.directory)) is not None:
            mirror.keep_for(self._thread)

    def _settle(self) -> None:
        """Waits for the save under way; after it every process sees what the first one has written."""
        self.wait()
        if self._apart:
            apart.bring(self.directory)

    def wait(self) -> None:
        """Blocks until the save under way is on disk.

        Raises:
          CheckpointError: it failed; earlier ones are untouched and the partial directory is removed if possible.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        saved_steps.raise_together(failure, "waiting for a checkpoint")

    def restore(self, step: int | None, abstract: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Reads a checkpoint after checking every file of it.

        Args:
          step: which one; None is the newest good one.
          abstract: pytree of `jax.ShapeDtypeStruct`s with shardings, like the state; the arrays are created with these
            shardings, whatever mesh they were saved from.

        Returns:
          The state with the structure of `abstract`, all streams by name, and `meta` as it was saved.

        Raises:
          CheckpointError: no such checkpoint; a missing, altered or unlisted file; another tokenizer; or arrays that
            differ in name, shape or dtype from `abstract`.
          ValueError: a leaf of `abstract` has no sharding.
        """
        directory, record = self._open(step)
        state = self._read(directory, record["state"], abstract, prefix="", partial=False)
        folder = directory / "streams"
        paths = sorted(folder.iterdir()) if folder.exists() else []
        streams = {path.name.removesuffix(".json"): load_json(path) for path in paths}
        return state, streams, record["meta"]

    def restore_params(self, step: int | None, abstract: Any, *, partial: bool = False) -> Any:
        """Reads only the parameters (the state's entry `params`); the optimizer's arrays are never loaded.

        All files are still checked, since one file holds chunks of many arrays.

        Args:
          step: which one; None is the newest good one.
          abstract: like the parameters, `jax.ShapeDtypeStruct`s with shardings.
          partial: allow parameters in the checkpoint that `abstract` does not have (say, a head that fine-tuning
            drops). Every parameter of `abstract` must always be there.

        Returns:
          The parameters, with the structure of `abstract`.

        Raises:
          CheckpointError: as for `restore`.
          ValueError: a leaf of `abstract` has no sharding.
        """
        directory, record = self._open(step)
        return self._read(directory, record["state"], abstract, prefix="params/", partial=partial)

    def contents(self, step: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns each saved array's name (`params/embeddings/word`) with its shape and dtype, reading no array.

        Only a step that `newest_good` returned has been checked for damage.

        Raises:
          CheckpointError: no such checkpoint, or unreadable.
        """
        record = load_json(saved_steps.existing(self.directory, step) / META)
        return {
            name: jax.ShapeDtypeStruct(tuple(entry["shape"]), np.dtype(entry["dtype"]))
            for name, entry in record["state"].items()
        }

    def meta(self, step: int) -> dict[str, Any]:
        """Returns `meta` as it was saved with a step, which need not have been checked for damage.

        Raises:
          CheckpointError: no such checkpoint, or unreadable.
        """
        record = load_json(path := saved_steps.existing(self.directory, step) / META)
        if not isinstance(record, dict) or not isinstance(record.get("meta"), dict):
            raise CheckpointError(f"{path} is damaged: it has no meta")
        return record["meta"]

    # Writing.

    def _begin(self, target: Any, nested: Any, small: Mapping[str, str]) -> None:
        """Makes an empty step directory, writes the small files and hands the arrays, copied to the host, to Orbax."""
        error: OSError | None = None
        try:
            if jax.process_index() == 0:
                if target.exists():
                    target.rmtree()
                (target / "streams").mkdir(parents=True)
        except OSError as caught:
            error = caught
        saved_steps.raise_together(error, f"creating {target}")
        try:
            for name, text in small.items():
                (target / name).write_text(text)
        except OSError as caught:
            error = caught
        saved_steps.raise_together(error, f"writing to {target}")
        if self._apart and jax.process_index() != 0:
            return
        # The loop runs under a transfer guard; this copy to the host is meant.
        with jax.transfer_guard("allow"):
            self._orbax.save(target / "state", args=ocp.args.PyTreeSave(nested))

    def _finish(self, step: int, selected: bool) -> None:
        """Background thread: after Orbax the manifest, then the deleting of old steps, then a mirror's push."""
        target = self.directory / str(step)
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                write_manifest(target)
                if selected:
                    saved_steps.select(self.directory, step)
        except Exception as error:
            self._failure = self._failed(step, error)
            self._failure.__cause__ = error
            logging.error("%s", self._failure)
            return
        try:
            if jax.process_index() == 0:
                saved_steps.delete_old(self.directory, self.keep, step, self.keep_every)
            mirrors.push(self.directory)
        except Exception as error:
            what = "deleting an old one" if mirrors.of(self.directory) is None else "bringing the store up to date"
            self._failure = CheckpointError(f"step {step} is saved, but {what} in {self.directory} failed: {error}")
            self._failure.__cause__ = error
            logging.error("%s", mirrors.named(str(self._failure)))

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """Removes what there is of a step and returns the error to raise."""
        target = self.directory / str(step)
        left = ""
        if jax.process_index() == 0:
            try:
                if target.exists():
                    target.rmtree()
            except OSError as caught:
                left = f"; its partial directory could not be removed ({caught}) and does not count as a checkpoint"
        cause = str(error).strip() or "no message"
        return CheckpointError(
            f"saving step {step} to {target} failed, earlier checkpoints are intact: "
            f"{type(error).__name__}: {cause}{left}"
        )

    # Reading.

    def _open(self, step: int | None) -> tuple[Any, dict[str, Any]]:
        """Checks all files and the tokenizer; returns the directory and `meta.json`."""
        self.wait()
        step = self.newest_good() if step is None else step
        if step != self._good:
            self._settle()
        directory = saved_steps.existing(self.directory, step)
        if step != self._good:
            saved_steps.check(directory)
        record = load_json(directory / META)
        if record["format"] != FORMAT:
            raise CheckpointError(f"{directory / META} has format {record['format']}; this version reads {FORMAT}")
        if record["tokenizer"] and self.fingerprint is not None and record["tokenizer"] != self.fingerprint:
            raise CheckpointError(
                f"{directory} was written with tokenizer {record['tokenizer']}, but this run's is "
                f"{self.fingerprint}; config.tokenizer.path must name the one it was written with"
            )
        return directory, record

    def _read(self, directory: Any, saved: Mapping[str, Any], abstract: Any, *, prefix: str, partial: bool) -> Any:
        """Reads the arrays that `abstract` asks for below `prefix`."""
        placed = {prefix + name: leaf for name, leaf in tree.named(abstract).items()}
        wanted = {name: tables.saved(name, leaf, self.words) for name, leaf in placed.items()}
        have = {name: entry for name, entry in saved.items() if name.startswith(prefix)}
        tree.match(directory, have, wanted, partial=partial)
        arguments = {
            name: ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)
            for name, leaf in wanted.items()
        }
        request = ocp.args.PyTreeRestore(
            item=tree.nest(wanted), restore_args=tree.nest(arguments), partial_restore=len(wanted) < len(saved)
        )
        try:
            with jax.transfer_guard("allow"):
                restored = self._orbax.restore(directory / "state", args=request)
        except Exception as error:
            raise CheckpointError(f"reading {directory / 'state'} failed: {type(error).__name__}: {error}") from error
        arrays = tree.named(restored)
        whole = [tables.with_padding(arrays[name], leaf) for name, leaf in placed.items()]
        return jax.tree.unflatten(jax.tree.structure(abstract), whole)
