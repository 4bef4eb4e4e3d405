"""Good files in, damaged and hostile ones out: what `fuzzing.py` gives to the readers.

Every function takes a `random.Random`, so the same seed makes the same bytes. `damaged` knows bytes and lines only;
`hostile_tree` knows JSON, which gets a reader past the parser and into what it does with the values.
"""

import copy
import json
import struct

NUMBERS = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
TEXTS = (
    b"",
    b"\x00",
    b"\xff",
    b"\xc3",  # UTF-8 cut short
    b"\xed\xa0\x80",  # a surrogate, which UTF-8 has no form for
    b"\xf4\x90\x80\x80",  # above Unicode's last character
    b"\xc0\xaf",  # overlong
    b"\xef\xbb\xbf",  # byte order mark
    b"\\ud800",  # half a pair, as JSON spells it
    b"\xe2\x80\xa8",  # line separator
    b"\r\n",
    b"\n\n",
    b"\t\t",
    b'"',
    b"\\",
    b"{language}",
    b"../../x",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 40,
    b"9" * 5000,  # more digits than Python reads as one number
    b"-1",
    b"null",
    b"\x1b[31m",  # a terminal's escape
)
LONG = (b"[" * 50_000, b'{"a":' * 20_000, b"a" * 200_000, b"\xe0\xb8\xb9" * 30_000, b"(" * 5_000, b"\t" * 5_000)
VALUES = (None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"))
VALUES += ("", "a", "\x00", "\ud800", "../../x", "a" * 5_000, "\n", "\x1b[31m", "9" * 5_000)
VALUES += ([], {}, [None], [[]], {"": ""}, {"a": {}}, ["a", 1], {"path": "x"}, [2**40, 2**40])


def _place(rng, data):
    return rng.randrange(len(data) + 1)


def _flipped(rng, data, _others):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng, data, _others):
    return data[: _place(rng, data)]


def _removed(rng, data, _others):
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 8, 100)) :]


def _repeated(rng, data, _others):
    start, size = _place(rng, data), rng.choice((1, 4, 40, 400))
    return data[:start] + data[start : start + size] * rng.choice((2, 3, 50)) + data[start + size :]


def _spliced(rng, data, others):
    other = rng.choice(others)
    start = _place(rng, other)
    part = other[start : start + rng.choice((4, 40, 400, len(other)))]
    return data[: _place(rng, data)] + part + data[_place(rng, data) :]


def _number(rng, data, _others):
    """A binary number, perhaps a length, becomes another."""
    form = rng.choice("bBhHiIqQ")
    form = rng.choice("<>") + form
    size, signed = struct.calcsize(form), form[1].islower()
    value = rng.choice(NUMBERS) % 2 ** (8 * size)
    value -= 2 ** (8 * size) if signed and value >= 2 ** (8 * size - 1) else 0
    start = rng.choice((0, 8, _place(rng, data), _place(rng, data)))
    return data[:start] + struct.pack(form, value) + data[start + size :]


def _texted(rng, data, _others):
    start = _place(rng, data)
    return data[:start] + rng.choice(TEXTS) + data[start + rng.choice((0, 0, 1, 4)) :]


def _lengthened(rng, data, _others):
    start = _place(rng, data)
    return data[:start] + rng.choice(LONG) + data[start:]


def _lines(rng, data, _others):
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[other] = rng.choice(((lines[other], lines[one]), (lines[one], lines[one]), (b"", lines[one])))
    return b"\n".join(lines)


def _separators(rng, data, _others):
    old, new = rng.sample((b"\t", b"\n", b" ", b",", b":", b'"', b"{", b"]", b"="), 2)
    parts = data.split(old)
    cut = rng.randrange(1, len(parts)) if len(parts) > 1 else 1
    return old.join(parts[:cut]) + (new + old.join(parts[cut:]) if len(parts) > 1 else b"")


_CHANGES = (_flipped, _cut, _removed, _repeated, _spliced, _number, _texted, _lines, _separators)


def damaged(rng, data, others=()):
    """Bytes with one to four changes; `others` are those that parts may come from."""
    others = [data, *others]
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = (_lengthened if rng.random() < 0.02 else rng.choice(_CHANGES))(rng, data, others)
    return data


def _nodes(tree):
    """Every (container, key) of a tree."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in pairs:
            found.append((node, key))
            todo.append(value)
    return found


def hostile_tree(rng, tree):
    """A copy of a JSON tree with one to three values changed, keys lost, renamed or given another's value."""
    tree = json.loads(json.dumps(tree))
    if rng.random() < 0.03:
        return copy.deepcopy(rng.choice(VALUES))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _nodes(tree)
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        (node, key), (other, other_key) = rng.choice(places), rng.choice(places)
        how = rng.random()
        if how < 0.6:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        elif how < 0.75:
            node.pop(key)
        elif how < 0.9:
            node[key] = json.loads(json.dumps(other[other_key]))
        elif isinstance(node, dict):
            node[rng.choice(("", "x", "\ud800", "a.b", "__class__", "a" * 3_000, str(key) + " "))] = node.pop(key)
    return tree


def dumped(tree):
    """JSON as bytes, surrogates and what is not finite included."""
    return json.dumps(tree).encode()


def hostile_json(rng, data, others=()):
    """A JSON file that is still JSON, or one that is not any more."""
    if rng.random() < 0.3:
        return damaged(rng, data, others)
    return dumped(hostile_tree(rng, json.loads(data)))


def hostile_json_lines(rng, data, others=()):
    """As `hostile_json`, of one of the lines."""
    lines = data.split(b"\n")
    chosen = rng.randrange(len(lines))
    if rng.random() < 0.3 or not lines[chosen].strip():
        return damaged(rng, data, others)
    lines[chosen] = hostile_json(rng, lines[chosen])
    return b"\n".join(lines)
