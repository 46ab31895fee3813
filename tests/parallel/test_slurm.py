"""The batch script: what it asks for, that shells accept it, and what it does under programs that behave as Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rekindle.errors import ConfigError
from rekindle.parallel.slurm import SlurmJob, slurm_script, words_of_job
from rekindle.run.signals import REQUEUE_CODE

AWKWARD = ("--name", 'it\'s a $HOME `date`\n"quoted" \\ *', "")
JOBS = {
    "plain": SlurmJob("train.py"),
    "machines": SlurmJob("train.py", AWKWARD, nodes=2, gpus=4, cpus=16, memory="64G", time="1-12:00:00", restarts=2),
    "module": SlurmJob("package.train", module=True, setup=("module load cuda", "export A='b c'"), partition="gpu"),
    "options": SlurmJob("it's.py", options=("--exclude=node7", "--mail-type=END"), account="me", name="n-1"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_shells_accept_it(tmp_path, job):
    (tmp_path / "job.sh").write_text(slurm_script(job, "job.sh"))
    assert subprocess.run(["bash", "-n", tmp_path / "job.sh"], capture_output=True).stderr == b""


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_shellcheck_finds_nothing(tmp_path, job):
    (tmp_path / "job.sh").write_text(slurm_script(job, "job.sh"))
    done = subprocess.run(["shellcheck", tmp_path / "job.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_asked_of_slurm():
    text = slurm_script(JOBS["machines"], "job.sh")
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=train",
        "--output=train-%j.out",
        "--open-mode=append",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=4",
        "--cpus-per-task=16",
        "--mem=64G",
        "--time=1-12:00:00",
        "--signal=USR1@300",
        "--requeue",
    ]
    # Options after the first command are not read by sbatch.
    lines = text.splitlines()
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("set -u")
    assert words_of_job(JOBS["machines"], ["sbatch", "job.sh"])[0] == "8 ranks: 2 machines with 4 GPUs each"


def test_the_code_that_asks_for_the_requeue_is_the_one_that_a_run_leaves_with():
    assert f'"$code" -eq {REQUEUE_CODE} ]' in slurm_script(JOBS["plain"], "job.sh")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": 0}, "--nodes 0"),
        ({"gpus": 0}, "--gpus 0"),
        ({"warn_s": 0}, "--warn 0"),
        ({"warn_s": 70_000}, "--warn 70000"),
        ({"time": "soon"}, "is no time limit"),
        ({"time": "5"}, "not longer than --warn 300"),
        ({"time": "00:04:59"}, "not longer than --warn 300"),
        ({"partition": "a b"}, "--partition 'a b'"),
        ({"name": "$(date)"}, "--name"),
        ({"options": ("exclude=7",)}, "is no option of sbatch"),
        ({"options": ("--a\nrm",)}, "is no option of sbatch"),
        ({"setup": ("a\nb",)}, "--setup takes one line"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words.replace("$", r"\$").replace("(", r"\(").replace(")", r"\)")):
        slurm_script(SlurmJob("train.py", **settings), "job.sh")


# ---- a Slurm that is two small programs

SRUN = """#!{python}
# Starts the command once for each machine, gives signals to every process of each as Slurm does, and ends with the
# highest code. WARN_AT: seconds after which the time limit is near; only the first start of a job has one.
import os, signal, subprocess, sys, time
words = [word for word in sys.argv[1:]]
while words and words[0].startswith("--"):
    words.pop(0)
nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_PROCID": str(n), "SLURM_NODEID": str(n), "SLURM_LOCALID": "0"}},
                     start_new_session=True)
    for n in range(nodes)
]
def all_of(pid):
    found = [pid]
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()[1]) == pid:
                found += all_of(int(name))
        except OSError:
            pass
    return found
def give(number):
    for pid in [pid for task in tasks for pid in all_of(task.pid)]:
        try:
            os.kill(pid, number)
        except OSError:
            pass
signal.signal(signal.SIGTERM, lambda *_: give(signal.SIGTERM))
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    while not all(os.path.exists(f"ready-{{n}}") for n in range(nodes)):
        time.sleep(0.05)
        assert any(task.poll() is None for task in tasks), "ended before it was ready"
    if os.environ.get("CANCEL"):
        os.kill(os.getppid(), signal.SIGTERM)
        give(signal.SIGTERM)
    else:
        give(signal.SIGUSR1)
sys.exit(max(task.wait() for task in tasks))
"""

SCONTROL = """#!{python}
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("127.0.0.1"); print("127.0.0.2")
elif sys.argv[1] == "requeue":
    open("requeued-" + sys.argv[2], "w").close()
else:
    sys.exit(1)
"""

TRAIN = """
import os, signal, sys, time
rank, start = os.environ["RANK"], os.environ.get("SLURM_RESTART_COUNT", "0")
with open("seen.txt", "a") as file:
    file.write(" ".join([start, rank, os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"],
                         os.environ["REKINDLE_COMMAND"], repr(sys.argv[1:])]) + "\\n")
if start == "0":
    asked = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.append(1))
    open(f"ready-{rank}", "w").close()
    while not asked:
        time.sleep(0.02)
    time.sleep(0.3 * int(rank))
    open(f"saved-{rank}", "w").close()
    sys.exit(75)
"""


class FakeSlurm:
    """Runs a batch script as slurmd would, and queues it again where the script asked for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (self.bin / name).write_text(text.format(python=sys.executable))
            (self.bin / name).chmod(0o755)
        (folder / "train.py").write_text(TRAIN)

    def submit(self, job: SlurmJob, **variables: str) -> tuple[list[int], str]:
        """Run it to its end; return the code of each start and all that was printed."""
        (self.folder / "job.sh").write_text(slurm_script(job, "job.sh"))
        number = 50_000 + os.getpid() % 10_000
        codes: list[int] = []
        printed = ""
        while True:
            env = {
                **os.environ,
                "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
                "SLURM_JOB_ID": str(number),
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_JOB_NUM_NODES": str(job.nodes),
                **({"SLURM_RESTART_COUNT": str(len(codes))} if codes else {}),
                **variables,
            }
            done = subprocess.run(
                ["bash", "job.sh"], cwd=self.folder, env=env, capture_output=True, text=True, timeout=90
            )
            codes.append(done.returncode)
            printed += done.stdout + done.stderr
            try:
                (self.folder / f"requeued-{number}").unlink()
            except FileNotFoundError:
                return codes, printed


@pytest.fixture
def slurm(tmp_path):
    pytest.importorskip("torch")
    return FakeSlurm(tmp_path)


def test_a_job_saves_before_its_limit_is_queued_again_and_goes_on(slurm, tmp_path):
    codes, printed = slurm.submit(SlurmJob("train.py", AWKWARD, nodes=2))
    assert codes == [0, 0], printed
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert "saved before the time limit; queued again" in printed
    assert ", start 2, on node[1-2]" in printed
    port = 20_000 + (50_000 + os.getpid() % 10_000) % 10_000
    seen = sorted((tmp_path / "seen.txt").read_text().splitlines())
    assert seen == [
        f'{start} {rank} 2 127.0.0.1 {port} ["sbatch", "job.sh"] {list(AWKWARD)!r}'
        for start in (0, 1)
        for rank in (0, 1)
    ]


RUN = """
import hashlib, sys, time, torch
import rekindle as rk
inputs = torch.randn(60, 6, generator=torch.Generator().manual_seed(3))
data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
with rk.Run(sys.argv[1], seed=0, save_every=None, tensorboard=False) as run:
    model = torch.nn.Sequential(torch.nn.Linear(6, 20), torch.nn.Dropout(0.1), torch.nn.Linear(20, 1))
    model, optimizer = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    for epoch in run.epochs(6):
        for x, y in run.batches(run.loader(data, batch_size=4)):
            run.backward(torch.nn.functional.mse_loss(model(x), y))
            run.update()
            run.step()
            time.sleep(0.1)
            open(f"ready-{run.rank}", "w").close()
weights = b"".join(value.numpy().tobytes() for value in model.module.state_dict().values())
print(f"rank {run.rank} ends after step {run.steps_done} with {hashlib.sha256(weights).hexdigest()}", flush=True)
"""


@pytest.mark.soak
def test_a_training_that_slurm_interrupts_ends_with_the_bits_of_one_that_it_left_alone(slurm, tmp_path):
    (tmp_path / "train.py").write_text(RUN)
    codes, whole = slurm.submit(SlurmJob("train.py", ("whole",), nodes=2), SLURM_RESTART_COUNT="1")  # without a signal
    assert codes == [0], whole
    for path in tmp_path.glob("ready-*"):
        path.unlink()
    codes, printed = slurm.submit(SlurmJob("train.py", ("told",), nodes=2))
    assert codes == [0, 0], printed
    assert "saved before the time limit; queued again" in printed
    assert "told: goes on after step" in printed
    ends = [sorted(line for line in text.splitlines() if " ends after step 48 " in line) for text in (whole, printed)]
    assert len(ends[0]) == 2
    assert ends[0] == ends[1]


@pytest.mark.soak
def test_a_job_that_is_cancelled_saves_and_does_not_come_back(slurm, tmp_path):
    codes, printed = slurm.submit(SlurmJob("train.py"), CANCEL="1")
    assert codes == [75], printed
    assert (tmp_path / "saved-0").exists()
    assert "queued again" not in printed


@pytest.mark.soak
def test_a_job_asks_no_more_often_than_it_may_and_passes_other_codes_on(slurm, tmp_path):
    codes, printed = slurm.submit(SlurmJob("train.py", requeues=0))
    assert codes == [75], printed
    assert "not queued again after 0 times" in printed
    (tmp_path / "train.py").write_text("raise SystemExit(9)")
    codes, printed = slurm.submit(SlurmJob("train.py"), SLURM_RESTART_COUNT="1")  # without a signal
    assert codes == [9], printed
