"""Bytes that a compiled program moves: by hand, and of a program that is really compiled."""

import jax
import jax.numpy as jnp
import pytest

from ernie_m_jax.training.memory_traffic import moved
from ernie_m_jax.training.program import Amount, Program

# x has 4 x 8 numbers of 32 bits, 128 bytes; table has 100 rows of 32 bytes.
PROGRAM = """HloModule jit_step

%added (a: f32[4,8], b: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  %twice = f32[4,8]{1,0} multiply(%a, %a)
  ROOT %sum = f32[4,8]{1,0} add(%twice, %b)
}

%row (t: f32[100,8], i: s32[]) -> f32[1,8] {
  %t = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %flat = f32[100,8]{1,0} bitcast(%t)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%flat, %i, %zero), dynamic_slice_sizes={1,8}
}

%put (t.1: f32[100,8], r: f32[1,8], i.1: s32[]) -> f32[100,8] {
  %t.1 = f32[100,8]{1,0} parameter(0)
  %r = f32[1,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %update = f32[100,8]{1,0} dynamic-update-slice(%t.1, %r, %i.1, %zero.1)
}

%fresh (p: f32[4,8]) -> f32[100,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %zero.2 = s32[] constant(0)
  %nothing = f32[] constant(0)
  %all = f32[100,8]{1,0} broadcast(%nothing), dimensions={}
  ROOT %into = f32[100,8]{1,0} dynamic-update-slice(%all, %p, %zero.2, %zero.2)
}

%multiplied (c: f32[4,8]) -> f32[4,4] {
  %c = f32[4,8]{1,0} parameter(0)
  ROOT %dot = f32[4,4]{1,0} dot(%c, %c), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main (x: f32[4,8], table: f32[100,8], at: s32[]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %table = f32[100,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
LINE
  ROOT %out = (f32[4,8]{1,0}) tuple(%x)
}
"""


@pytest.mark.parametrize(
    ("line", "products", "rest"),
    [
        ("%y = f32[100,8]{1,0} fusion(%x), kind=kLoop, calls=%fresh", 0, 128 + 100 * 32),
        ("%y = (f32[4,8]{1,0}, f32[4,8]{1,0}) copy-start(%x)", 0, 2 * 128),
        ("%y = (f32[4,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), dimensions={0}", 0, 3 * 128),
        ("%y = f32[4,8]{1,0} all-reduce-start(%x), to_apply=%added", 0, 2 * 128),
        ("%y = ((f32[4,8]{1,0}), f32[4,4]{1,0}, u32[]) async-start(%x), calls=%multiplied", 2 * 128 + 64, 0),
        ("%y = f32[4,4]{1,0} async-done(%x), calls=%multiplied", 0, 0),
        ("%y = f32[4,8]{1,0} fusion(%x, %x), kind=kLoop, calls=%added", 0, 3 * 128),
        ("%y = f32[4,8]{1,0} add(%x, %x)", 0, 3 * 128),
        ("%y = f32[1,8]{1,0} fusion(%table, %at), kind=kLoop, calls=%row", 0, 2 * 32 + 4),
        ("%y = f32[100,8]{1,0} fusion(%table, %x, %at), kind=kLoop, calls=%put", 0, 2 * 32 + 4),
        ("%y = f32[4,8]{1,0} slice(%table), slice={[0:4], [0:8]}", 0, 2 * 128),
        ("%y = f32[4,4]{1,0} fusion(%x), kind=kCustom, calls=%multiplied", 128 + 64, 0),
        ("%y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}", 2 * 128 + 64, 0),
        ('%y = f32[4,8]{1,0} custom-call(%x), custom_call_target="__gpu$xla.gpu.triton"', 2 * 128, 0),
        ("%y = f32[32]{0} bitcast(%x)", 0, 0),
    ],
)
def test_an_instruction_reads_what_it_takes_and_writes_what_it_makes(line, products, rest):
    *found, unknown = moved(Program(PROGRAM.replace("LINE", f"  {line}")))
    assert [amount.total for amount in found] == [products, rest]
    assert unknown == 0


def test_a_loop_moves_a_row_each_round_not_the_table():
    def compute(table):
        return jax.lax.fori_loop(0, 10, lambda i, t: t.at[i].set(jnp.sin(t[i])), table)

    shape = jax.ShapeDtypeStruct((1000, 256), jnp.float32)
    program = Program(jax.jit(compute, donate_argnums=0).lower(shape).compile().as_text())
    none, rest, _ = moved(program)
    assert none == Amount()
    row = 256 * 4
    assert 10 * 2 * row <= rest.total < 10 * 4 * row + 2 * 1000 * row  # and perhaps a copy of it before the loop
