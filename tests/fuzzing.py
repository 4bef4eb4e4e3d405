"""Gives damaged and hostile files to every reader, and shows what becomes of them.

    python -m tests.fuzzing --inputs 10000 [--reader NAME ...] [--seed N] [--keep DIR]

The readers run in a process of their own. An input that takes too long, takes too much memory, ends the process or
raises what the reader does not document is a finding: one input of each kind is kept in `--keep`, and the command ends
with status 1. The same seed gives the same inputs, whatever was found before them.

Memory: what a process may allocate is limited to that above what it holds at its start (RLIMIT_DATA); what is more is
a MemoryError. The peak is that of resident memory, above the same.
"""

import argparse
import collections
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.hostile_readers import READERS

SECONDS = 10
MEGABYTES = 1000
STARTING = 120  # seconds until the process has imported everything


class Counts(NamedTuple):
    """What became of a reader's inputs: `findings` is kind -> number and the first input."""

    inputs: int
    accepted: int
    refused: int
    seconds: float
    megabytes: float
    findings: dict[str, tuple[int, int]]


def case_of(reader, seed, index, cases):
    """The input `index` of a reader: files by path."""
    rng = random.Random(f"{seed} {reader} {index}")
    return READERS[reader].mutate(rng, rng.choice(cases))


def put(case, folder):
    """Writes a case's files into a folder that had another's."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def outcome(reader, folder):
    """ "accepted", "refused", or what was found."""
    known = READERS[reader]
    try:
        known.read(folder)
    except known.refusals as error:
        text = str(error)
        if ("\n" in text and not known.lines) or not text.strip():
            return f"{type(error).__name__} of several lines or none, {_place(error)}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}, {_place(error)}: {' '.join(str(error).split())[:120]}"
    return "accepted"


def _place(error):
    """The last line of this project's that an exception came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ernie_m_jax" in frame.filename]
    frames = frames or traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _kind(found):
    """What makes two findings the same."""
    return re.sub(r"(\.py:\d+): .*", r"\1", found)


def _status(key):
    """A line of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1000
    raise ValueError(key)


def _work(pipe, jobs, seed, folder, megabytes):
    """The process of the readers: (reader, index, outcome) after each input, (reader, None, peak) after each job."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    cases = {reader: READERS[reader].cases() for reader, _, _ in jobs}
    for reader, made in cases.items():  # what is imported, compiled and cached at the first use is no input's
        for case in made:
            put(case, folder)
            outcome(reader, folder)
    limit = int((_status("VmData") + megabytes) * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    pipe.send(("", None, 0))
    for reader, start, stop in jobs:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        held = _status("VmRSS")
        for index in range(start, stop):
            try:
                put(case_of(reader, seed, index, cases[reader]), folder)
            except Exception:
                pipe.send((reader, index, RuntimeError(f"{reader}, input {index}: {traceback.format_exc()}")))
                return
            pipe.send((reader, index, outcome(reader, folder)))
        pipe.send((reader, None, _status("VmHWM") - held))


def run(readers, inputs, seed, keep=None, seconds=SECONDS, megabytes=MEGABYTES):
    """Gives each reader with its `Counts` of as many inputs, one after the other, in one process as long as it lives.

    One input of each kind of finding is put into the folder `keep`.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk is ten times slower
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir=memory) as place:
        todo = [(reader, 0, inputs) for reader in readers]
        outcomes = {reader: {} for reader in readers}
        peaks, spent = dict.fromkeys(readers, 0.0), dict.fromkeys(readers, 0.0)
        while todo:
            for reader in _process(todo, seed, Path(place), (seconds, megabytes), (outcomes, peaks, spent)):
                counts = _counted(outcomes.pop(reader), spent[reader], peaks[reader])
                if keep is not None and counts.findings:
                    cases = READERS[reader].cases()
                    for _, index in counts.findings.values():
                        folder = Path(keep) / re.sub(r"\W+", "_", reader) / f"{seed}-{index}"
                        put(case_of(reader, seed, index, cases), folder)
                yield reader, counts


def _counted(outcomes, seconds, megabytes):
    """The counts of a reader's outcomes, which are by the input's number."""
    found = [(index, what) for index, what in outcomes.items() if what not in ("accepted", "refused")]
    kinds = collections.Counter(_kind(what) for _, what in found)
    first = {_kind(what): (what, index) for index, what in reversed(found)}
    count = collections.Counter(outcomes.values())
    findings = {what: (kinds[kind], index) for kind, (what, index) in first.items()}
    return Counts(len(outcomes), count["accepted"], count["refused"], seconds, megabytes, findings)


def _process(todo, seed, place, limits, seen):
    """Runs a process until it is done or dies: gives each reader that is done, and leaves the other jobs in `todo`."""
    outcomes, peaks, spent = seen
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(end, list(todo), seed, place / "input", limits[1]), daemon=True)
    worker.start()
    end.close()
    since, patience = time.monotonic(), STARTING
    try:
        while todo:
            reader, start, stop = todo[0]
            what = f"more than {limits[0]} seconds"
            if pipe.poll(patience):
                try:
                    reader_there, index, what = pipe.recv()
                except EOFError:
                    worker.join()
                    what = f"the process ended with {worker.exitcode}"
                else:
                    if isinstance(what, RuntimeError):  # the fuzzer's own mistake
                        raise what
                    spent[reader] += 0 if patience == STARTING else time.monotonic() - since
                    since, patience = time.monotonic(), limits[0]
                    if reader_there and index is None:
                        peaks[reader] = max(peaks[reader], what)
                        todo.pop(0)
                        yield reader
                    elif reader_there:
                        outcomes[reader][index] = what
                        todo[0] = (reader, index + 1, stop)
                    continue
            if patience == STARTING:
                raise RuntimeError(f"the readers' process did not start: {what}")
            outcomes[reader][start] = what
            todo[0] = (reader, start + 1, stop)
            return
    finally:
        worker.kill()
        worker.join()
        pipe.close()


def table(results):
    """The results as the rows of a Markdown table."""
    rows = ["| reader | inputs | accepted | refused | findings | seconds | peak MB |", "| --- |" + " ---: |" * 6]
    for reader, counts in results.items():
        found = sum(number for number, _ in counts.findings.values())
        numbers = (counts.inputs, counts.accepted, counts.refused, found)
        cells = [f"{number:,}" for number in numbers] + [f"{counts.seconds:.0f}", f"{max(counts.megabytes, 0):.0f}"]
        rows.append(f"| {reader} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(arguments=None):
    """The command; gives its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="per reader")
    parser.add_argument("--reader", action="append", choices=READERS, help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="runs/fuzz", help="where inputs that were found are put")
    given = parser.parse_args(arguments)
    results = {}
    for reader, counts in run(given.reader or list(READERS), given.inputs, given.seed, given.keep):
        results[reader] = counts
        print(table({reader: counts}).splitlines()[-1], flush=True)
        for what, (number, index) in counts.findings.items():
            print(f"  {number} x {what} (--seed {given.seed}, input {index})", flush=True)
    print(table(results))
    return int(any(counts.findings for counts in results.values()))


if __name__ == "__main__":
    sys.exit(main())
