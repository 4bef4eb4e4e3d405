"""Each fault of `python -m tests.chaos faults` once, in real processes."""

import pytest

from tests import chaos_faults


@pytest.mark.slow
@pytest.mark.parametrize("name", chaos_faults.NAMES)
def test_a_fault_is_named_or_unnoticed_and_the_run_ends_as_ever(name, tmp_path):
    found = chaos_faults.faults(name, tmp_path)[name]
    if "not run" in found:
        pytest.skip(found["not run"])
    assert found["wrong"] == ""
