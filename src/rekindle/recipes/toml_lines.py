"""In which line of a TOML file each setting stands.

`tomllib` gives values without places. This scanner walks a text that `tomllib` has accepted and notes the line of
every key and array element; since the text is known to be valid, it only has to recognise where things begin and end.
Grammar: TOML 1.0.0, toml.io/en/v1.0.0.
"""

from __future__ import annotations

import tomllib
from typing import TypeAlias

__all__ = ["Path", "lines_of"]

Path: TypeAlias = tuple[str | int, ...]

_BLANK = " \t"
_SPACE = " \t\r\n"


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, counted from 1, where each key, table and array element of a valid TOML text begins.

    A path holds names and, within arrays, indices: ``("optimizer", "betas", 1)``. The empty path is line 1.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._line_at = 0  # where the line counter stands
        self._lines: dict[Path, int] = {(): 1}
        self._tables_in: dict[Path, int] = {}  # how many elements an array of tables has so far

    def scan(self) -> dict[Path, int]:
        prefix: Path = ()
        while self._skip_to_content():
            if self._peek() == "[":
                prefix = self._header()
            else:
                self._pair(prefix)
        return self._lines

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _here(self) -> int:
        self._line += self._text.count("\n", self._line_at, self._at)
        self._line_at = self._at
        return self._line

    def _skip(self, letters: str) -> None:
        while self._at < len(self._text) and self._text[self._at] in letters:
            self._at += 1

    def _skip_to_content(self) -> bool:
        """Pass blanks, line ends and comments; tell whether anything is left."""
        while True:
            self._skip(_SPACE)
            if self._peek() != "#":
                return self._at < len(self._text)
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path)):  # `a.b = 1` begins table `a` as well
            self._lines.setdefault(path[:length], line)
        self._lines.setdefault(path, line)

    def _header(self) -> Path:
        line = self._here()
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        path = self._resolve(self._key())
        self._at += brackets
        if brackets == 2:
            self._note(path, line)
            index = self._tables_in.get(path, 0)
            self._tables_in[path] = index + 1
            path = (*path, index)
        self._note(path, line)
        return path

    def _resolve(self, key: Path) -> Path:
        """Put the index of its newest element behind each array of tables that a header goes through."""
        path: Path = ()
        for place, part in enumerate(key):
            path = (*path, part)
            if path in self._tables_in and place < len(key) - 1:
                path = (*path, self._tables_in[path] - 1)
        return path

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            if self._peek() in ("'", '"'):
                parts.append(self._quoted())
            else:
                start = self._at
                while self._peek() and self._peek() not in " \t.=]\r\n":
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip(_BLANK)
            if self._peek() != ".":
                return tuple(parts)
            self._at += 1

    def _quoted(self) -> str:
        start = self._at
        self._string()
        # A key's escapes mean what a value's do: let tomllib read it.
        return str(tomllib.loads(f"x = {self._text[start : self._at]}")["x"])

    def _string(self) -> None:
        quote = self._text[self._at]
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(fence)
        while not self._text.startswith(fence, self._at):
            self._at += 2 if quote == '"' and self._peek() == "\\" else 1
        self._at += len(fence)
        while len(fence) == 3 and self._peek() == quote:  # up to two quotes may stand right before the fence
            self._at += 1

    def _pair(self, prefix: Path) -> None:
        line = self._here()
        path = (*prefix, *self._key())
        self._note(path, line)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self._peek()
        if first in ("'", '"'):
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self._peek() and self._peek() not in ",]}#\r\n":
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip_to_content() and self._peek() != "]":
            self._note((*path, index), self._here())
            self._value((*path, index))
            self._skip_to_content()
            if self._peek() == ",":
                self._at += 1
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        self._skip_to_content()  # TOML 1.1 allows line ends here
        while self._peek() != "}":
            self._pair(path)
            self._skip_to_content()
            if self._peek() == ",":
                self._at += 1
            self._skip_to_content()
        self._at += 1
