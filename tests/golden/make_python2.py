# This is Python 2.
# ruff: noqa: C405, UP004, UP010, UP025, UP031
# fmt: off
"""Make tests/golden/python2: pickles of Python 2.7, protocols 0 to 2, each with the facts a reader must find in it.

    python2.7 tests/golden/make_python2.py tests/golden/python2

Python 2 wrote other opcodes than Python 3 does: INST and OBJ for classes of the old kind, byte strings for text,
`__builtin__` and `copy_reg` for names. The facts are JSON beside each file: a value, where JSON can hold it, is itself;
anything else is {"type": ...}.
"""
from __future__ import print_function

import collections
import json
import os
import pickle
import sys


class Old:
    """A class of the old kind: INST at protocol 0, OBJ at 1 and 2."""

    def __init__(self):
        self.rate = 0.5
        self.name = "old"


class New(object):
    """A class of the new kind: copy_reg._reconstructor at protocols 0 and 1, NEWOBJ at 2."""

    def __init__(self):
        self.size = 3


class Words(dict):
    """A subclass of dict."""


def main(folder):
    words = Words(a=1)
    recursive = []
    recursive.append(recursive)
    shared = [1]
    cases = {
        "text": ("plain", u"z\u00fcrich \U0001f525", u"a\\u0041\\n'\"\n", "tab\tquote'\"\\"),
        "numbers": [0, 1, -1, 255, 256, 65535, 65536, 2**31, -(2**31), 2**62, 2**70, -(2**70), 0.1, -1e300, 1e-300],
        "longs": [long(number) for number in (0, 1, -1, 255, 2**2000)],  # noqa: F821 - Python 2 has it
        "constants": [None, True, False],
        "binary": "\x00\xff\xfe bytes that are no text",
        "containers": {"list": [1, 2], "tuple": (1, (2, 3), ()), "dict": {"a": {}}, "empty": []},
        "old": Old(),
        "new": New(),
        "words": words,
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "set": set([1, 2, 3]),
        "complex": 1 + 2j,
        "shared": [shared, shared],
        "recursive": recursive,
        "bytearray": bytearray(b"\x00\x01\xff"),
    }
    expected = {
        "text": ["plain", u"z\u00fcrich \U0001f525", u"a\\u0041\\n'\"\n", "tab\tquote'\"\\"],
        "numbers": cases["numbers"],
        "longs": [int(n) for n in cases["longs"]],
        "constants": cases["constants"],
        "binary": {"type": "bytes", "hex": cases["binary"].encode("hex")},
        "containers": {"list": [1, 2], "tuple": [1, [2, 3], []], "dict": {"a": {}}, "empty": []},
        "old": {"type": "object", "class": "__main__.Old", "state": {"rate": 0.5, "name": "old"}},
        "new": {"type": "object", "class": "__main__.New", "state": {"size": 3}},
        "words": {"type": "words", "class": "__main__.Words", "items": {"a": 1}},
        "ordered": {"type": "OrderedDict", "pairs": [["b", 1], ["a", 2]]},
        "set": {"type": "set", "items": [1, 2, 3]},
        "complex": {"type": "complex", "parts": [1.0, 2.0]},
        "shared": {"type": "shared", "of": [1]},
        "recursive": {"type": "recursive"},
        "bytearray": {"type": "bytes", "hex": "0001ff"},
    }
    if not os.path.isdir(folder):
        os.makedirs(folder)
    for name in sorted(cases):
        for protocol in (0, 1, 2):
            with open(os.path.join(folder, "%s-%d.pkl" % (name, protocol)), "wb") as file:
                file.write(pickle.dumps(cases[name], protocol))
        with open(os.path.join(folder, name + ".json"), "wb") as file:
            file.write(json.dumps(expected[name], indent=1, sort_keys=True) + "\n")
    print(len(cases), "objects,", 3 * len(cases), "pickles")


if __name__ == "__main__":
    main(sys.argv[1])
