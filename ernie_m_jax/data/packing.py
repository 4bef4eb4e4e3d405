"""Packing: examples in, full rows of fixed shape out.

Grain's first-fit packer fills `packing_bins` rows at a time. Here its output becomes a row of the task's spec: segment
numbers, and the indices (`*_at`) moved from the example's tokens to the row's.
"""

from collections.abc import Mapping, Sequence

import grain
import numpy as np

from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import IGNORE, Example, Record, Spec

TOKENS = "ids"  # the feature whose length is an example's length


def features(spec: Spec) -> dict[str, int]:
    """Lengths of what an example delivers: everything in the spec but the segments, which packing adds."""
    return {name: shape[0] for name, (shape, _) in spec.items() if name != "segments"}


def check(examples: Sequence[Example], rooms: Mapping[str, int], name: str, record: Record) -> None:
    """Checks that a record's examples fit into a row; `name` is the task's, `rooms` its `features`.

    Raises:
      DataError: one does not; the message shows the record.
    """
    for example in examples:
        for feature, room in rooms.items():
            if len(example[feature]) > room:
                raise DataError(
                    f"config.objectives.{name}: an example has {len(example[feature])} {feature!r}, but a row has room "
                    f"for {room}; its record: {record!s:.500}"
                )


def pack(examples: grain.IterDataset, spec: Spec, bins: int, seed: int) -> grain.IterDataset:
    """Rows out of examples; an example never crosses rows.

    Args:
      examples: dictionaries of int32 arrays, the features of `spec` without "segments".
      spec: shapes of a row.
      bins: rows filled at a time.
      seed: of the order in which filled rows leave.
    """
    packed = grain.experimental.FirstFitPackIterDataset(
        examples, length_struct=features(spec), num_packing_bins=bins, seed=seed
    )
    return packed.map(lambda row: to_row(row, spec))


def to_row(packed: dict[str, np.ndarray], spec: Spec) -> dict[str, np.ndarray]:
    """One packed element as a row: `segments` (0 is padding), labels IGNORE and indices L where nothing stands."""
    segments = packed[f"{TOKENS}_segment_ids"].astype(np.int32)
    length = len(segments)
    # starts[s] is the row index of segment s's first token; segment 0 is padding.
    starts = np.searchsorted(np.where(segments == 0, np.iinfo(np.int32).max, segments), np.arange(segments.max() + 1))
    row = {"segments": segments}
    for name in features(spec):
        values, owner = packed[name], packed[f"{name}_segment_ids"]
        if name.endswith("_at"):
            values = np.where(owner > 0, values + starts[owner], length)
        elif name.endswith("_labels"):
            values = np.where(owner > 0, values, IGNORE)
        row[name] = values.astype(np.int32)
    return row
