"""Fuzz every reader and verb of the file side, guided by coverage, and keep what breaks.

    python scripts/fuzz.py                       all targets, a minute each
    python scripts/fuzz.py scan program          these targets
    python scripts/fuzz.py --seconds 3600        longer
    python scripts/fuzz.py --replay FILE...      run inputs that broke something once more
    python scripts/fuzz.py --list

The law is in tests/helpers/fuzzing.py. Each target is a process of its own. Inputs that reached something new are kept
in .fuzz/corpus/TARGET and are where the next run goes on; one that breaks the law lies in .fuzz/found/TARGET-*, and the
exit status is 1. Needs atheris (`pip install "rekindle[fuzz]"`: CPython 3.11 to 3.13 on x86-64 Linux); without it,
`--blind` changes the seeds at random, which finds far less.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pkgutil
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
KEPT = ROOT / ".fuzz"
# The rooms of the file side; what else they need comes with them.
_ROOMS = ("checks", "formats", "salvaging", "scanning", "store", "unpickling", "verbs", "writers")


def import_file_side() -> None:
    """Import every module that reads files: what is imported late would look like the work of an input."""
    for room in _ROOMS:
        package = importlib.import_module(f"rekindle.{room}")  # instrumented where atheris is there
        for module in pkgutil.iter_modules(package.__path__, f"rekindle.{room}."):
            importlib.import_module(module.name)


def scratch_folder() -> Path:
    """Return an empty folder, in memory where the system has one."""
    memory = "/dev/shm"
    return Path(tempfile.mkdtemp(prefix="rekindle-fuzz-", dir=memory if os.path.isdir(memory) else None))


def fuzz_one(name: str, seconds: int, *, blind: bool, replay: list[str]) -> int:
    """Fuzz one target in this process; returns the exit status (atheris never comes back)."""
    if blind or replay:
        import_file_side()
    else:
        import atheris  # noqa: PLC0415 - optional

        with atheris.instrument_imports(include=["rekindle"]):
            import_file_side()
    import fuzzing  # noqa: PLC0415 - after the modules that it uses were instrumented

    scratch = scratch_folder()
    target = next(target for target in fuzzing.targets(scratch) if target.name == name)
    watch = fuzzing.Watch(scratch)
    for path in replay:
        fuzzing.kept(watch, target.run, Path(path).read_bytes())
        print(f"{path}: holds")
    if replay:
        return 0
    corpus = KEPT / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number:04}").write_bytes(seed)
    for seed in target.seeds:  # what stdlib imports late, it imports here
        fuzzing.kept(watch, target.run, seed)
    if blind:
        return _change_at_random(target, watch, seconds, name)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={min(max(map(len, target.seeds)) + 1024, fuzzing.MAX_BYTES)}",
        "-timeout=30",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={KEPT / 'found' / name}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: fuzzing.kept(watch, target.run, data))
    atheris.Fuzz()
    return 0


def _change_at_random(target, watch, seconds: int, name: str) -> int:  # noqa: ANN001 - of tests/helpers/fuzzing.py
    from fuzzing import kept, variants  # noqa: PLC0415

    end, tries = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed = target.seeds[tries % len(target.seeds)]
        for data in variants(seed, 20, seed=random.randrange(2**62)) if seed else ():
            tries += 1
            try:
                kept(watch, target.run, data)
            except BaseException:  # noqa: BLE001 - shown, kept and counted, whatever it is
                path = KEPT / "found" / f"{name}-blind-{tries}"
                path.write_bytes(data)
                traceback.print_exc()
                print(f"the input is kept in {path}")
                return 1
    print(f"{tries:,} inputs, changed at random")
    return 0


def main() -> int:
    """Run the targets one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which; all without any")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--blind", action="store_true", help="without coverage, and so without atheris")
    parser.add_argument("--replay", nargs="+", default=[], metavar="FILE", help="inputs to run once; give one target")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    (KEPT / "found").mkdir(parents=True, exist_ok=True)
    if args.here:
        return fuzz_one(args.targets[0], args.seconds, blind=args.blind, replay=args.replay)
    import fuzzing  # noqa: PLC0415

    names = [target.name for target in fuzzing.targets(Path("nowhere"))]
    if args.list:
        print("\n".join(names))
        return 0
    unknown = [name for name in args.targets if name not in names]
    if unknown or (args.replay and len(args.targets) != 1):
        parser.error(f"unknown target {unknown[0]}; --list shows them" if unknown else "--replay needs one target")
    if not args.blind and not args.replay and importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed: fuzzing without knowing what was reached finds little\n"
            f"  why  {_why_no_atheris()}\n"
            '  do   pip install "rekindle[fuzz]", or add --blind',
            file=sys.stderr,
        )
        return 2
    broken = []
    for name in args.targets or names:
        print(f"--- {name}", flush=True)
        command = [sys.executable, __file__, name, "--here", "--seconds", str(args.seconds)]
        command += ["--blind"] * args.blind + (["--replay", *args.replay] if args.replay else [])
        if subprocess.run(command, check=False).returncode:
            broken.append(name)
    said = f"broken: {', '.join(broken)}; inputs in {KEPT / 'found'}"
    print(said if broken else "the law holds for all inputs tried")
    return 1 if broken else 0


def _why_no_atheris() -> str:
    import platform  # noqa: PLC0415

    fits = sys.platform == "linux" and platform.machine() == "x86_64" and (3, 11) <= sys.version_info[:2] <= (3, 13)
    here = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform} {platform.machine()}"
    return "it is an extra" if fits else f"it has wheels for CPython 3.11 to 3.13 on x86-64 Linux only; this is {here}"


if __name__ == "__main__":
    raise SystemExit(main())
