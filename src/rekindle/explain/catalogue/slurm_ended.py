"""Slurm ended the job: memory, time, preemption, or a node."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DIST-25", "slurm-ended", "0.2"
TITLE = "slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***"
RAISES: tuple[str, ...] = ()
NEEDLES = (
    "oom-kill event",
    "oom_kill event",
    "DUE TO TIME LIMIT",
    "DUE TO PREEMPTION",
    "DUE TO NODE FAILURE",
    "Out Of Memory",
    "exceeded memory limit",
    "DUE to SIGNAL",
    "OUT_OF_ME",
)
PATTERNS = (
    r"Detected (?P<kills>\d+) oom[-_]kill event\w{0,2}(?:\(s\))? in [^\n]{1,80}",
    r"srun: error: (?P<node>[\w.-]{1,80}): tasks? (?P<tasks>[\d,-]+): (?P<memory>Out Of Memory)",
    r"slurmstepd: error: [^\n]{0,80}exceeded (?P<memory>memory) limit",
    r"(?:JOB|STEP) (?P<job>[\d._+]{1,40}) ON (?P<host>[\w.\[\],-]{1,200}) CANCELLED AT [\dT:-]+ DUE TO (?P<reason>TIME LIMIT|PREEMPTION|NODE FAILURE[^\n*]{0,80})",
)
WHY = "The scheduler ends a job that needs more memory or time than it asked for, that has to make room for another one, or whose node failed. Python prints nothing then, or only that it got SIGTERM. `rekindle slurm` writes a script that saves before the limit and goes on in a new job."
CHECK = "`sacct -j JOB --format=JobID,State,ExitCode,MaxRSS,ReqMem,Elapsed,Timelimit`."


def explain(event: Event) -> Iterator[Cause]:
    """Memory, time, preemption or node."""
    facts = event.facts
    reason = facts.get("reason") or ""
    job = f"job {facts['job'].partition('.')[0]}" if facts.get("job") else "the job"
    again = "rekindle slurm train.py --help   # a script that saves before the limit and goes on in a new job"
    if reason.startswith("TIME"):
        what, why = (
            f"Slurm ended {job} at its time limit".replace("Slurm", "slurm", 1),
            "it asked for less time (#SBATCH --time) than it took",
        )
        fix: tuple[str, ...] = (again, "#SBATCH --time=...   # if one longer job is meant")
    elif reason.startswith("PREEMPTION"):
        what, why = (
            f"slurm took {job} away for another one",
            "it ran in a partition or with a quality of service that can be preempted",
        )
        fix = ("#SBATCH --requeue", again)
    elif reason.startswith("NODE"):
        what, why = (
            f"a node of {job} failed",
            "the machine, its network or its file system went away; the training itself was whole",
        )
        fix = (
            f"sbatch --exclude={facts.get('host') or 'NODE'} job.sh   # goes on elsewhere from the last snapshot",
            "rekindle runs DIR   # what was saved, and the command that resumes",
        )
    else:
        what, why = (
            "the kernel ended processes of the job for want of memory",
            "the job asked for less host memory (#SBATCH --mem) than it used; each loader worker counts",
        )
        fix = (
            "sacct -j JOB --format=JobID,MaxRSS,ReqMem   # how much it used",
            "#SBATCH --mem=...   # more; --mem-per-cpu counts for each processor",
            "DataLoader(..., num_workers=2)   # fewer workers, or a data set that they share instead of copying",
        )
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = ""
MENDED = ""
MESSAGE = "slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***"
OLD = (
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4711.batch cgroup. Some of your processes may have been killed by the cgroup out-of-memory handler.",
    "slurmstepd: error: Detected 2 oom_kill events in StepId=4711.0. Some of the step tasks have been OOM Killed.",
    "srun: error: node07: task 0: Out Of Memory",
    "slurmstepd: error: *** STEP 4711.0 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO PREEMPTION ***",
    "slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***",
)
REQUIRES: tuple[str, ...] = ()
