"""Joining the other processes of a run: flags, environment or a cluster's own variables in, JAX's processes connected.

    plain hosts   --coordinator=HOST:PORT --processes=N --process=I, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
                  JAX_PROCESS_ID
    Slurm         srun starts a task per GPU; JAX reads the rest from Slurm's variables, and takes one GPU per task.
                  launch/slurm.sbatch starts one per node, with the variables of plain hosts: it takes all GPUs there
    TPU pods      every worker runs the same command, outside GKE with ERNIE_M_JAX_DISTRIBUTED=1; JAX reads the rest
                  from the machine

On plain hosts the processes meet before JAX does, at the same address: JAX ends a process with a stack trace where
another does not come, and here it is to be one line that says which.
"""

import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import jax

from ernie_m_jax.config import ConfigError

VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "processes": "JAX_NUM_PROCESSES",
    "process": "JAX_PROCESS_ID",
}
JOIN_SECONDS = 300
HEARTBEAT_SECONDS = 45  # without a sign of life JAX takes a process for dead; `lifeline` mostly knows earlier
_GRACE = 10.0  # seconds for process 0 to say that its time is over


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among several: where they meet, how many there are, and which it is, from 0."""

    host: str
    port: int
    processes: int
    process: int


def join(given: Mapping[str, str | None], seconds: float = JOIN_SECONDS) -> str | None:
    """Connects this process with the others of its run, if there are any.

    Args:
      given: values of the flags named in `VARIABLES`; None where the environment speaks.
      seconds: how long to wait for the others.

    Returns:
      The host of process 0 as the others know it, empty where only the cluster does; None where this process is alone.

    Raises:
      ConfigError: the flags do not fit together, or not all processes came within the time.
    """
    place = find(given, os.environ)
    if place is None and not in_cluster(os.environ):
        return None
    times: dict[str, Any] = {
        "initialization_timeout": int(seconds),
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
    }
    if place is None:
        jax.distributed.initialize(**times)
    else:
        meet(place, seconds)
        # "deactivate": or within Slurm it would take only the GPU numbered SLURM_LOCALID
        jax.distributed.initialize(
            f"{place.host}:{place.port}",
            place.processes,
            place.process,
            cluster_detection_method="deactivate",
            **times,
        )
    return "" if place is None else place.host


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a cluster started several processes whose number JAX finds out by itself."""
    slurm = environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environment
    pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return slurm or pod or bool(environment.get("ERNIE_M_JAX_DISTRIBUTED"))


def find(given: Mapping[str, str | None], environment: Mapping[str, str]) -> Place | None:
    """This process's place by flags or environment; None where neither says anything.

    Raises:
      ConfigError: something is missing or no number, or the process is not one of so many.
    """
    named = {name: f"--{name}" if given.get(name) is not None else variable for name, variable in VARIABLES.items()}
    values = {name: given.get(name) or environment.get(variable) for name, variable in VARIABLES.items()}
    if not any(values.values()):
        return None
    if missing := [name for name, value in values.items() if not value]:
        said = " and ".join(named[name] for name, value in values.items() if value)
        wanted = " and ".join(f"--{name} ({VARIABLES[name]})" for name in missing)
        raise ConfigError(f"{said} without {wanted}: several processes need all three")
    host, colon, port = str(values["coordinator"]).rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"{named['coordinator']} is {values['coordinator']!r}; it must be HOST:PORT of process 0")
    numbers = {}
    for name in ("processes", "process"):
        text = str(values[name])
        if not text.isdecimal():
            raise ConfigError(f"{named[name]} is {text!r}; it must be a number from 0")
        numbers[name] = int(text)
    if not numbers["process"] < numbers["processes"]:
        raise ConfigError(
            f"{named['process']} is {numbers['process']}, but {named['processes']} is {numbers['processes']}: "
            "processes count from 0"
        )
    return Place(host.strip("[]"), int(port), **numbers)


def meet(place: Place, seconds: float) -> None:
    """Waits until all processes are there.

    Raises:
      ConfigError: they are not within the time, or disagree.
    """
    if place.processes > 1:
        (_wait if place.process == 0 else _call)(place, time.monotonic() + seconds, seconds)


def _wait(place: Place, end: float, seconds: float) -> None:
    """Process 0: collects the others, then tells them to go on, or what is wrong."""
    came: dict[int, socket.socket] = {}
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(
            ("", place.port), family=family, backlog=place.processes, dualstack_ipv6=dual
        ) as server:
            while len(came) < place.processes - 1:
                server.settimeout(max(end - time.monotonic(), 0.01))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = ", ".join(str(i) for i in range(1, place.processes) if i not in came)
                    _refuse(
                        came.values(), f"{len(came) + 1} of {place.processes} processes came within {seconds:g} s; "
                        f"missing: {missing}"
                    )  # fmt: skip
                _take(place, connection, came)
        _tell(came.values(), {})
    except OSError as error:
        raise ConfigError(f"process 0 cannot wait at port {place.port}: {error}") from error
    finally:
        for connection in came.values():
            connection.close()


def _take(place: Place, connection: socket.socket, came: dict[int, socket.socket]) -> None:
    """Adds one process to those that came; whoever says nothing sensible is none."""
    try:
        connection.settimeout(5)
        said = json.loads(connection.makefile().readline())
        process, processes = int(said["process"]), int(said["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return
    everyone = [*came.values(), connection]
    if processes != place.processes:
        _refuse(everyone, f"process {process} was told of {processes} processes, process 0 of {place.processes}")
    if process in came or not 0 < process < place.processes:
        _refuse(everyone, f"two processes say that they are process {process}")
    came[process] = connection


def _tell(connections: Iterable[socket.socket], message: dict[str, str]) -> None:
    for connection in connections:
        try:
            connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            continue  # it is gone; its own process says why


def _refuse(connections: Iterable[socket.socket], problem: str) -> NoReturn:
    _tell(connections, {"error": problem})
    raise ConfigError(problem)


def _call(place: Place, end: float, seconds: float) -> None:
    """Any other process: calls process 0 until it answers."""
    address = f"{place.host}:{place.port}"
    reason: Exception | str = "no answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection((place.host, place.port), timeout=max(end - time.monotonic(), 0.01)) as one:
                one.settimeout(seconds + _GRACE)  # process 0 is there, and waits for the rest as long as it was told
                one.sendall(json.dumps({"process": place.process, "processes": place.processes}).encode() + b"\n")
                line = one.makefile().readline()
        except (OSError, ValueError) as error:
            reason = error
        else:
            if line:
                _heed(line, address)
                return
        time.sleep(0.2)
    raise ConfigError(f"process {place.process} did not reach process 0 at {address} within {seconds:g} s: {reason}")


def _heed(line: str, address: str) -> None:
    try:
        problem = json.loads(line).get("error")
    except (ValueError, AttributeError):
        raise ConfigError(f"what answers at {address} is no process of this run: is the port another's?") from None
    if problem:
        raise ConfigError(problem)
