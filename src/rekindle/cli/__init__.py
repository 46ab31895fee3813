"""The command line: `rekindle COMMAND`, one thin file per command.

A command is a module of this package with four names: `SUMMARY` (one line, lower case), `EXAMPLE` (a command line that
works), `add_arguments(parser)` and `run(args) -> int`. Adding a file adds a command. Only the chosen command's module
is imported, and a command imports what it needs when it runs, so that `rekindle inspect` starts in tens of
milliseconds on a machine without torch.

Law of this package: whatever goes wrong with the input or the machine is three lines on stderr (what happened, why,
what to do) and exit code 2; stdout holds the answer and nothing else.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn, Protocol, cast

from rekindle import __version__
from rekindle.errors import RekindleError

__all__ = ["FINE", "INTERRUPTED", "NO", "NOT_DONE", "command_names", "main"]

FINE = 0  # done, nothing to report
NO = 1  # the answer is no: findings, differences, not proven
NOT_DONE = 2  # could not be done: usage, unreadable input, no room
INTERRUPTED = 130  # Ctrl-C
_CLOSED_PIPE = 141  # what a shell shows for a program that SIGPIPE ended


class _Command(Protocol):
    SUMMARY: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after ``rekindle``; those of this process by default.

    Returns:
        0 fine, 1 the answer is no, 2 could not be done, 130 interrupted; `scan` adds 3. A run that was asked to stop
        by SIGTERM or SIGUSR1 gives 75, a reader that closed our pipe 141.
    """
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows few characters is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except SystemExit as stop:
        return _exit_code(stop)
    except RekindleError as error:
        _say(str(error))
        return NOT_DONE
    except BrokenPipeError as error:
        if _has_lost_its_reader():
            return _CLOSED_PIPE
        _say(_words_of_os_error(error, name))
        return NOT_DONE
    except OSError as error:
        _say(_words_of_os_error(error, name))
        return NOT_DONE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the exit code must not read as "the answer is no"
        _say_unforeseen(error, name)
        return NOT_DONE
    return code


def _open_what_is_closed() -> None:
    """Have stdout and stderr lead nowhere where they were closed (`2>&-`).

    Python has None in their place, which `print` takes for stdout: words meant for people would stand in the JSON.
    Their numbers are taken as well, so that no file that is written later gets what a library says on number 2.
    """
    while sys.stdout is None or sys.stderr is None:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            break
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def command_names() -> list[str]:
    """Return the names of all commands, sorted: the modules of this package."""
    names = {entry.split(".")[0] for folder in __path__ for entry in os.listdir(folder) if entry.endswith(".py")}
    return sorted(name for name in names if not name.startswith("_"))


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in our form."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, how it is meant, and stop with code 2."""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        near = self._near_options(message)
        why = f"nearest: {near}" if near else f"usage: {usage}"
        _say(str(RekindleError(f"{self.prog}: {message}", why=why, do=f"{self.prog} --help")))
        raise SystemExit(NOT_DONE)

    def _near_options(self, message: str) -> str:
        from rekindle.keys import near_names

        if not message.startswith("unrecognized arguments: -"):
            return ""
        typed = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
        return ", ".join(near_names(typed, self._option_string_actions))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return FINE if words else NOT_DONE
    if words[0] in ("-V", "--version"):
        print(f"rekindle {__version__}")
        return FINE
    name, names = words[0], command_names()
    if name not in names:
        raise _unknown(name, names)
    command = _load(name)
    parser = _Parser(
        prog=f"rekindle {name}",
        description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return command.run(parser.parse_args(words[1:]))


def _load(name: str) -> _Command:
    return cast("_Command", import_module(f"{__name__}.{name}"))


def _overview() -> str:
    names = command_names()
    width = max(map(len, names), default=0)
    lines = [f"  {name:<{width}}   {_load(name).SUMMARY}" for name in names]
    return "\n".join(
        [
            "usage: rekindle COMMAND [options]",
            "",
            "Brings PyTorch models back: from any checkpoint file, after any crash, onto any hardware.",
            "",
            "commands:",
            *lines,
            "",
            "  rekindle COMMAND --help   options and an example",
            "  rekindle --version        the version",
        ]
    )


def _unknown(name: str, names: list[str]) -> RekindleError:
    from rekindle.keys import near_names

    near = near_names(name, names)
    if near:
        return RekindleError(
            f"{name}: no such command", why=f"nearest: {', '.join(near)}", do=f"rekindle {near[0]} --help"
        )
    return RekindleError(f"{name}: no such command", why=f"there are: {', '.join(names)}", do="rekindle --help")


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return FINE
    if isinstance(stop.code, int):
        return stop.code
    _say(str(stop.code))
    return NOT_DONE


_CAUSES = {
    errno.ENOENT: ("there is no such file or folder", "check the spelling; list what is there with: ls {folder}"),
    errno.EACCES: ("this account has no permission", "look at the owner and mode with: ls -ld {path}"),
    errno.EPERM: ("this account has no permission", "look at the owner and mode with: ls -ld {path}"),
    errno.EROFS: ("the file system is mounted read-only", "write to another folder"),
    errno.ENOSPC: ("the disk is full", "see what is left with: df -h {folder}"),
    errno.EDQUOT: ("the disk quota of this account is used up", "free some room or write to another disk"),
    errno.EFBIG: ("the file would become larger than the system allows", "look at the limit with: ulimit -f"),
    errno.EISDIR: ("a file is wanted here", "give the path of a file"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EMFILE: ("this process has too many files open", "raise the limit with: ulimit -n 4096"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "take a shorter name"),
    errno.ELOOP: ("symbolic links lead in a circle", "look at it with: ls -l {path}"),
    errno.EIO: ("the disk reported a fault", "look at the system's log, and copy what matters elsewhere"),
}


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _words_of_os_error(error: OSError, command: str) -> str:
    import shlex

    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    why, do = _CAUSES.get(error.errno or 0, ("", ""))
    if error.errno in _REFUSED and ".tmp-" in os.path.basename(path):
        path = os.path.dirname(path) or "."  # a name of our own, which is not there: it is the folder that refuses
    folder = shlex.quote(os.path.dirname(path) or ".")
    return str(
        RekindleError(
            f"{path.replace(chr(10), '?') or 'rekindle ' + command}: {reason}",
            why=why,
            do=do.format(path=shlex.quote(path or "."), folder=folder).replace("\n", "?"),
        )
    )


def _say(text: str) -> None:
    """Print to stderr; what came from a file or a file name cannot move the cursor or colour the terminal."""
    shown = "".join(
        letter if letter.isprintable() or letter in "\n\u00a0" else letter.encode("unicode_escape").decode()
        for letter in text
    )
    with suppress(OSError, ValueError):  # if nobody is listening any more, the exit code still tells
        print(shown, file=sys.stderr, flush=True)


def _say_unforeseen(error: Exception, command: str) -> None:
    import traceback

    _say("".join(traceback.format_exception(error)).rstrip())
    _say(
        str(
            RekindleError(
                f"rekindle {command}: stopped by {type(error).__name__}, which it did not foresee",
                why="the lines above say where; if they end in rekindle's own files, it is a fault in rekindle",
                do="report it with these lines and, if you can share it, the file",
            )
        )
    )


def _has_lost_its_reader() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads; it is pointed at nothing, so that the exit is silent."""
    import select

    lost = False
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):  # not a file: a test's buffer, a notebook
            continue
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
                continue
        lost = True
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    return lost
