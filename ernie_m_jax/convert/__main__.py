r"""The converter's command line: any known checkpoint in, a folder for this project or another library out.

python -m ernie_m_jax.convert --source ernie-m-base/ --output base/
python -m ernie_m_jax.convert --source ernie_m_base.pdparams --output base-hf/ --to huggingface
python -m ernie_m_jax.convert --source runs/mine/stage2 --output mine-hf/ --to huggingface \
        --drop embeddings/language mlm_head
"""

import argparse
import math
import sys
from collections.abc import Sequence

from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint.manifest import CheckpointError
from ernie_m_jax.convert import model, parts, rules, targets
from ernie_m_jax.weights.tensors import ConversionError


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="python -m ernie_m_jax.convert", description=__doc__.splitlines()[0])
    made.add_argument("--source", required=True, help="file, folder or tar archive of a model; a run or stage of ours")
    made.add_argument("--output", required=True, help="folder to write, new or empty")
    made.add_argument("--to", default="native", choices=("native", *targets.TARGETS), help="what to write")
    made.add_argument(
        "--format", default="", choices=("native", *rules.FORMATS), help="the source's format, if not to be recognised"
    )
    made.add_argument("--style", default="", choices=("ernie", "huggingface"), help="an ERNIE-M tokenizer's (ernie)")
    made.add_argument("--num_heads", type=int, default=0, help="attention heads, where the source does not state them")
    made.add_argument(
        "--drop",
        nargs="*",
        default=[],
        metavar="NAME",
        help=f"parts of the model to leave out: {', '.join(parts.PARTS)}",
    )
    made.add_argument(
        "--ignore",
        nargs="*",
        default=[],
        metavar="TENSOR",
        help="name prefixes of tensors that are no parameters",
    )
    made.add_argument("--no_tokenizer", action="store_true", help="leave the tokenizer out")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts and prints what was recognised and written; returns the exit status."""
    flags = parser().parse_args(arguments)
    try:
        if flags.num_heads < 0:
            raise ConversionError(f"--num_heads {flags.num_heads} must be positive")
        convert(flags)
    except (ConversionError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def convert(flags: argparse.Namespace) -> None:
    """One conversion; see `main`."""
    options = {"form": flags.format, "style": flags.style, "num_heads": flags.num_heads, "ignore": flags.ignore}
    options["with_tokenizer"] = not flags.no_tokenizer
    with model.open_source(flags.source, **options) as source:
        parts.check_used(flags.ignore, source.left_out, "--ignore")
        said = (
            "none" if source.tokenizer is None else f"{source.tokenizer.style}, {source.tokenizer.vocab_size} entries"
        )
        print(f"{flags.source}: format {source.format}{' (as --format says)' if flags.format else ''}")
        print(
            f"  {source.config.num_layers} layers, width {source.config.hidden_size}, {source.config.num_heads} heads, "
            f"vocabulary {source.config.vocab_size}, head {source.config.head}, mlm_head {source.config.mlm_head}, "
            f"pooler {source.config.pooler}; tokenizer {said}"
        )
        if source.left_out:
            print(f"  left out: {', '.join(source.left_out)}")
        with mirrors.mirrored(flags.output, writing=True) as output:
            config = model.write(
                output, source.config, source.read(), source.tokenizer, flags.to, drop=flags.drop, facts=source.facts
            )
    kept = model.shapes(config)
    if dropped := sorted(set(source.shapes) - set(kept)):
        print(f"  dropped: {', '.join(dropped)}")
    count = sum(math.prod(shape) for shape in kept.values())
    print(f"{flags.output}: {flags.to}, {count:,} parameters")
    if flags.to != "native" and targets.has_pooler(flags.to, config) and not config.pooler:
        print("  without a pooler: the other library starts one from random numbers")
    if flags.to != "native" and source.tokenizer is not None:
        style = source.tokenizer.style
        if not targets.same_ids(flags.to, style):
            print(f"  tokenizer of style {style}: the other library's gives some texts other ids (docs/conversion.md)")


if __name__ == "__main__":
    sys.exit(main())
