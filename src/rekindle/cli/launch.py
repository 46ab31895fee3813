"""`rekindle launch`: see `rekindle.parallel.launch`."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rekindle.parallel.launch import Death, Outcome, Plan

SUMMARY = "start a script in several processes, pass signals on, and say which rank failed first"
EXAMPLE = "rekindle launch --gpus 2 train.py --epochs 10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--gpus", type=int, metavar="N", help="a process for each of the N freest GPUs")
    how_many.add_argument("--procs", type=int, metavar="N", help="so many processes, whatever the GPUs (1)")
    parser.add_argument("--min-free", default="0", metavar="AMOUNT", help='memory each GPU must have free: "10 GB"')
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines; the command runs on each (1)")
    parser.add_argument("--node-rank", type=int, metavar="R", help="which machine this is, from 0 (Slurm's, or 0)")
    parser.add_argument("--address", metavar="HOST:PORT", help="where the first machine can be reached")
    parser.add_argument("--wait", type=int, default=900, metavar="SECONDS", help="wait so long for all machines (900)")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="start all ranks again after a death (0)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be started, and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the ranks' output goes to stderr")
    parser.add_argument("-m", dest="module", action="store_true", help="the script is a module, as with python -m")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="SCRIPT ARGS...", help="what to start")


def run(args: argparse.Namespace) -> int:
    """Start the script and see it to its end; the exit code is the ranks'."""
    from rekindle.errors import RekindleError
    from rekindle.parallel.launch import launch, plan_launch, words_of_plan

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise RekindleError("rekindle launch: no script given", do=EXAMPLE)
    environment, devices = _pick(args)
    plan = plan_launch(
        command[0],
        command[1:],
        module=args.module,
        procs=args.gpus or args.procs or (1 if args.procs is None else 0),
        nodes=args.nodes,
        node_rank=_node_rank(args),
        address=args.address,
        restarts=args.restarts,
        wait_s=args.wait,
        environment=environment,
        devices=devices,
        again=["rekindle", *_words_given()],
    )
    if args.dry_run:
        if args.json:
            _print_json(plan, None)
        else:
            print("\n".join(words_of_plan(plan)))
        return 0
    _say("\n".join(words_of_plan(plan)))
    outcome = launch(plan, say=_say, stdout_to_stderr=args.json)
    if args.json:
        _print_json(plan, outcome)
    error = _error_of(plan, outcome)
    if error is not None:
        _say(str(error))
    return outcome.code


def _node_rank(args: argparse.Namespace) -> int:
    """Return the number of this machine; Slurm gives each of its own."""
    import os

    if args.node_rank is not None:
        return int(args.node_rank)
    known = os.environ.get("SLURM_NODEID", "") if args.nodes > 1 else ""
    return int(known) if known.isascii() and known.isdigit() else 0


def _pick(args: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Return what to set for the GPUs that were asked for, and which they are in words."""
    from rekindle.errors import CannotPick, ConfigError

    if args.gpus is None:
        if args.min_free != "0":
            raise ConfigError("--min-free goes with --gpus")
        return {}, ""
    from rekindle.devices.gpus import survey_gpus
    from rekindle.devices.pick import ORDER, VISIBLE, choose_gpus

    try:
        picked = choose_gpus(survey_gpus(), args.gpus, min_free=args.min_free)
    except CannotPick as error:
        do = f"{error.do}; or on the CPU: rekindle launch --procs N"
        raise CannotPick(error.what, why=error.why, do=do) from None
    return {VISIBLE: picked.visible, ORDER: "PCI_BUS_ID"}, str(picked)


def _words_given() -> list[str]:
    """Return the words after ``rekindle`` of this process."""
    return sys.argv[1:] if len(sys.argv) > 1 and sys.argv[1] == "launch" else ["launch"]


def _error_of(plan: Plan, outcome: Outcome) -> Exception | None:
    """Return what to say about a launch that did not end well."""
    from rekindle.errors import RekindleError
    from rekindle.parallel.launch import words_of_death

    again = shlex.join(plan.again)
    cause = outcome.cause
    if cause is not None:
        reasons = [cause.place] if cause.place else []
        if cause.code == -9 and not cause.error:
            reasons.append("the machine may have run out of memory, or somebody killed it")
        alike = [death for death in outcome.deaths if death is not cause and cause.error and death.error == cause.error]
        others = [death for death in outcome.deaths if death is not cause and death not in alike]
        if alike:
            reasons.append(f"{_name(alike)} died of the same")
        if others:
            reasons.append(f"{_name(others)} ended because of it")
        if outcome.restarts:
            reasons.append(f"after {outcome.restarts} restart{'s' * (outcome.restarts > 1)}")
        if cause.code is not None and cause.code < 0 and not cause.error:
            do = "dmesg | tail    shows what the system did"
        else:
            do = "its traceback is above" if cause.place else "what it wrote is above"
        if not plan.restarts:
            do += "; rekindle launch --restarts 3 ... starts all ranks again after a death"
        return RekindleError(f"{plan.script}: {words_of_death(cause)}", why="; ".join(reasons), do=do)
    if outcome.code and outcome.error:
        return RekindleError(*_words_of_launcher(plan, outcome.error)[:1], **_parts(plan, outcome.error))
    if outcome.code in (75, 130) and again:
        return RekindleError(f"{plan.script}: all ranks left as they were asked to", do=f"go on with: {again}")
    return None


def _name(deaths: Sequence[Death]) -> str:
    return f"rank{'s' * (len(deaths) > 1)} {', '.join(str(death.rank) for death in deaths)}"


def _parts(plan: Plan, error: str) -> dict[str, str]:
    _, why, do = _words_of_launcher(plan, error)
    return {"why": why, "do": do}


def _words_of_launcher(plan: Plan, error: str) -> tuple[str, str, str]:
    """Return what, why and do for what torch's launcher says where it fails itself."""
    low = error.lower()
    first = f"{plan.address}:{plan.port}"
    if "clients joined" in low or "waiting for clients" in low:
        import re

        joined = re.search(r"(\d+)/(\d+) clients joined", error)
        have = joined[1] if joined else "not all"
        return (
            f"{have} of {plan.nodes} machines came within {plan.wait_s} seconds",
            f"each one must run this command with its own --node-rank, and reach {first}",
            "start it on the others, or wait longer: --wait 3600",
        )
    if "address already in use" in low or "eaddrinuse" in low:
        what = f"port {plan.port} is in use on this machine"
        return what, "", "--address HOST:PORT with another port, on every machine"
    if plan.node_rank and any(sign in low for sign in ("timed out", "timeout", "refused", "connect", "resolve")):
        return (
            f"the first machine was not found at {first} within {plan.wait_s} seconds",
            "it is not running rekindle launch with --node-rank 0, or a firewall or a wrong name is in between",
            f"start it there, or try from here: nc -vz {plan.address} {plan.port}",
        )
    return "torch's launcher failed", error[:500], "rekindle launch --dry-run ... shows the same command by hand"


def _print_json(plan: Plan, outcome: Outcome | None) -> None:
    from dataclasses import asdict

    from rekindle.render import to_json

    body: dict[str, object] = {
        "world_size": plan.world_size,
        "procs": plan.procs,
        "nodes": plan.nodes,
        "node_rank": plan.node_rank,
        "address": plan.address,
        "port": plan.port,
        "environment": dict(plan.environment),
        "by_hand": plan.by_hand(),
    }
    if outcome is not None:
        body |= {
            "code": outcome.code,
            "restarts": outcome.restarts,
            "asked_to_leave": outcome.asked_to_leave,
            "cause": None if outcome.cause is None else asdict(outcome.cause),
            "deaths": [asdict(death) for death in outcome.deaths],
            "error": outcome.error,
        }
    print(to_json(body))


def _say(text: str) -> None:
    print(f"rekindle: {text}", file=sys.stderr, flush=True)
