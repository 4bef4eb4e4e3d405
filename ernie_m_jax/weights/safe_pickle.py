"""Pickles of weights, read by an interpreter of our own in which nothing can be called but what a table here lists.

A pickle is a program; Python's unpickler runs it with Python's own objects. This one knows the opcodes that weights
use, works on plain values and a few inert classes, and gives a pickle no class, module or attribute of Python's.
`pickle.Unpickler` with a strict `find_class` comes close, but a pickle of ten bytes still makes it allocate gigabytes
(a memo index), hash for ever (nested tuples as a key) or set attributes on what was allowed.

Long strings, thus arrays, stay where they are: the result names their place in the file.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from ernie_m_jax.weights.pickle_values import BASE, Array, Blob, Dtype, Global, Namespace, Table, fill
from ernie_m_jax.weights.tensors import ConversionError

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_MAX_OPCODES = 1_000_000  # a second; a model's file has some ten thousand
_MAX_LINE = 1 << 16
_IN_PLACE = 1024  # bytes from which a string is left in the file
_LENGTHS = {  # opcodes whose argument is a length and that many bytes: format of the length, encoding
    "SHORT_BINBYTES": ("<B", ""),
    "BINBYTES": ("<I", ""),
    "BINBYTES8": ("<Q", ""),
    "BYTEARRAY8": ("<Q", ""),
    "SHORT_BINSTRING": ("<B", "latin1"),  # what Python 2 wrote for text and for bytes
    "BINSTRING": ("<I", "latin1"),
    "SHORT_BINUNICODE": ("<B", "utf-8"),
    "BINUNICODE": ("<I", "utf-8"),
    "BINUNICODE8": ("<Q", "utf-8"),
}
# INT is the one opcode of text that binary protocols have: Python 2 wrote integers above 32 bits so.
_PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_PUSHED |= set(_LENGTHS)
_ERRORS = (EOFError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError, struct.error)


def load(file: BinaryIO, end: int, path: Any, table: Table, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Reads one pickle from where an open file stands, and leaves the file behind it.

    Args:
      file: binary and seekable.
      end: the byte of the file at which the pickle must have ended.
      path: of the file, for messages.
      table: what it may name, beside NumPy's arrays and the containers of `BASE`.
      persistent: gives the value of a persistent id; without it there may be none.

    Returns:
      Built-in values, `Array`, `Namespace`, `Global`, and what the table's functions give.

    Raises:
      ConversionError: damaged, or something that weights have no need of; nothing was executed.
    """
    machine = _Machine(file, end, {**BASE, **table}, persistent)
    start = file.tell()
    try:
        return machine.run()
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}; nothing of the file was executed") from None
    except _ERRORS as error:
        where = f"byte {file.tell() - start} of the pickle"
        raise ConversionError(
            f"{path}: damaged, cut short or no pickle, at {where}: {type(error).__name__}: {error}"
        ) from None


class _Machine:
    """Stack and memo of one run."""

    def __init__(self, file: BinaryIO, end: int, table: Table, persistent: Callable[[Any], Any] | None):
        self.file, self.end, self.table, self.persistent = file, end, table, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, size: int = -1) -> bytes:
        """As `file.read`, within the pickle."""
        if size < 0 or self.file.tell() + size > self.end:
            raise EOFError("the pickle ends within a value")
        return self.file.read(size)

    def readline(self) -> bytes:
        """As `file.readline`, within the pickle."""
        line = self.file.readline(min(_MAX_LINE, max(self.end - self.file.tell(), 0)))
        if not line.endswith(b"\n"):
            raise EOFError("the pickle ends within a line")
        return line

    def run(self) -> Any:
        """Runs the pickle."""
        for _ in range(_MAX_OPCODES):
            opcode = _OPCODES[self.read(1)[0]]
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name not in _PUSHED and name not in _STEPS:
                raise ConversionError(f"the pickle has the opcode {name}, which weights have no need of")
            argument = None
            if name in _LENGTHS:
                argument = self.string(*_LENGTHS[name])
            elif opcode.arg and name != "GLOBAL":
                argument = opcode.arg.reader(cast(BinaryIO, self))
            if name in _PUSHED:
                self.stack.append(argument)
            else:
                _STEPS[name](self, argument)
        raise ConversionError(f"a pickle of more than {_MAX_OPCODES} opcodes")

    def string(self, length: str, encoding: str) -> Any:
        """A string or bytes, or their place where they are long."""
        (size,) = struct.unpack(length, self.read(struct.calcsize(length)))
        if size < _IN_PLACE:
            content = self.read(size)
            return content.decode(encoding) if encoding else content
        offset = self.file.tell()
        if offset + size > self.end:
            raise EOFError(f"{size} bytes are announced, the pickle ends after {self.end - offset}")
        self.file.seek(size, 1)
        return Blob(offset, size, encoding == "utf-8")

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def take(self, count: int) -> list[Any]:
        """Takes values off the top."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, index: int | None) -> None:
        """Remembers the top under a number, by default the next."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def find(self, module: Any, name: Any) -> None:
        """Puts an entry of the table on the stack."""
        if not isinstance(name, str) or not isinstance(module, str):
            raise ConversionError("the pickle asks for a global whose name is no text")
        if (module, name) not in self.table:
            asked = f"{module}.{name}"[:200]
            raise ConversionError(f"the pickle asks for {asked!r}, which weights have no need of")
        self.stack.append(Global(module, name, self.table[module, name]))

    def call(self) -> None:
        """Lets the table's function make a value of arguments."""
        function, arguments = self.take(2)
        if not isinstance(function, Global) or function.make is None or not isinstance(arguments, tuple):
            what = f"{function.module}.{function.name}" if isinstance(function, Global) else type(function).__name__
            raise ConversionError(f"the pickle calls {what!r}, which weights have no need of")
        self.stack.append(function.make(*arguments))

    def build(self) -> None:
        """Gives an inert value its state; a dictionary's attributes (PyTorch's `_metadata`) are dropped."""
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, Array | Dtype | Namespace):
            target.build(state)
        elif type(target) is not dict:
            raise ConversionError(f"the pickle sets attributes of a {type(target).__name__}")

    def identify(self) -> None:
        """Looks a persistent id up."""
        (identity,) = self.take(1)
        if self.persistent is None:
            raise ConversionError("the pickle has a persistent id, which only PyTorch's have")
        self.stack.append(self.persistent(identity))

    def append(self, items: list[Any]) -> None:
        """Appends to the list on top."""
        if type(self.stack[-1]) is not list:
            raise ConversionError(f"items appended to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "LIST": lambda machine, _: machine.stack.append(machine.marked()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "DICT": lambda machine, _: machine.stack.append(fill({}, _pairs(machine.marked()))),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.marked()),
    "SETITEM": lambda machine, _: fill(machine.stack[-3], _pairs(machine.take(2))),
    "SETITEMS": lambda machine, _: (lambda items: fill(machine.stack[-1], _pairs(items)))(machine.marked()),
    **{name: lambda machine, index: machine.put(index) for name in ("BINPUT", "LONG_BINPUT", "MEMOIZE")},
    **{name: lambda machine, index: machine.stack.append(machine.memo[index]) for name in ("BINGET", "LONG_BINGET")},
    "GLOBAL": lambda machine, _: machine.find(*(machine.readline()[:-1].decode() for _ in range(2))),
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.identify(),
}
