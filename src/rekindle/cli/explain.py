"""`rekindle explain`: what happened, why, and the fix, from a log, a message or a code."""

from __future__ import annotations

import argparse
import os
import sys

from rekindle.errors import RekindleError

SUMMARY = "say what an error means and how to mend it: from a log, a message or a code"
EXAMPLE = "rekindle explain train.log"

_MAX_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what",
        nargs="?",
        default="-",
        metavar="LOG|CODE|MESSAGE",
        help="a log file, a code or name (RK-SHAPE-01, shape-linear), or a message in quotes; stdin by default",
    )
    parser.add_argument("--list", action="store_true", help="list every error and every pitfall that is known")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Explain; 0 explained, 1 no known error fits, 2 there is no such log, code or name."""
    if args.list:
        return _list(args)
    word = args.what
    if word != "-" and not os.path.exists(word):
        from rekindle.explain.page import find_heading

        heading = find_heading(word)
        if heading is not None:
            return _page(heading, args)
        if len(word.split()) < 2:
            return _file_page(word, args)
    return _log(word, args)


def _list(args: argparse.Namespace) -> int:
    from rekindle.explain.catalogue import headings
    from rekindle.pitfalls import pitfall_modules, title_of
    from rekindle.render import escape, to_json

    rows = [(row.code, row.name, row.title) for row in headings()]
    silent = [(pitfall.CODE, pitfall.NAME, title_of(pitfall)) for pitfall in pitfall_modules()]
    if args.json:
        keys = ("code", "name", "title")
        lists = {"errors": rows, "pitfalls": silent}
        print(to_json({kind: [dict(zip(keys, row, strict=True)) for row in found] for kind, found in lists.items()}))
        return 0
    width = max(len(name) for _, name, _ in (*rows, *silent))
    for code, name, title in rows:
        print(f"{code:<14} {name:<{width}}  {escape(title, 100)}")
    print("\nmistakes that raise no error (rk.check and rk.Run find them):")
    for code, name, title in silent:
        print(f"{code:<14} {name:<{width}}  {escape(title, 100)}")
    print(f"\n{len(rows)} errors and {len(silent)} pitfalls; the long page of one: rekindle explain {rows[0][0]}")
    return 0


def _page(heading: object, args: argparse.Namespace) -> int:
    from rekindle.explain.catalogue import Heading, entry
    from rekindle.explain.page import page_of
    from rekindle.render import to_json

    assert isinstance(heading, Heading)  # noqa: S101 - for the type checker; find_heading gives nothing else
    if args.json:
        found = entry(heading.module)
        names = ("code", "name", "title", "why", "check", "example", "mended")
        print(to_json({name: getattr(found, name.upper()) for name in names}))
    else:
        print(page_of(heading), end="")
    return 0


def _file_page(word: str, args: argparse.Namespace) -> int:
    from rekindle.explain.page import file_page, known_words
    from rekindle.pitfalls import page_of as pitfall_page
    from rekindle.render import to_json

    text = file_page(word) or pitfall_page(word)
    if text:
        print(to_json({"code": word, "page": text}) if args.json else text, end="\n" if args.json else "")
        return 0
    from rekindle.keys import near_names

    near = near_names(word, known_words()) or near_names(word.upper(), known_words())
    raise RekindleError(
        f"{word}: no such log, and no such code or name",
        why=f"nearest: {', '.join(near)}" if near else "a log is a file; a code reads RK-SHAPE-01, a name shape-linear",
        do=f"rekindle explain {near[0]}" if near else "rekindle explain --list",
    )


def _log(word: str, args: argparse.Namespace) -> int:
    from rekindle.explain.report import explain_text
    from rekindle.explain.words import report_json, report_lines

    source = word if word != "-" and os.path.exists(word) else ""
    text = _read(word) if word == "-" or source else word
    if not text.strip():
        raise RekindleError(
            f"{source or 'stdin'}: there is nothing in it",
            why="an error is explained from the text that it printed",
            do="rekindle explain train.log     or: python train.py 2>&1 | rekindle explain",
        )
    report = explain_text(text)
    if args.json:
        from rekindle.render import to_json

        print(to_json(report_json(report)))
    else:
        for line in report_lines(report, source):
            print(line)
    return 0 if report.explained else 1


def _read(word: str) -> str:
    if word == "-":
        if sys.stdin is None:
            return ""
        if sys.stdin.isatty():
            print("paste the error, then press Ctrl-D:", file=sys.stderr)
        data = sys.stdin.buffer.read()
        return data[-_MAX_BYTES:].decode(errors="replace")
    with open(word, "rb") as file:
        size = file.seek(0, os.SEEK_END) if file.seekable() else 0
        if file.seekable():
            file.seek(max(0, size - _MAX_BYTES))  # of a very long log the end, where it stopped
        data = file.read(_MAX_BYTES)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # PowerShell's > writes UTF-16
        return data.decode("utf-16", errors="replace")
    return data.decode(errors="replace")
