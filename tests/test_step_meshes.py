"""The real model on 8 virtual devices: every mesh must start and learn as one device does."""

import numpy as np
import pytest

from tests.mesh_worker import worker


def check_equal(got, want):
    """Same initial parameters, same loss at every step."""
    assert got["initial"].keys() == want["initial"].keys()
    for path, values in want["initial"].items():
        np.testing.assert_allclose(got["initial"][path], values, rtol=1e-6, atol=1e-8, err_msg=path)
    assert want["losses"][-1] < want["losses"][0]
    np.testing.assert_allclose(got["losses"], want["losses"], rtol=1e-5)


@pytest.fixture(scope="module")
def runs():
    return worker("fsdp", "all")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "all"])
def test_every_mesh_starts_and_learns_as_one_device(runs, name):
    check_equal(runs[name], runs["one"])


@pytest.mark.slow
def test_data_parallelism_starts_and_learns_as_one_device():
    results = worker("data")
    check_equal(results["data"], results["one"])
    assert set(results["data"]["shares"].values()) == {1}


@pytest.mark.slow
def test_parameters_and_moments_are_born_in_shards(runs):
    def share(name, path):
        found = {value for key, value in runs[name]["shares"].items() if key.endswith(path)}
        assert len(found) == 1  # parameter and both moments agree
        return found.pop()

    assert [key for key in runs["all"]["shares"] if key.endswith("mu/embeddings/word")]
    assert share("fsdp", "embeddings/word") == 8
    assert share("all", "embeddings/word") == 4
    assert share("all", "layers/ffn/intermediate/kernel") == 4
    assert share("all", "layers/attention/query/bias") == 2
    assert share("all", "embeddings/layer_norm/scale") == 1
