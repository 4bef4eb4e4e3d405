"""What may end a run early: a signal to stop (preemption, Ctrl-C). The loop polls; no step is cut short."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was told to stop and has saved its state; the message says how to go on."""


class StopRequest:
    """Catches SIGTERM and SIGINT while it is entered; a second signal is not caught."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # With several hosts JAX's preemption service owns SIGTERM; a handler of ours would keep the signal from it.
        for number in (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def due(self, step: int) -> bool:
        """True once all hosts are to stop after `step`; with several hosts they agree on the step."""
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
