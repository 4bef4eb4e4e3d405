"""What `tests.chaos_faults` does to a run: acts in its process, given its work directory and data; disks that fail."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

AT, SAVE = 5, 8  # the step after which most faults come; the save that is disturbed


def after_step(act: Callable[[], object], step: int = AT) -> None:
    """Has the process act once a step's numbers were read."""
    from ernie_m_jax.reporting import metrics

    read = metrics.Meter.read

    def disturbed(self: metrics.Meter, done: metrics.Step) -> dict[str, float]:
        found = read(self, done)
        if done.index == step:
            act()
        return found

    metrics.Meter.read = disturbed


def before_save(act: Callable[[], object], step: int = SAVE) -> None:
    """Has the process act before a save."""
    from ernie_m_jax.checkpoint.checkpoints import Checkpoints

    save = Checkpoints.save

    def disturbed(self: Checkpoints, index: int, *given: Any, **keys: Any) -> None:
        if index == step:
            act()
        save(self, index, *given, **keys)

    Checkpoints.save = disturbed


def fill(workdir: Path) -> None:
    """Takes all the room there is on the disk of the work directory."""
    with contextlib.suppress(OSError), (workdir / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def metrics_full(name: str) -> Callable[[Path, Path], None]:
    """The lines, or TensorBoard's events, go to a disk that is full."""

    def inside(workdir: Path, data: Path) -> None:
        from ernie_m_jax.reporting import metrics

        init = metrics.MetricsWriter.__init__

        def full(self: metrics.MetricsWriter, *given: Any) -> None:
            init(self, *given)
            if name == "lines":
                after_step(lambda: setattr(self, "_file", open("/dev/full", "a")))  # noqa: SIM115
            else:
                writer = self._board.file_writer.event_writer._ev_writer._py_recordio_writer
                after_step(lambda: setattr(writer, "_writer", open("/dev/full", "wb")))  # noqa: SIM115

        metrics.MetricsWriter.__init__ = full

    return inside


def unreadable(workdir: Path, data: Path) -> None:
    """What lies in the newest checkpoint's `state` cannot be read."""
    from ernie_m_jax.checkpoint import manifest

    digest, newest = manifest._digest, max(int(path.name) for path in (workdir / "one" / "checkpoints").iterdir())

    def failing(path: Any) -> dict[str, Any]:
        if f"/{newest}/state/" in os.fspath(path):
            raise OSError(5, "Input/output error", os.fspath(path))
        return digest(path)

    manifest._digest = failing


def unreadable_data(workdir: Path, data: Path) -> None:
    """After a step the data cannot be read."""

    def failing(*given: Any) -> bytes:
        raise OSError(5, "Input/output error")

    after_step(lambda: setattr(os, "pread", failing))


def backwards(workdir: Path, data: Path) -> None:
    """The clock on the wall goes back by hours, again and again."""
    told, rng, behind = time.time, random.Random(0), [0.0]

    def clock() -> float:
        behind[0] += rng.uniform(0, 5 * 3600) if rng.random() < 0.1 else 0.0
        return told() - behind[0]

    time.time, time.time_ns = clock, lambda: int(clock() * 1e9)


def cut(workdir: Path, data: Path) -> None:
    """After a step a half of each file is gone."""
    after_step(lambda: [os.truncate(path, path.stat().st_size // 2) for path in data.iterdir()])


def remove(workdir: Path, data: Path) -> None:
    """After a step the files are gone."""
    after_step(lambda: [path.unlink() for path in data.iterdir()])


def extend(workdir: Path, data: Path) -> None:
    """After a step there are more lines."""
    after_step(lambda: [path.write_text(path.read_text() + "one more line\n") for path in data.iterdir()])


def stop(workdir: Path, data: Path) -> None:
    """After a step a scheduler takes the machine."""
    after_step(lambda: os.kill(os.getpid(), signal.SIGTERM))


def pause(workdir: Path, data: Path) -> None:
    """A step takes long enough for another run to be refused."""
    after_step(lambda: time.sleep(30))


def kill_worker(workdir: Path, data: Path) -> None:
    """After the second step one of the processes that make batches is killed, before it has made all of them."""
    import multiprocessing

    after_step(lambda: os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL), 1)


@contextlib.contextmanager
def small_disk(workdir: Path) -> Iterator[None]:
    """The work directory on a disk of its own; what was filled is free again behind it."""
    kept = workdir.with_name("kept")
    shutil.copytree(workdir, kept)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", workdir], check=True)
    try:
        shutil.copytree(kept, workdir, dirs_exist_ok=True)
        yield
    finally:
        (workdir / "filler").unlink(missing_ok=True)
        shutil.rmtree(kept)
        shutil.copytree(workdir, kept)
        subprocess.run(["umount", workdir], check=True)
        shutil.copytree(kept, workdir, dirs_exist_ok=True)
        shutil.rmtree(kept)


@contextlib.contextmanager
def read_only(workdir: Path) -> Iterator[None]:
    """The work directory is mounted for reading alone."""
    subprocess.run(["mount", "--bind", workdir, workdir], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", workdir], check=True)
        yield
    finally:
        subprocess.run(["umount", workdir], check=True)


@contextlib.contextmanager
def immutable(workdir: Path) -> Iterator[None]:
    """Nothing can be made among the checkpoints, whoever tries."""
    folder = workdir / "one" / "checkpoints"
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
