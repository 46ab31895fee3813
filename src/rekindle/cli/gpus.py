"""`rekindle gpus`: see `rekindle.devices.gpus` and `rekindle.devices.pick`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.devices.gpus import Gpu, MigSlice, Survey
    from rekindle.devices.pick import VisibleDevices

SUMMARY = "list the GPUs: memory, use, processes, and the numbers that CUDA gives them"
EXAMPLE = "rekindle gpus --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """List the GPUs; 0 there are some, 1 there are none, 2 the driver could not be asked."""
    from rekindle.cli import FINE, NO, NOT_DONE
    from rekindle.devices.gpus import survey_gpus
    from rekindle.devices.pick import visible_devices
    from rekindle.errors import RekindleError

    survey = survey_gpus()
    seen = visible_devices(survey.gpus)
    if args.json:
        from rekindle.render import to_json

        print(to_json(_as_json(survey, seen)))
    elif survey.gpus:
        print("\n".join(_lines(survey, seen)))
    else:
        what = "no GPU" if survey.asked else "the GPUs cannot be listed"
        print(str(RekindleError(what, why=survey.why, do=survey.do)), file=sys.stderr)
    return FINE if survey.gpus else NO if survey.asked else NOT_DONE


def _as_json(survey: Survey, seen: VisibleDevices) -> dict[str, object]:
    return {
        "driver": survey.driver,
        "cuda": None if survey.cuda is None else f"{survey.cuda[0]}.{survey.cuda[1]}",
        "visible_devices": seen.text,
        "logical": [device.uuid for device in seen.devices],
        "note": seen.note,
        "gpus": [_gpu_json(gpu, seen) for gpu in survey.gpus],
        "why": survey.why,
        "do": survey.do,
    }


def _gpu_json(gpu: Gpu, seen: VisibleDevices) -> dict[str, object]:
    return {
        "index": gpu.index,
        "logical": seen.logical_of(gpu),
        "uuid": gpu.uuid,
        "name": gpu.name,
        "capability": None if gpu.capability is None else f"{gpu.capability[0]}.{gpu.capability[1]}",
        "memory_total_bytes": gpu.memory_total_bytes,
        "memory_free_bytes": gpu.memory_free_bytes,
        "busy_percent": gpu.busy_percent,
        "compute_mode": gpu.compute_mode,
        "processes": None
        if gpu.processes is None
        else [{"pid": p.pid, "name": p.name, "memory_bytes": p.memory_bytes} for p in gpu.processes],
        "slices": None if gpu.slices is None else [_slice_json(part, seen) for part in gpu.slices],
        "fault": gpu.fault,
    }


def _slice_json(part: MigSlice, seen: VisibleDevices) -> dict[str, object]:
    return {
        "index": part.index,
        "logical": seen.logical_of(part),
        "uuid": part.uuid,
        "name": part.name,
        "memory_total_bytes": part.memory_total_bytes,
        "memory_free_bytes": part.memory_free_bytes,
    }


def _lines(survey: Survey, seen: VisibleDevices) -> list[str]:
    from rekindle.render import escape

    cuda = f", CUDA up to {survey.cuda[0]}.{survey.cuda[1]}" if survey.cuda else ""
    shown = "not set" if seen.text is None else repr(seen.text)
    count = len(survey.gpus)
    lines = [
        f"{count} GPU{'s' * (count != 1)}, driver {survey.driver or 'unknown'}{cuda}; CUDA_VISIBLE_DEVICES {shown}",
        "",
    ]
    rows = [("GPU", "as", "name", "capability", "memory free", "of", "busy", "processes")]
    for gpu in survey.gpus:
        rows.append(
            (
                str(gpu.index),
                _logical(seen.logical_of(gpu)) if gpu.slices is None else "",
                escape(gpu.name),
                "" if gpu.capability is None else f"{gpu.capability[0]}.{gpu.capability[1]}",
                _gib(gpu.memory_free_bytes),
                _gib(gpu.memory_total_bytes),
                "?" if gpu.busy_percent is None else f"{gpu.busy_percent} %",
                _users(gpu),
            )
        )
        rows += [
            (
                f"{gpu.index}.{part.index}",
                _logical(seen.logical_of(part)),
                escape(part.name),
                "",
                _gib(part.memory_free_bytes),
                _gib(part.memory_total_bytes),
                "",
                part.uuid,
            )
            for part in gpu.slices or ()
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for gpu in survey.gpus:
        for process in gpu.processes or ():
            used = "" if process.memory_bytes is None else f"  {_gib(process.memory_bytes)}"
            lines.append(f"  GPU {gpu.index}: process {process.pid}  {escape(process.name or 'unknown')}{used}")
    if seen.note:
        lines += ["", f"note: {seen.note}"]
    return lines


def _logical(number: int | None) -> str:
    return "hidden" if number is None else f"cuda:{number}"


def _users(gpu: Gpu) -> str:
    if gpu.fault:
        return gpu.fault
    mode = f", {gpu.compute_mode}" if gpu.compute_mode not in {None, "shared"} else ""
    return ("?" if gpu.processes is None else str(len(gpu.processes))) + mode


def _gib(count: int | None) -> str:
    return "?" if count is None else f"{count / 1024**3:.1f} GiB"
