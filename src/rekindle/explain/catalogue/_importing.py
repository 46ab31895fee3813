"""Which package asked for a module that is not there, from the frames of the import."""

from __future__ import annotations

from rekindle.explain.event import Event

__all__ = ["asked_by", "importer"]


def importer(event: Event, word: str) -> str:
    """Return the installed package whose line imports what has `word` in it; empty where it is the user's own line."""
    for frame in reversed(event.frames):
        if word in frame.code and ("import " in frame.code):
            return (
                frame.path.replace("\\", "/").rpartition("-packages/")[2].partition("/")[0].removesuffix(".py")
                if "-packages" in frame.path
                else ""
            )
    return ""


def asked_by(event: Event, word: str) -> str:
    """Return the line that imports what has `word` in it, or an empty text."""
    return next((frame.code for frame in reversed(event.frames) if word in frame.code and "import" in frame.code), "")
