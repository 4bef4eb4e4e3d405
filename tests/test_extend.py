"""A run whose stage gets another number of steps: where it goes on, and where it may not."""

import pytest

from ernie_m_jax import config as configs
from ernie_m_jax.training import claim, run
from tests.test_train import assert_same, final_arrays, lines, tree


def constant(tokenizer_path, steps, **keys):
    return configs.resolve(
        tree(tokenizer_path, **{"stages__one__schedule": "constant", "stages__one__steps": steps} | keys)
    )


@pytest.mark.slow
def test_a_finished_run_goes_on_as_if_it_had_been_longer(tokenizer_path, tmp_path):
    whole = constant(tokenizer_path, 6)
    run.train(whole, tmp_path / "whole")
    run.train(constant(tokenizer_path, 4), tmp_path / "longer")
    run.train(whole, tmp_path / "longer")
    expected = lines(tmp_path / "whole"), final_arrays(whole, tmp_path / "whole")
    assert_same(whole, tmp_path / "longer", expected)
    assert claim.stored_config_tree(tmp_path / "longer")["stages"]["one"]["steps"] == 6


@pytest.mark.slow
def test_what_is_done_may_not_change(tokenizer_path, tmp_path):
    def config(steps, **keys):
        return configs.resolve(
            tree(
                tokenizer_path,
                stages__one__steps=steps,
                **{f"stages__one__{key}": value for key, value in keys.items()},
            )
        )

    run.train(config(4), tmp_path)  # only the steps count below, so one run serves every schedule
    for schedule in ("linear", "cosine", "linear_from_zero"):
        run.files.write_json(tmp_path / "config.json", {"config": configs.to_dict(config(4, schedule=schedule))})
        with pytest.raises(configs.ConfigError) as caught:
            claim.check(config(6, schedule=schedule), tmp_path)
        said = str(caught.value)
        assert "config.stages.one.steps: 4 there, 6 here (the 4 steps done would have had other learning rates" in said
        assert f"--config.init.resume={tmp_path / 'one'}" in said
    with pytest.raises(configs.ConfigError, match="4 steps are done"):
        claim.check(config(3, schedule="linear_from_zero"), tmp_path)
    warming = {"warmup_steps": 4}  # the warm-up does not depend on the length
    run.files.write_json(tmp_path / "config.json", {"config": configs.to_dict(config(4, **warming))})
    claim.check(config(6, **warming), tmp_path)


@pytest.mark.slow
def test_a_stage_that_another_started_from_keeps_its_length(tokenizer_path, tmp_path):
    one = tree(tokenizer_path)["stages"]["one"] | {"schedule": "constant", "steps": 3}
    stages = {"one": one, "two": one | {"warmup_steps": 0}}
    run.train(configs.resolve(tree(tokenizer_path, stages=stages)), tmp_path)
    longer = stages | {"two": stages["two"] | {"steps": 5}}
    claim.check(configs.resolve(tree(tokenizer_path, stages=longer)), tmp_path)
    longer = stages | {"one": one | {"steps": 5}}
    with pytest.raises(configs.ConfigError, match=r"one\.steps: 3 there, 5 here \(two started from its old end"):
        claim.check(configs.resolve(tree(tokenizer_path, stages=longer)), tmp_path)
