"""What kind of a file of weights this is, told by its first bytes."""

import pathlib

from ernie_m_jax.weights.tensors import ConversionError

# What people have in their folders instead of weights, by its first bytes.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull`, or download the file itself"),
    (b"<", "an HTML or XML page, not weights: the download went wrong"),
    (b"\x1f\x8b", "a gzip archive: unpack it, or open it with `archives.opened`"),
    (b"\x89HDF", "an HDF5 file (Keras, TensorFlow), which is not read here"),
    (b"\x93NUMPY", "a NumPy array without names, which is not read here"),
)


def recognise(path: pathlib.Path) -> str:
    """The kind of a file: "safetensors", "zip" (of PyTorch), "pickle" or "variable" (a single one of Paddle).

    Raises:
      ConversionError: something else, named where it is something common.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ConversionError(f"{path}: the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "safetensors"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle"
    for start, what in _MISTAKEN:
        if head.lstrip().startswith(start):
            raise ConversionError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise ConversionError(
            f"{path}: a tar archive. If it is a packed folder, open it with `archives.opened`; if PyTorch wrote it "
            "before 0.1.10, load and save it again with PyTorch"
        )
    if head[:4] == bytes(4):
        return "variable"
    raise ConversionError(f"{path}: neither safetensors nor a PyTorch or Paddle file (it begins with {head[:8]!r})")
