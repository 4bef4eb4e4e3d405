"""Collectives out of a compiled program's text: by hand, and of a program that is really compiled."""

import json
import os
import subprocess
import sys

import pytest

from ernie_m_jax.training.collectives import collectives
from ernie_m_jax.training.program import Amount, Program
from tests.command import ROOT

# The lines are as XLA writes them for TPUs and CPUs, shortened; a [4,8] array of fp32 has 128 bytes.
PROGRAM = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (i: f32[4,8]) -> f32[4,8] {
  %i = f32[4,8]{1,0} parameter(0)
  ROOT %reduced.1 = f32[4,8]{1,0:T(8,128)S(1)} all-reduce(%i), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %fused = f32[4,8]{1,0} fusion(%x), kind=kLoop, calls=%inner
  ROOT %t = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%n, %fused)
}

%by_two (p.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.2 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %two = s32[]{:T(128)} constant(2), metadata={op_name="a"}
  %n.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %n.4 = s32[]{:T(128)} add(%n.2, %two), metadata={op_name="a"}
  %x.2 = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p.2), index=1
  %fused.2 = f32[4,8]{1,0} fusion(%x.2), kind=kLoop, calls=%inner
  ROOT %t.2 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%n.4, %fused.2)
}

%condition (q: (s32[], f32[4,8])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %q = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %m = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%m, %five), direction=LT, metadata={op_name="a/while(b) = c"}
}

%cheap (c: f32[4,8]) -> f32[4,8] {
  ROOT %c = f32[4,8]{1,0} parameter(0)
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x.1 = f32[4,8]{1,0} parameter(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%x.1, %x.1)
LINES
  ROOT %out = f32[4,8]{1,0} copy(%x.1)
}
"""


def of(*lines, devices=4):
    found = collectives(Program(PROGRAM.replace("LINES", "\n".join(f"  {line}" for line in lines))), devices)
    return dict(found.kinds), found.unknown_loops


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%r = f32[4,8]{1,0} all-reduce(%x.1), replica_groups={}, to_apply=%add", "all-reduce", 128),
        ("%r = f32[4,8]{1,0} all-reduce(f32[4,8]{1,0} %x.1), replica_groups={}, to_apply=%add", "all-reduce", 128),
        (
            "%r = (f32[4,8]{1,0}, /*index=1*/f32[4,8]{1,0}) all-reduce(%x.1, /*index=1*/%x.1), to_apply=%add",
            "all-reduce",
            256,
        ),
        ("%r = f32[4,8]{1,0} all-reduce-start(%x.1), to_apply=%add", "all-reduce", 128),
        ("%r = f32[8,8]{1,0} all-gather(%x.1), replica_groups={{0,1},{2,3}}, dimensions={0}", "all-gather", 256),
        ("%r = f32[16,8]{1,0} all-gather(%x.1), replica_groups=[1,4]<=[4], dimensions={0}", "all-gather", 512),
        ("%r = f32[8,8]{1,0} all-gather(%x.1), replica_groups=mesh['a'=2,'b'=2] {'b'}", "all-gather", 256),
        ("%r = f32[16,8]{1,0} all-gather(%x.1), replica_groups=mesh['a'=2,'b'=2] {'a','b'}", "all-gather", 512),
        ("%r = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x.1), replica_groups={}", "all-gather", 512),
        ("%r = f32[1,8]{1,0} reduce-scatter(%x.1), replica_groups={{0,1,2,3}}, to_apply=%add", "reduce-scatter", 128),
        ("%r = f32[4,8]{1,0} all-to-all(%x.1), replica_groups={{0,1,2,3}}, dimensions={0}", "all-to-all", 128),
        (
            "%r = (f32[4,8], f32[4,8], u32[], u32[]) collective-permute-start(%x.1), source_target_pairs={{0,1}}",
            "collective-permute",
            128,
        ),
    ],
)
def test_kinds_and_bytes(line, kind, size):
    assert of(line) == ({kind: Amount(1, size, size)}, 0)


def test_the_end_of_an_asynchronous_one_is_none_more():
    lines = ("%r = f32[4,8]{1,0} all-reduce-start(%x.1), to_apply=%add", "%d = f32[4,8]{1,0} all-reduce-done(%r)")
    assert of(*lines) == ({"all-reduce": Amount(1, 128, 128)}, 0)


@pytest.mark.parametrize(
    ("attributes", "rounds", "unknown"),
    [
        ('condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}', 7, 0),
        ("condition=%condition, body=%body", 5, 0),  # by the condition
        ("condition=%condition, body=%by_two", 3, 0),  # 0, 2, 4
        ("condition=%cheap, body=%body", 1, 1),
    ],
)
def test_a_loop_counts_its_body_as_often_as_it_runs(attributes, rounds, unknown):
    line = f"%w = (s32[], f32[4,8]{{1,0}}) while(%start), {attributes}"
    assert of(line) == ({"all-reduce": Amount(rounds, 128 * rounds, 128 * rounds)}, unknown)


@pytest.mark.parametrize(
    "branches", ["branch_computations={%cheap, %inner}", "true_computation=%inner, false_computation=%cheap"]
)
def test_a_conditional_counts_its_cheapest_branch_and_at_most_the_other(branches):
    assert of(f"%c.2 = f32[4,8]{{1,0}} conditional(%x.1, %x.1, %x.1), {branches}") == (
        {"all-reduce": Amount(0, 0, 128)},
        0,
    )


def test_a_program_without_collectives():
    assert of() == ({}, 0)


def test_a_compiled_program():
    code = """
import dataclasses, functools, json, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
from ernie_m_jax.training.collectives import collectives
from ernie_m_jax.training.program import Program
mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
@functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec("a"), out_specs=PartitionSpec(), check_vma=False)
def f(x):
    x = jax.lax.fori_loop(0, 5, lambda i, y: jax.lax.psum(jnp.sin(y), "a"), x)
    return jax.lax.all_gather(x, "a")
found = collectives(Program(jax.jit(f).lower(jnp.zeros((6, 7))).compile().as_text()), 2)
print(json.dumps([{kind: dataclasses.asdict(one) for kind, one in found.kinds.items()}, found.unknown_loops]))
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    each, whole = 3 * 7 * 4, 6 * 7 * 4
    assert json.loads(done.stdout) == [
        {
            "all-reduce": {"count": 5, "total": 5 * each, "at_most": 5 * each},
            "all-gather": {"count": 1, "total": whole, "at_most": whole},
        },
        0,
    ]
