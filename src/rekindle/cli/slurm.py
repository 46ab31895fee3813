"""`rekindle slurm`: see `rekindle.parallel.slurm`."""

from __future__ import annotations

import argparse
import os
import sys

SUMMARY = "write a batch script for Slurm that saves before its time is over, and goes on"
EXAMPLE = "rekindle slurm --nodes 2 --gpus 4 --time 24:00:00 -o job.sh train.py --epochs 90"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it; - or nothing for the terminal")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (1)")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--gpus", type=int, metavar="N", help="GPUs on each machine, with a process for each")
    how_many.add_argument("--procs", type=int, default=1, metavar="N", help="processes on each machine, no GPUs (1)")
    parser.add_argument("--cpus", type=int, metavar="N", help="cores on each machine")
    parser.add_argument("--mem", metavar="AMOUNT", help="memory on each machine: 64G")
    parser.add_argument("--time", metavar="LIMIT", help="time limit of one start: 24:00:00")
    parser.add_argument("--partition", metavar="NAME", help="which partition")
    parser.add_argument("--account", metavar="NAME", help="whose account")
    parser.add_argument("--name", metavar="NAME", help="of the job (the script's)")
    parser.add_argument("--warn", type=int, default=300, metavar="SECONDS", help="save so long before the limit (300)")
    parser.add_argument("--requeues", type=int, default=100, metavar="N", help="queue again at most so often (100)")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="as of rekindle launch (0)")
    parser.add_argument("--setup", action="append", default=[], metavar="LINE", help='line before: "module load cuda"')
    parser.add_argument("--option", action="append", default=[], metavar="OPTION", help="--option=--exclude=node7")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="Python on the machines (this one)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object; needs -o")
    parser.add_argument("-m", dest="module", action="store_true", help="the script is a module, as with python -m")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="SCRIPT ARGS...", help="what to start")


def run(args: argparse.Namespace) -> int:
    """Write the script; 0 written."""
    from rekindle.errors import ConfigError, RekindleError
    from rekindle.parallel.launch import check_script
    from rekindle.parallel.slurm import SlurmJob, slurm_script, words_of_job

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise RekindleError("rekindle slurm: no script given", do=EXAMPLE)
    path, command = _output(args.output, command)
    check_script(command[0], module=args.module)
    job = SlurmJob(
        command[0],
        tuple(command[1:]),
        args.module,
        args.name,
        args.nodes,
        args.gpus,
        args.procs,
        args.cpus,
        args.mem,
        args.time,
        args.partition,
        args.account,
        args.warn,
        args.requeues,
        args.restarts,
        tuple(args.setup),
        tuple(args.option),
        args.python,
    )
    text = slurm_script(job, path or "job.sh")
    if path is None:
        if args.json:
            raise ConfigError("--json needs -o FILE", why="the script itself goes to the terminal otherwise")
        print(text, end="")
        return 0
    _write(path, text, force=args.force)
    start = ["sbatch", path]
    if args.json:
        from rekindle.render import to_json

        print(to_json({"path": path, "start": start, "world_size": job.nodes * (job.gpus or job.procs)}))
    else:
        print("\n".join(words_of_job(job, start)))
    return 0


def _output(given: str | None, command: list[str]) -> tuple[str | None, list[str]]:
    """Return where to write, also where `-o FILE` stands at the end, after the script's own words."""
    if given is None and len(command) > 2 and command[-2] in ("-o", "--output"):
        given, command = command[-1], command[:-2]
    return (None if given in (None, "-") else given), command


def _write(path: str, text: str, *, force: bool) -> None:
    from rekindle.errors import CannotWrite
    from rekindle.store.atomic import write_beside

    if os.path.isdir(path):
        raise CannotWrite(f"{path}: a folder; the script needs a file name", do=f"-o {os.path.join(path, 'job.sh')}")
    if os.path.lexists(path) and not force:
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read() == text:
                return
        raise CannotWrite(f"{path}: is there already", why="it may hold changes of yours", do="--force replaces it")
    with write_beside(path) as out:
        out.write(text.encode())
    os.chmod(path, 0o755)  # noqa: S103 - a script that may be started by hand too
