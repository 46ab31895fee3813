"""What is fuzzed keeps its law for the stored files and a few damaged ones, and the watch over it is awake.

`make fuzz` goes on from here for as long as one likes. The audit hook cannot be taken off, so all of it runs in
processes of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).parent.parent / "helpers"
FUZZ = Path(__file__).parent.parent.parent / "scripts" / "fuzz.py"

SOME = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import fuzz, fuzzing
fuzz.import_file_side()
scratch = Path(sys.argv[3])
watch = fuzzing.Watch(scratch)
tried = {}
for target in fuzzing.targets(scratch):
    count = 0
    seeds = target.seeds[:: max(len(target.seeds) // 3, 1)]
    for number, seed in enumerate(seeds):
        for data in (seed, *fuzzing.variants(seed, 3, seed=number)):
            fuzzing.kept(watch, target.run, data)
            count += 1
    tried[target.name] = count
print(json.dumps(tried))
"""

TEETH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fuzzing
watch = fuzzing.Watch(Path(sys.argv[2]))
def deed(data):
    work = {
        b'import': lambda: __import__('wave_of_no_such_module'),
        b'exec': lambda: exec(code),
        b'compile': lambda: compile('1', '<file>', 'eval'),
        b'write': lambda: open('never-written', 'w'),
        b'remove': lambda: __import__('os').remove('never-written'),
        b'process': lambda: __import__('subprocess').run(['true']),
        b'connect': lambda: __import__('socket').create_connection(('127.0.0.1', 9)),
        b'find': lambda: __import__('pickle').loads(b'cos\\nsystem\\n.'),
        b'slow': lambda: sleep(0.2),
        b'other': lambda: {}['x'],
        b'ours': lambda: refuse(),
        b'wordless': lambda: refuse(''),
        b'scratch': lambda: (Path(sys.argv[2]) / 'a').write_bytes(b'x'),
        b'nothing': lambda: None,
    }[data]
    work()
from time import sleep
from rekindle.errors import UnreadableFile
def refuse(what='words'):
    raise UnreadableFile(what)
code = compile('1', '<given>', 'eval')
import os, pickle, socket, subprocess
fuzzing.SECONDS = 0.1
for name in sys.argv[3:]:
    try:
        fuzzing.kept(watch, deed, name.encode())
        print(name, 'held')
    except fuzzing.Broken as broken:
        print(name, 'broken')
    except KeyError:
        print(name, 'raised')
"""


def run(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_target_holds_for_stored_files_and_some_damaged_ones(tmp_path: Path):
    tried = json.loads(run(SOME, str(HELPERS), str(FUZZ.parent), str(tmp_path)))
    assert len(tried) > 25
    assert all(count >= 4 for count in tried.values())


def test_the_watch_hears_what_a_reader_must_never_do(tmp_path: Path):
    bad = ["import", "exec", "compile", "write", "remove", "process", "connect", "find", "slow", "wordless"]
    said = run(TEETH, str(HELPERS), str(tmp_path), *bad, "other", "ours", "scratch", "nothing").splitlines()
    assert said == [*(f"{name} broken" for name in bad), "other raised", "ours held", "scratch held", "nothing held"]


def test_without_atheris_the_command_says_so_and_what_to_do():
    hidden = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'atheris' else find(name, *rest)\n"
        f"sys.argv = ['fuzz.py', 'program']\nrunpy.run_path({str(FUZZ)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "atheris is not installed" in done.stderr
    assert 'pip install "rekindle[fuzz]", or add --blind' in done.stderr
