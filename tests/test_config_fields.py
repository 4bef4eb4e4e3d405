"""Limits that stand with a field: what they say, and that the tables which use the choices know them all."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import config_fields, tokenizer
from ernie_m_jax.config_fields import ABOVE_ZERO, between, choices, one_of
from ernie_m_jax.model import block
from tests.conftest import small_tree


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = field(default=1, metadata=between(1))
    share: float = field(default=0.5, metadata=between(ABOVE_ZERO, 1))


@dataclasses.dataclass(frozen=True)
class Outer:
    kind: str = field(default="a", metadata=one_of("a", "b"))
    free: int = -1
    weights: Mapping[str, float] = field(default_factory=dict, metadata=between(0))
    inner: Inner = Inner()
    named: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (Outer(), []),
        (Outer(kind="c"), ["x.kind is 'c'; allowed: a, b"]),
        (Outer(inner=Inner(size=0)), ["x.inner.size is 0; it must be at least 1"]),
        (Outer(inner=Inner(share=0.0)), ["x.inner.share is 0.0; it must be above 0 and at most 1"]),
        (Outer(inner=Inner(share=math.nan)), ["x.inner.share is nan; it must be above 0 and at most 1"]),
        (Outer(weights={"one": 1.0, "two": -1.0}), ["x.weights.two is -1.0; it must be at least 0"]),
        (
            Outer(named={"p": Inner(size=-1), "q": Inner(share=2)}),
            ["x.named.p.size is -1; it must be at least 1", "x.named.q.share is 2; it must be above 0 and at most 1"],
        ),
        # What is missing or of the wrong type is said where the tree is read.
        (Outer(kind=None, inner=None, weights={"one": None}, named={"p": None}), []),
    ],
)
def test_every_value_outside_its_limits_is_named(keys, expected):
    assert list(config_fields.problems(keys, "x")) == expected
    if expected:
        with pytest.raises(config_fields.ConfigError) as caught:
            config_fields.check(keys, "x")
        assert all(line in str(caught.value) for line in expected)
    else:
        config_fields.check(keys, "x")


def test_a_field_alone():
    assert list(config_fields.problems(Inner(size=0))) == ["size is 0; it must be at least 1"]
    config_fields.check_value(Inner, "size", 1, "size")
    with pytest.raises(config_fields.ConfigError, match="rows is 0; it must be at least 1"):
        config_fields.check_value(Inner, "size", 0, "rows")
    assert choices(Outer, "kind") == ("a", "b")


def test_an_objectives_limits_are_its_own():
    tree = small_tree(objectives__btmlm__passes=101, objectives__mmlm__join_to_characters=-1)
    with pytest.raises(configs.ConfigError) as caught:
        configs.resolve(tree)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "config.objectives.btmlm.passes is 101; it must be from 1 to 100",
        "config.objectives.mmlm.join_to_characters is -1; it must be at least 0",
    ]


def test_the_tables_behind_the_choices_know_them_all():
    assert choices(configs.ComputeConfig, "remat") == ("none", *block._REMAT_POLICIES)
    # Not derived there: a tokenizer is used without JAX, which the config imports.
    assert choices(configs.TokenizerConfig, "style") == tokenizer.STYLES
