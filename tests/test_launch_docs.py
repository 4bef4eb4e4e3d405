"""docs/launch.md: its table of time is what the recipe and the formula give, and it has every launcher."""

import re

import pytest

from benchmarks import step_variants
from configs import recipes
from tests.launching import LAUNCH, ROOT

TEXT = (ROOT / "docs" / "launch.md").read_text("utf-8")
STAGES = (("mmlm", "tlm", "camlm"), ("mmlm", "tlm", "camlm", "btmlm"))
UTILISATION = 0.4
# Dense 16-bit peaks per chip in TFLOP/s: Google's pages of each TPU, NVIDIA's data sheet of the H100 (SXM).
PEAKS = {"TPU v4": 275, "TPU v5e": 197, "TPU v5p": 459, "TPU v6e": 918, "H100": 989}


def chip_hours(size, objectives, peak):
    config = step_variants.config_of(step_variants.variant(f"size={size}"))
    flops = sum(sum(step_variants.model_flops(config, name)) for name in objectives) / len(objectives)
    scale = recipes.SCALES[size]
    tokens = scale["stage"]["steps"] * scale["train"]["batch_size"] * scale["data"]["sequence_length"]
    return tokens * flops / (UTILISATION * peak * 1e12 * 3600)


@pytest.mark.parametrize("chip", PEAKS)
def test_the_hours_are_those_of_the_formula(chip):
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| {chip} |"))
    _, peak, *hours = (cell.strip().replace(",", "") for cell in row.strip("|").split("|"))
    assert int(peak) == PEAKS[chip]
    expected = [chip_hours(size, stage, PEAKS[chip]) for size in ("base", "large") for stage in STAGES]
    assert list(map(int, hours)) == list(map(round, expected))


def test_every_launcher_is_on_the_page_and_the_page_is_found():
    for path in LAUNCH.rglob("*"):
        if path.suffix in (".sh", ".sbatch") and path.name != "restart.sh":
            assert f"`launch/{path.relative_to(LAUNCH)}`" in TEXT or f"`sbatch launch/{path.name}`" in TEXT, path
    assert "docs/launch.md" in (ROOT / "README.md").read_text("utf-8")
    for linked in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / linked).exists(), linked
