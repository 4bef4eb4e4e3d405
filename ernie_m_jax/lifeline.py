"""What becomes of one process of a run is known to the others: a thread each, one line, and the end of all.

A process that dies leaves the others in a collective operation, on an accelerator for good. So each keeps a connection
to process 0, beside JAX's own. Where one breaks without a word, or says why its process ends, process 0 tells the
others; each prints the line and ends. A host that is cut off is noticed by the kernel's keep-alive probes, after
`DEAD_AFTER` seconds. A process that hangs keeps its connections: so each says over them now and then where it is, and
who listens judges (`training/watchdog.py`).
"""

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from ernie_m_jax import mirrors

DEAD_AFTER = 30  # seconds without an answer of the other host's kernel
RESTART = 42  # exit status that means "run me again": nothing is wrong with the command, and it goes on from a save
_FAILED = 1  # exit status of a process that ends since another one failed
_CONNECT = 20.0  # seconds
_GRACE = 1.0  # seconds for this process to say itself what another was the first to find
_NEWS = 3.0  # seconds that the end of a process takes to become known
_UPLOAD = 45.0  # seconds for this process to bring its work directory to a store
DUMPING = 5.0  # seconds for a process that hangs to say what it was doing; its disk may be what hangs
_SAYING = 1.0  # seconds that a line on the screen may take; nobody may read what that is connected to
_LEAVING = 2 * DUMPING + 2 * _SAYING  # seconds for the others to end, once they know that the run hangs
_ADDRESS = 256  # bytes of the address that process 0 sends to the others

_current: "Lifeline | None" = None
_at_hang: Callable[[str], None] | None = None


def start(host: str) -> None:
    """Connects the processes, if there are several; all of them call it, once JAX has connected them.

    Args:
      host: of process 0, as the others know it; empty: its own name for itself.
    """
    global _current
    if jax.process_count() > 1:
        _current = Lifeline(host)


def fail(status: int, problem: str) -> NoReturn:
    """Ends this process, whose problem is on the screen; where it is one of several, the others are told.

    It does not wait for the others, as JAX does at the end of a process: they may never come.
    """
    if _current is not None:
        _current.close(status, problem)
        leave(status)
    sys.exit(status)


def explain(elsewhere: bool = False) -> None:
    """Ends this process if another one has ended, which may be the cause of any error; otherwise it just returns.

    Where the cause is known to be `elsewhere`, that process has time to bring its work directory to a store, and to say
    it.
    """
    if _current is not None and _current.ended.wait(_NEWS + (_UPLOAD if elsewhere else 0)):
        time.sleep(_NEWS + _GRACE)  # the thread ends this process


def close(status: int = 0) -> None:
    """Says that this process ends well, with a status."""
    if _current is not None:
        _current.close(status, "")


def beat(doing: Mapping[str, Any]) -> None:
    """Tells the others that this process lives, and what it is doing."""
    if _current is not None:
        _current.beat(doing)


def heard() -> dict[int, tuple[int, Mapping[str, Any]]]:
    """Of each process that this one is connected to: how many words came from it, and what it was doing at the last.

    Those that have ended, or have said nothing yet, are left out.
    """
    return {} if _current is None else _current.heard()


def at_hang(act: Callable[[str], None]) -> None:
    """Has another process's `hang` call `act` with the problem, before this process ends."""
    global _at_hang
    _at_hang = act


def hang(problem: str, silent: Collection[int] = ()) -> NoReturn:
    """Ends this process and the others, since the run hangs, with the status that has them run again.

    Those that are silent heed nobody: on this machine they are killed, elsewhere they end once they wake.
    """
    if _current is not None:
        _current.hang(problem, silent)
    leave(RESTART)


class Lifeline:
    """The connections of this process to the others: all of them on process 0, one elsewhere."""

    def __init__(self, host: str) -> None:
        self.ended = threading.Event()  # another process has
        self._status: int | None = None  # that this process ends with, once it does
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._well: set[int] = set()
        self._gone: set[int] = set()  # whose connections are closed
        self._hangs = False  # the run does, and a thread is ending this process for it
        self._heard: dict[int, tuple[int, Mapping[str, Any]]] = {}
        self._own = {"pid": os.getpid(), "where": _where()}
        (self._listen() if jax.process_index() == 0 else self._call(host))
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def close(self, status: int, problem: str) -> None:
        """Tells the others that this process ends with a status, and why if that is a problem."""
        if self._hangs:  # an error now comes of the others' ends
            time.sleep(DUMPING + _LEAVING)
        self._status = status
        self._tell({"process": jax.process_index(), "problem": problem, "status": _FAILED})

    def beat(self, doing: Mapping[str, Any]) -> None:
        """Tells the others what this process is doing; never waits for one that does not read."""
        line = json.dumps({"doing": {**self._own, **doing}}).encode() + b"\n"
        with self._lock:
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.send(line, socket.MSG_DONTWAIT)

    def heard(self) -> dict[int, tuple[int, Mapping[str, Any]]]:
        """What the others said last; see the function."""
        return {process: said for process, said in list(self._heard.items()) if process not in self._well}

    def hang(self, problem: str, silent: Collection[int]) -> None:
        """Tells the others that the run hangs, and kills those that are silent on this machine.

        Process 0 then waits for the ends of those that heed: JAX aborts one that finds it gone, with a status that has
        nobody run it again.
        """
        self._hangs, self._status = True, RESTART
        self.ended.set()
        self._tell({"process": jax.process_index(), "problem": f"says: {problem}", "status": RESTART, "hangs": True})
        for process in silent:
            _, doing = self._heard[process]
            if doing["where"] and doing["where"] == self._own["where"]:
                with contextlib.suppress(OSError):
                    os.kill(doing["pid"], signal.SIGKILL)  # its connection stands, so the number is still its own
        heeding, end = self._connections.keys() - set(silent), time.monotonic() + _LEAVING
        while jax.process_index() == 0 and heeding - self._gone and time.monotonic() < end:
            time.sleep(0.05)

    def _listen(self) -> None:
        """Process 0: tells the others where, and takes their calls."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, backlog=jax.process_count(), dualstack_ipv6=dual) as server:
            token = secrets.token_hex(8)
            _broadcast(f"{socket.gethostname()} {server.getsockname()[1]} {token}")
            end = time.monotonic() + _CONNECT
            while len(self._connections) < jax.process_count() - 1 and (left := end - time.monotonic()) > 0:
                server.settimeout(left)
                with contextlib.suppress(OSError, ValueError):
                    connection, _ = server.accept()
                    connection.settimeout(5)
                    said = connection.makefile().readline().split()
                    if said[1:] == [token]:
                        self._add(int(said[0]), connection)
        if missing := [str(i) for i in range(1, jax.process_count()) if i not in self._connections]:
            print(f"warning: the end of process {', '.join(missing)} would only be seen by JAX", file=sys.stderr)

    def _call(self, host: str) -> None:
        """Any other process: calls process 0."""
        own, port, token = _broadcast("").split()
        host = host or own
        try:
            connection = socket.create_connection((host, int(port)), timeout=_CONNECT)
            connection.sendall(f"{jax.process_index()} {token}\n".encode())
            self._add(0, connection)
        except OSError as error:
            print(f"warning: no connection to process 0 at {host}:{port}: {error}", file=sys.stderr)

    def _add(self, process: int, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", (DEAD_AFTER - 10) // 5)):
            if hasattr(socket, option):  # macOS has other names
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._connections[process], self._partial[process] = connection, b""
        self._selector.register(connection, selectors.EVENT_READ, process)

    def _watch(self) -> None:
        """The thread: reads what the others say until one of them has ended badly."""
        while self._selector.get_map():
            for key, _ in self._selector.select():
                process, connection = key.data, self._connections[key.data]
                try:
                    read = connection.recv(4096)
                except OSError:
                    read = b""
                if not read:
                    self._selector.unregister(connection)
                    self._gone.add(process)
                    if process not in self._well:
                        self._stop(process, "is gone: nothing was heard of why; its own output may say it", RESTART)
                *lines, self._partial[process] = (self._partial[process] + read).split(b"\n")
                for line in lines:
                    self._heed(process, json.loads(line))

    def _heed(self, sender: int, said: Mapping[str, Any]) -> None:
        if "doing" in said:
            self._heard[sender] = (self._heard.get(sender, (0, {}))[0] + 1, said["doing"])
        elif said["problem"]:
            if said.get("hangs") and self._status is None:
                self._hangs = True
                self.ended.set()
                if _at_hang is not None:
                    _at_hang(said["problem"])
            self._stop(int(said["process"]), said["problem"], int(said["status"]))
        else:
            self._well.add(sender)

    def _stop(self, process: int, problem: str, status: int) -> None:
        """Another process has ended badly: the others are told, and this one ends.

        One that is just gone was most likely taken away with its host, which is a reason to run all of them again.
        """
        if self._hangs and self._status is not None:
            return  # `hang` ends this process
        self.ended.set()
        if jax.process_index() == 0:
            self._tell({"process": process, "problem": problem, "status": status}, but=process)
        if self._status is not None:  # this one has said its own, and waits for the other in JAX's last barrier
            leave(self._status)
        if status == _FAILED:
            # Where all have the same problem, each says it. One that is gone says nothing, and where that is process 0
            # JAX is about to abort this one.
            time.sleep(_GRACE)
            mirrors.wait_for_end(_UPLOAD)
        line = f"error: process {process} of {jax.process_count()} {problem}; all processes end\n"
        attempt(_SAYING, lambda: say(line))
        leave(status)

    def _tell(self, message: Mapping[str, Any], but: int = -1) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            for process, connection in self._connections.items():
                if process != but:
                    with contextlib.suppress(OSError):
                        connection.sendall(line)


def _where() -> str:
    """What names this machine and its numbering of processes, a container's own one; empty where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _broadcast(text: str) -> str:
    """What process 0 says, on all of them."""
    sent = np.zeros(_ADDRESS, np.uint8)
    sent[: len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent))).rstrip(b"\0").decode()


def leave(status: int) -> NoReturn:
    """Ends this process at once: one of its threads may wait for what never comes, or be in a compiler."""
    attempt(DUMPING, sys.stdout.flush, sys.stderr.flush)
    os._exit(status)


def attempt(seconds: float, *acts: Callable[[], Any]) -> None:
    """Calls functions side by side, and goes on after so many seconds: a disk or a pipe may never take what is written.

    Their errors of input and output are dropped: nobody is left to be told.
    """
    threads = [threading.Thread(target=_quietly, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(timeout=max(0.0, end - time.monotonic()))


def _quietly(act: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError, ValueError):
        act()


def say(text: str) -> None:
    """Writes to standard error at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
