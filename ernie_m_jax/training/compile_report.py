"""What compiling ahead found, on the screen: `compile`'s numbers in, tables out."""

from collections.abc import Mapping
from typing import Any

import rich.table

from ernie_m_jax.reporting import screen

_MEMORY = ("arguments", "outputs", "aliased", "temporary", "code", "total")


def show_about(about: Mapping[str, Any]) -> None:
    """Prints what is compiled for, before the compiler starts."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in about["mesh"].items())
    chip, chips = about["chip"], about["chips"]
    known = f", {chip['gib']} GiB and {chip['teraflops']:g} TFLOP/s (bfloat16) each" if chip else ""
    name = f"{about['topology']}: " if about["topology"] else ""
    kind = chip["kind"] if about["virtual"] else about["device"]
    lines = [
        f"{name}{chips} x {kind}{known}; mesh {mesh}",
        f"{about['batch_size']} rows of {about['sequence_length']} tokens in {about['grad_accumulation_steps']} parts; "
        f"{about['dtype']}, attention {about['attention']}, layer norm {about['layer_norm']}, remat {about['remat']}",
    ]
    if about["virtual"]:
        lines.append(
            "XLA's compiler for GPUs is not installed: these are as many virtual devices of its CPU compiler. The "
            "partitioner is the same, so the collectives count; the memory is what the CPU's code would take, an "
            "estimate, without the kernels for GPUs. The compiler needs no GPU: make compilers, then "
            "PYTHONPATH=.venv/compilers (docs/compile.md)."
        )
    elif chip and about["topology"] and not chip["axes"]:
        lines.append(
            "XLA's compiler for GPUs, without a GPU: which of several ways to multiply is fastest it cannot try out, "
            "so on the card products, and the memory that they take besides, may be others."
        )
    if chip and about["dtype"] != "bfloat16":
        lines.append(f"The peak is bfloat16's, but config.compute.dtype is {about['dtype']}.")
    screen.show(*lines)


def show_results(about: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints memory, floating point operations and collectives of each step."""
    screen.show(_memory(about, results), _work(about, results))
    if any(step.get("largest") for step in results.values()):
        screen.show(_program(results), _largest(results))
    if any(step["collectives"] for step in results.values()):
        screen.show(_traffic(results))
        screen.show(
            "Bytes of the arrays that a device gives into a collective (of all-gather: gets), per step; a loop's body "
            "as often as it runs, of a conditional the branch with the fewest bytes (at most: with the most)."
        )
    for name, step in results.items():
        if reason := step.get("unreadable"):
            screen.show(
                f"{name}: its products, arrays and collectives are not known, the compiled program cannot be read "
                f"({reason})"
            )
    if loops := sum(step["unknown_loops"] for step in results.values()):
        screen.show(f"{loops} loops do not say how often they run; what they have is counted once.")


def verdict(step: Mapping[str, Any]) -> str:
    """Whether a step fits into a chip's memory."""
    if step["fits"] is None:
        return "unknown"
    if step["fits"]:
        return "fits"
    missing = step["missing_gib"]
    return "does not fit" + (f" by {missing:.2f} GiB" if missing is not None else f": {step['refused']}")


def _memory(about: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    chip = about["chip"]
    title = "Memory per chip, GiB" + (f", of {chip['gib']}" if chip else "")
    table = rich.table.Table("step", title=title)
    for kind in _MEMORY:
        table.add_column(kind, justify="right")
    table.add_column("")
    for name, step in results.items():
        sizes = [f"{step['gib'][kind]:.3f}" for kind in _MEMORY] if step["gib"] else ["-"] * len(_MEMORY)
        table.add_row(name, *sizes, verdict(step))
    return table


def _work(about: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    share = f"{100 * about['utilisation']:g} %"
    table = rich.table.Table("step", title="Floating point operations by the formula, full rows")
    for column in ("GFLOP per token", "of generation", "PFLOP per step", f"tokens/s at {share} of peak"):
        table.add_column(column, justify="right")
    for name, step in results.items():
        written, speed = step["gflop_written_per_token"], step["tokens_per_second"]
        table.add_row(
            name,
            f"{step['gflop_per_token']:.3f}",
            f"{written:.3f}" if written else "",
            f"{step['pflop_per_step']:.3g}",
            f"{speed:,.0f}" if speed else "-",
        )
    return table


def _program(results: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    table = rich.table.Table("step", title="By the program's text, without what kernels of our own compute")
    for column in (
        "PFLOP in products",
        "of the formula",
        "GiB through a chip's memory",
        "besides products and kernels",
    ):
        table.add_column(column, justify="right")
    for name, step in results.items():
        if "products_pflop" in step:
            pflop, by_products, besides = (step[key] for key in ("products_pflop", "moved_gib", "moved_gib_besides"))
            share = f"{pflop / step['pflop_per_step']:.0%}"
            table.add_row(name, f"{pflop:.3g}", share, f"{by_products + besides:,.1f}", f"{besides:,.1f}")
    return table


def _largest(results: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    table = rich.table.Table("step", "shape", title="Largest arrays that a chip makes")
    table.add_column("GiB", justify="right")
    table.add_column("by")
    for name, step in results.items():
        for array in step.get("largest", ()):
            made_by = "/".join(array["made_by"].rsplit("/", 2)[-2:])  # the whole path is in the JSON
            table.add_row(name, array["shape"], f"{array['gib']:.3f}", made_by)
    return table


def _traffic(results: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    table = rich.table.Table("step", "collective", title="Collectives per step")
    for column in ("count", "GiB", "at most"):
        table.add_column(column, justify="right")
    for name, step in results.items():
        for kind, traffic in step["collectives"].items():
            sizes = (f"{traffic[key] / 2**30:.3f}" for key in ("bytes", "at_most"))
            table.add_row(name, kind, f"{traffic['count']:,.0f}", *sizes)
    return table
