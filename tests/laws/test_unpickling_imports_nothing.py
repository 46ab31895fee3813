"""Law: running a hostile program imports nothing, opens nothing, compiles nothing, starts nothing.

CPython reports each of these to audit hooks, whoever does it. Each program is run in a process with a hook that writes
down every event; the same program given to pickle itself proves that the hook would have seen it.
"""

import json
import subprocess
import sys

import pytest

from rekindle.unpickling.machine import run_program


def text(words):
    return b"X" + len(words).to_bytes(4, "little") + words.encode()


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def stack_name(module, function):
    return text(module) + text(function) + b"\x93"


def call(function, *args):
    return function + b"(" + b"".join(args) + b"tR"


SYSTEM = name("os", "system")

# (program, the names it asks for)
PROGRAMS = {
    "reduce": (call(SYSTEM, text("echo owned")), 1),
    "a name from the stack": (call(stack_name("posix", "system"), text("true")), 1),
    "INST": (b"(" + text("true") + b"isubprocess\ngetoutput\n", 1),
    "OBJ": (b"(" + name("builtins", "eval") + text("open('/dev/null')") + b"o", 1),
    "a dotted name": (call(stack_name("builtins", "__import__.__call__"), text("this")), 1),
    "exec of text": (call(name("__builtin__", "exec"), text("import this")), 1),
    "NEWOBJ": (name("ctypes", "CDLL") + text("libc.so.6") + b"\x85\x81", 1),
    "NEWOBJ_EX": (name("socket", "socket") + b")}\x92", 1),
    "BUILD with __setstate__": (
        name("this", "Class") + b")\x81}" + text("__setstate__") + SYSTEM + b"sb" + text("ls") + b"b",
        2,
    ),
    "BUILD of a class": (name("this", "Class") + b"}" + text("__init__") + SYSTEM + b"sb", 2),
    "a call inside a state dict": (
        call(name("collections", "OrderedDict")) + text("weight") + call(SYSTEM, text("ls")) + b"s",
        2,
    ),
    "a call as an argument of a known call": (
        call(name("torch._utils", "_rebuild_tensor_v2"), call(SYSTEM, text("ls")), b"K\x00)))N"),
        2,
    ),
    "a known call around any function": (
        call(name("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, SYSTEM, b"(" + text("ls") + b"t", b"}"),
        3,
    ),
    "getattr": (call(call(name("builtins", "getattr"), SYSTEM, text("__call__")), text("ls")), 2),
    "a codec by name": (call(name("_codecs", "encode"), text("a"), text("rot13")), 1),
    "a copyreg call": (call(name("copyreg", "__newobj__"), SYSTEM, text("ls")), 2),
    "a call in a state": (name("torch", "FloatTensor") + b")\x81(" + call(SYSTEM, text("ls")) + b"NNNtb", 2),
    "a call as a key": (b"}" + call(SYSTEM, text("ls")) + b"Ns", 1),
    "a persistent id": (SYSTEM + b"Q", 1),
    "a name with a NUL": (stack_name("o\0s", "system"), 1),
    "an extension code": (b"\x82\x01)R", 0),
}  # fmt: skip


SCRIPT = """
import json, sys
programs = {name: bytes.fromhex(text) for name, text in json.load(sys.stdin).items()}
if sys.argv[1] == "ours":
    from rekindle.errors import UnreadableFile
    from rekindle.unpickling.machine import run_program as run
else:
    from pickle import loads as run
    UnreadableFile = Exception
seen, watching = [], []
def hook(event, args):
    if watching and not event.startswith(("object.__getattr__", "sys._getframe", "gc.", "builtins.id")):
        seen.append((watching[0], event))
sys.addaudithook(hook)
modules = set(sys.modules)
ended = {}
for name, program in programs.items():
    watching.append(name)
    try:
        run(program)
        ended[name] = "value"
    except UnreadableFile as error:
        ended[name] = type(error).__name__
    finally:
        watching.clear()
print("RESULT" + json.dumps([seen, sorted(set(sys.modules) - modules), ended]))
"""


def watch(who, programs):
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, who],
        input=json.dumps({case: program.hex() for case, program in programs.items()}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


def test_hostile_programs_cause_no_event_at_all():
    seen, modules, ended = watch("ours", {case: program + b"." for case, (program, _) in PROGRAMS.items()})
    assert seen == []
    assert modules == []
    assert ended == dict.fromkeys(PROGRAMS, "value")  # each was run to its end, none was merely refused


def test_the_hook_sees_what_pickle_itself_does():
    harmless = {"import": name("this", "s"), "call": call(name("builtins", "eval"), text("1 + 1"))}
    seen, modules, ended = watch("pickle", {case: program + b"." for case, program in harmless.items()})
    assert {"pickle.find_class", "import", "open", "compile", "exec"} <= {event for _, event in seen}
    assert "this" in modules
    assert ended == {"import": "value", "call": "value"}


@pytest.mark.parametrize("case", PROGRAMS)
def test_every_name_in_a_hostile_program_is_listed(case):
    program, names = PROGRAMS[case]
    assert len(run_program(program + b".").globals) == names
