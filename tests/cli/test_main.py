"""The command line itself: help, errors in three parts, exit codes, and how cheaply it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rekindle
from rekindle import cli as command_line
from rekindle.cli import command_names, main

COMMANDS = command_names()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Add a command by adding a file."""
    folder = tmp_path / "more"
    folder.mkdir()
    monkeypatch.setattr(command_line, "__path__", [*command_line.__path__, str(folder)])

    def add(name: str, body: str) -> None:
        (folder / f"{name}.py").write_text(
            f'SUMMARY = "do {name}"\nEXAMPLE = "rekindle {name}"\n'
            'def add_arguments(parser):\n    parser.add_argument("--size", type=int, default=1)\n'
            f"def run(args):\n    {body}\n"
        )
        sys.modules.pop(f"rekindle.cli.{name}", None)

    yield add
    for name in [
        name for name in sys.modules if name.startswith("rekindle.cli.") and "more" in repr(sys.modules[name])
    ]:
        del sys.modules[name]


def test_help_lists_every_command_with_its_summary(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS
    for name in COMMANDS:
        module = sys.modules[f"rekindle.cli.{name}"]
        assert any(line.split() == [name, *module.SUMMARY.split()] for line in shown.splitlines()), name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_ends_with_an_example(capsys, name):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out.rstrip().splitlines()
    assert shown[-2] == "example:"
    assert shown[-1].strip().startswith(f"rekindle {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_every_command_is_one_that_it_accepts(name):
    import argparse
    import shlex

    module = __import__(f"rekindle.cli.{name}", fromlist=["x"])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    words = shlex.split(module.EXAMPLE, comments=True)
    assert words[:2] == ["rekindle", name]
    parser.parse_args(words[2:])
    assert module.SUMMARY[0].islower()
    assert not module.SUMMARY.endswith(".")


def test_a_file_in_the_package_is_a_command(command, capsys):
    command("hello", "print('hello', args.size); return 3")
    assert main(["hello", "--size", "4"]) == 3
    assert capsys.readouterr().out == "hello 4\n"
    assert "hello" in command_names()


def test_no_words_give_the_overview_and_code_2(capsys):
    assert main([]) == 2
    assert "usage: rekindle COMMAND" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rekindle {rekindle.__version__}\n"


def test_an_unknown_command_names_the_nearest(command, capsys):
    command("hello", "return 0")
    assert main(["helo"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "helo: no such command\n  why     nearest: hello\n  do      rekindle hello --help\n"
    assert main(["zzzzz"]) == 2
    assert "there are: " in capsys.readouterr().err


def test_an_unknown_option_names_the_nearest(command, capsys):
    command("hello", "return 0")
    assert main(["hello", "--siz", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "rekindle hello: unrecognized arguments: --siz 3\n  why     nearest: --size\n  do      rekindle hello --help\n"
    )
    assert main(["hello", "--size", "many"]) == 2
    assert capsys.readouterr().err.startswith(
        "rekindle hello: argument --size: invalid int value: 'many'\n  why     us"
    )


def test_our_errors_are_three_lines_on_stderr(command, capsys):
    command(
        "fails",
        "from rekindle.errors import NotAModel;"
        "raise NotAModel('x.pt: a web page', why='a login was asked for', do='get it again', code='RK-FILE-01')",
    )
    assert main(["fails"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("x.pt: a web page  [RK-FILE-01]\n  why     a login was asked for\n  do      get it again\n")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('gone/x.pt')", "gone/x.pt: no such file or directory\n  why     there is no such file or folder\n"),
        ("open('.')", ".: is a directory\n  why     a file is wanted here\n  do      give the path of a file\n"),
        (
            "import errno; raise OSError(errno.ENOSPC, 'No space left on device', '/a b/x')",
            "/a b/x: no space left on device\n  why     the disk is full\n  do      see what is left with: df -h '/a b",
        ),
        (
            "import errno; raise OSError(errno.EACCES, 'Permission denied', 'x')",
            (
                "x: permission denied\n  why     this account has no permission\n"
                "  do      look at the owner and mode with: ls -ld x\n"
            ),
        ),
        (
            "import errno; raise OSError(errno.EACCES, 'Permission denied', 'there/.model.pth.tmp-1f2e')",
            (
                "there: permission denied\n  why     this account has no permission\n"
                "  do      look at the owner and mode with: ls -ld there\n"
            ),
        ),
        ("raise OSError('a message without a number')", "rekindle fails: a message without a number\n"),
    ],
)
def test_errors_of_the_machine_have_the_same_form(command, capsys, body, words):
    command("fails", body)
    assert main(["fails"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(words)


def test_a_file_name_cannot_reach_the_terminal(command, capsys):
    command("fails", r"open('a\x1b[31m\u202e\nrekindle: all is well/x')")
    assert main(["fails"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert not any(line.startswith("rekindle: all is well") for line in said.splitlines())


def test_what_nobody_foresaw_is_code_2_and_says_where(command, capsys):
    command("fails", "return {}['x']")
    assert main(["fails"]) == 2
    said = capsys.readouterr().err
    assert "KeyError: 'x'" in said
    assert "rekindle fails: stopped by KeyError, which it did not foresee" in said


def test_interruption_is_130(command, capsys):
    command("waits", "raise KeyboardInterrupt")
    assert main(["waits"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_codes_that_a_run_exits_with_are_kept(command):
    command("stops", "raise SystemExit(75)")
    assert main(["stops"]) == 75


def test_a_reader_that_leaves_gets_silence(tmp_path):
    code = "import sys; from rekindle import cli; cli.__path__.append(sys.argv[1]); sys.exit(cli.main(['pours']))"
    (tmp_path / "pours.py").write_text(
        "SUMMARY = 'pour'\nEXAMPLE = 'rekindle pours'\ndef add_arguments(parser): pass\n"
        "def run(args):\n    for i in range(100000): print('line', i)\n    return 0\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout.readline() == b"line 0\n"
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=60) == 141


@pytest.mark.skipif(os.name != "posix", reason="closes a stream as a POSIX shell does")
def test_with_stderr_closed_its_words_do_not_go_to_stdout():
    """Python has None in the place of a closed stream, and `print(file=None)` prints to stdout."""
    for words in ("inspect nowhere", "no-such-command"):
        command = f"{sys.executable} -m rekindle {words} 2>&-"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
    done = subprocess.run(f"{sys.executable} -m rekindle --version >&-", shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written_is_not_a_success():
    with open("/dev/full", "w") as full:
        child = subprocess.run(
            [sys.executable, "-m", "rekindle", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert child.returncode == 2
    assert "no space left on device" in child.stderr


def test_the_module_is_the_command(cli):
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rekindle {rekindle.__version__}\n", "")


def test_help_works_where_the_terminal_knows_only_ascii(cli):
    done = cli("--help", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stderr == ""


def loaded_after(words: list[str]) -> set[str]:
    code = (
        "import sys\nfrom rekindle.cli import main\n"
        f"code = main({words!r})\nprint('\\n'.join(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return set(done.stderr.split())


HEAVY = {"torch", "numpy", "rich", "inspect", "logging", "importlib.metadata", "zipfile", "matplotlib", "sklearn"}


def test_help_loads_nothing_heavy():
    loaded = loaded_after(["--help"])
    assert "rekindle.cli" in loaded
    assert not loaded & HEAVY


def test_the_test_above_can_fail(command):
    code = "import sys, zipfile\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert set(done.stdout.split()) & HEAVY


def test_ctrl_c_in_a_real_process_is_130(tmp_path):
    (tmp_path / "waits.py").write_text(
        "SUMMARY = 'wait'\nEXAMPLE = 'rekindle waits'\ndef add_arguments(parser): pass\n"
        "def run(args):\n    import time\n    print('waiting', flush=True)\n    time.sleep(60)\n    return 0\n"
    )
    code = "import sys; from rekindle import cli; cli.__path__.append(sys.argv[1]); sys.exit(cli.main(['waits']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "waiting\n"
    os.kill(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "interrupted\n")
