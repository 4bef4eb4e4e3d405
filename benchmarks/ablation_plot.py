"""Draws what `ablation.py` found: retrieval of each arm on the test texts, a dot per seed.

python benchmarks/ablation_plot.py benchmarks/results/ablation.json docs/images/ablation.png
"""

import json
import pathlib
import sys
from statistics import mean

import ablation_arms
from matplotlib.figure import Figure


def main() -> None:
    """Reads the results that the command line names, writes the picture."""
    arms = json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))["arms"]
    order = [*ablation_arms.FIRST, *ablation_arms.SECOND, *ablation_arms.MORE]
    groups = [group for group in dict.fromkeys(arm.group for arm in order) if f"{group}-0" in arms]
    figure = Figure(figsize=(8, 0.32 * len(groups) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(reversed(groups)):
        values = [arm["columns"]["test"] for name, arm in arms.items() if name.rpartition("-")[0] == group]
        color = "tab:blue" if "+" in group else "tab:gray"
        axes.plot(values, [row] * len(values), "o", color=color, alpha=0.6)
        axes.plot([mean(values)] * 2, [row - 0.3, row + 0.3], color=color)
    axes.set_yticks(range(len(groups)), list(reversed(groups)))
    axes.set_xlim(left=0)
    axes.set_xlabel("retrieval on the test texts, % (a dot per seed, a line at their mean)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
