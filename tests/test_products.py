"""The products and largest arrays of a compiled program: by hand from lines of each compiler, and really compiled."""

import jax
import jax.numpy as jnp
import pytest

from ernie_m_jax.training.products import products
from ernie_m_jax.training.program import Amount, Program

PROGRAM = """HloModule jit_step

%small (s: f32[4,8]) -> f32[4,8] {
  ROOT %s = f32[4,8]{1,0} parameter(0)
}

%large (l: f32[4,8]) -> f32[4,8] {
  %l = f32[4,8]{1,0} parameter(0)
  %square = f32[8,8]{1,0} dot(%l, %l), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %again = f32[4,8]{1,0} dot(%l, %square), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %images = bf16[32,256,128]{2,1,0} parameter(1)
  %places = bf16[8,4,256,64]{3,2,1,0} parameter(2)
  %others = bf16[4,64,256,8]{3,2,1,0} parameter(3)
LINES
  ROOT %out = f32[4,8]{1,0} copy(%x)
}
"""
CUBLAS = (
    '%c = (f32[4,16]{1,0}, s8[4194304]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", '
    'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
    '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}'
)


def of(*lines):
    return Program(PROGRAM.replace("LINES", "\n".join(f"  {line}" for line in lines)))


@pytest.mark.parametrize(
    ("line", "operations"),
    [
        # 4 x 8 times 8 x 16
        ("%d = f32[4,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 4 * 8 * 16),
        ("%d = f32[4,16]{1,0} dot(f32[4,8]{1,0} %x, f32[8,16] %w), lhs_contracting_dims={1}", 2 * 4 * 8 * 16),
        # 32 times: 256 x 128 times 128 x 64
        (
            "%d = bf16[32,256,64]{2,1,0} dot(%images, %v), lhs_batch_dims={0}, lhs_contracting_dims={2}, "
            "rhs_batch_dims={0}, rhs_contracting_dims={1}",
            32 * 2 * 256 * 128 * 64,
        ),
        (CUBLAS, 2 * 4 * 8 * 16),
        ('%c = (f32[4,16]{1,0}) custom-call(%x), custom_call_target="__gpu$xla.gpu.triton"', 0),
        # What libtpu makes of 4 x 8 times 8 x 16,
        ("%d = f32[4,16]{1,0} convolution(%x, f32[8,16] %w), dim_labels=bf_io->bf", 2 * 4 * 8 * 16),
        # and of 8 x 4 heads of queries (256 x 64) times keys: the heads are directions of a window with gaps.
        (
            "%d = bf16[8,4,256,256]{3,2,1,0} convolution(bf16[8,256,4,64]{3,2,1,0} %q, bf16[8,256,4,64]{3,2,1,0} %k), "
            "window={size=8x4 stride=7x3 lhs_dilate=8x4}, dim_labels=0b1f_0o1i->01bf",
            32 * 2 * 256 * 64 * 256,
        ),
        # A window of 3 numbers over 5 with one of padding on either side meets 3 + 3 + 3 numbers, and twice 2.
        (
            "%d = f32[2,5,7]{2,1,0} convolution(f32[2,5,3] %a, f32[3,3,7] %b), window={size=3 pad=1_1}, "
            "dim_labels=b0f_0io->b0f",
            2 * 2 * 7 * 3 * (3 * 3 + 2 * 2),
        ),
    ],
)
def test_what_each_compiler_writes(line, operations):
    assert products(of(line)) == (Amount(1, operations, operations) if operations else Amount(), 0)


def test_a_conditional_counts_the_cheaper_branch_and_at_most_the_other():
    line = "%c.2 = f32[4,8]{1,0} conditional(%x, %x, %x), branch_computations={%small, %large}"
    assert products(of(line)) == (Amount(0, 0, 2 * (8 * 8 * 4 + 4 * 8 * 8)), 0)


def test_a_compiled_program():
    def compute(x, w):
        x = jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ w), x)
        return jnp.einsum("blhd,bmhd->bhlm", x.reshape(2, 8, 3, 8), x.reshape(2, 8, 3, 8))

    shapes = jax.ShapeDtypeStruct((16, 24), jnp.float32), jax.ShapeDtypeStruct((24, 24), jnp.float32)
    program = Program(jax.jit(compute).lower(*shapes).compile().as_text())
    assert products(program)[0].total == 5 * 2 * 16 * 24 * 24 + 2 * 3 * 2 * 8 * 8 * 8


def test_a_loop_whose_end_depends_on_the_data_counts_once_and_is_told_of():
    def compute(x, w):
        return jax.lax.while_loop(lambda y: y.sum() < 1, lambda y: jnp.tanh(y @ w), x)

    shapes = jax.ShapeDtypeStruct((16, 24), jnp.float32), jax.ShapeDtypeStruct((24, 24), jnp.float32)
    once = 2 * 16 * 24 * 24
    assert products(Program(jax.jit(compute).lower(*shapes).compile().as_text())) == (Amount(1, once, once), 1)


def test_the_largest_arrays_are_those_that_are_made_largest_first():
    program = of(
        "%whole = f32[4,512]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%large, "
        'metadata={op_name="jit(step)/logits/dot_general" id=3}',
        "%pair = (bf16[4,512]{1,0}, f32[3]{0}) fusion(%x), kind=kLoop, calls=%large",
        "%view = f32[2048]{0} bitcast(%whole)",
        "%moving = (bf16[32,256,128]{2,1,0}, bf16[32,256,128]{2,1,0}, u32[]) copy-start(%images)",  # an argument
        "%again = f32[4,512]{1,0} add(%whole, %whole)",
        "%choice = f32[4,8]{1,0} conditional(%x, %x, %x), branch_computations={%small, %large}",
    )
    assert program.largest(4) == [
        ("f32[4,512]", 8192, "jit(step)/logits/dot_general"),
        ("bf16[4,512]", 4096, "pair"),
        ("f32[8,8]", 256, "square"),  # of a branch, but not of a fusion
        ("f32[4,8]", 128, "out"),
    ]
    assert program.largest(1) == program.largest(4)[:1]
