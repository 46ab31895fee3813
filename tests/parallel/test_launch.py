"""Starting ranks: real processes that end well, die, are killed and are asked to leave; none is left behind.

Most scripts here need no torch, so that only the launcher pays for importing it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks_job

from rekindle.errors import ConfigError
from rekindle.parallel import notes
from rekindle.parallel.launch import (
    Death,
    check_script,
    deaths_of,
    first_cause,
    free_port,
    plan_launch,
    words_of_death,
    words_of_plan,
)

pytest.importorskip("torch")

SCRIPT = """
import os, signal, sys, time
rank, attempt = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
words = [rank, os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"], sys.argv[1:], __name__]
os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # print writes in pieces, and those of ranks would mix
with open(f"pid-{rank}-{attempt}", "w") as file:
    file.write(str(os.getpid()))
what = sys.argv[1]
def odd(number):
    raise ValueError(f"{number} is odd")
if rank == 1 and (what == "raise" or (what == "kill" and attempt == "0")):
    others = [n for n in range(int(os.environ["WORLD_SIZE"])) if n != 1]
    while not all(os.path.exists(f"ready-{n}") for n in others):
        time.sleep(0.02)
if what == "raise" and rank == 1:
    odd(7)
if what == "kill" and rank == 1 and attempt == "0":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "deaf":  # as one that waits in a collective
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "leave":
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    open(f"ready-{rank}", "w").close()
    while not asked:
        time.sleep(0.02)
    time.sleep(rank)  # the others leave while this one is still saving
    open(f"saved-{rank}", "w").close()
    sys.exit(75)
if what in ("raise", "wait", "deaf") or (what == "kill" and attempt == "0"):
    open(f"ready-{rank}", "w").close()
    time.sleep(60)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def started(tmp_path: Path):
    """Start `rekindle launch WORDS...`; whatever is left at the end is killed."""
    running = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rekindle", "launch", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job that a shell started in the background ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)
    assert alive(tmp_path) == []


def alive(folder: Path) -> list[int]:
    """Return the ranks that are still there, after a moment in which the kernel may end them."""
    left: list[int] = []
    for _ in range(50):
        left = [pid for path in folder.glob("pid-*") if is_running(pid := int(path.read_text() or 0))]
        if not left:
            break
        time.sleep(0.1)
    return left


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_there(*paths: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} are not there"
        time.sleep(0.02)


GLOO = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(2) * (dist.get_rank() + 1)
dist.all_reduce(total)
file = open("out.txt", "a"); file.write(f"{dist.get_rank()} {total.tolist()}\\n")  # never closed by the script
dist.barrier()
dist.destroy_process_group()
"""


def test_ranks_of_plain_torch_find_each_other(tmp_path, cli):
    (tmp_path / "train.py").write_text(GLOO)
    done = cli("launch", "--procs", "2", "train.py", "--lr", "0.1")
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "out.txt").read_text().splitlines()) == ["0 [3.0, 3.0]", "1 [3.0, 3.0]"]
    assert done.stderr.splitlines()[0] == "rekindle: 2 processes"
    words = done.stderr
    assert " --nproc-per-node=2 " in words
    assert "-m torch.distributed.run --nnodes=1" in words
    assert "each has  RANK=0..1 LOCAL_RANK=0..1 WORLD_SIZE=2" in words
    assert words.rstrip().endswith("train.py --lr 0.1")


def test_the_first_cause_is_named_and_the_others_are_ended(tmp_path, script, started):
    launch = started("--procs", "3", "train.py", "raise", "--an-option=of its own")
    out, err = launch.communicate(timeout=60)
    assert launch.returncode == 1
    assert sorted(line[0] for line in out.splitlines()) == ["0", "1", "2"]
    assert out.splitlines()[0].endswith("['raise', '--an-option=of its own'] __main__")
    what, why, do = err.splitlines()[-3:]
    assert what == "rekindle: train.py: rank 1 died: ValueError: 7 is odd"
    line = SCRIPT.splitlines().index('    raise ValueError(f"{number} is odd")') + 1
    assert why == f"  why     train.py, line {line}, in odd; ranks 0, 2 ended because of it"
    assert do.startswith("  do      its traceback is above; ")
    # The traceback is the script's, without a line of ours.
    assert f'File "train.py", line {line}, in odd' in err
    assert "rank.py" not in err
    assert "runpy" not in err


def test_after_a_kill_all_ranks_start_again(tmp_path, script, started):
    launch = started("--procs", "2", "--restarts", "2", "--json", "train.py", "kill")
    out, err = launch.communicate(timeout=60)
    assert launch.returncode == 0, err
    assert "rekindle: rank 1 was killed by SIGKILL; all ranks start again (1 of 2)" in err
    answer = json.loads(out)  # what the ranks print is on stderr
    assert (answer["code"], answer["restarts"], answer["cause"]) == (0, 1, None)
    assert "0 2 0 ['kill'] __main__" in err


@pytest.mark.soak
def test_without_restarts_a_kill_is_exit_code_137_with_what_it_may_have_been(tmp_path, script, started):
    launch = started("--procs", "2", "train.py", "kill")
    _, err = launch.communicate(timeout=60)
    assert launch.returncode == 128 + 9
    assert "rekindle: train.py: rank 1 was killed by SIGKILL\n  why     the machine may have run out of memory" in err


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGUSR1,
        pytest.param(signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),
    ],
)
def test_a_signal_reaches_every_rank_and_their_code_comes_back(tmp_path, script, started, number):
    launch = started("--procs", "2", "--restarts", "3", "train.py", "leave")
    until_there(tmp_path / "ready-0", tmp_path / "ready-1")
    launch.send_signal(number)
    _, err = launch.communicate(timeout=30)
    assert launch.returncode == 75, err
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()  # which took longer than the other
    assert "train.py: all ranks left as they were asked to\n  do      go on with: rekindle launch --procs 2" in err
    assert not (tmp_path / "pid-0-1").exists()  # nothing was started again


def test_a_script_that_does_not_know_the_signal_dies_of_it_without_blame(tmp_path, script, started):
    launch = started("--procs", "2", "--restarts", "3", "train.py", "wait")
    until_there(tmp_path / "ready-0", tmp_path / "ready-1")
    launch.send_signal(signal.SIGTERM)
    _, err = launch.communicate(timeout=30)
    assert launch.returncode == 128 + signal.SIGTERM
    assert "died" not in err
    assert not (tmp_path / "pid-0-1").exists()


def test_a_launch_that_is_killed_takes_its_ranks_along(tmp_path, script, started):
    launch = started("--procs", "2", "train.py", "deaf")
    until_there(tmp_path / "ready-0", tmp_path / "ready-1")
    launch.kill()
    launch.wait(10)
    assert alive(tmp_path) == []


@pytest.mark.soak
def test_ranks_that_cannot_hear_are_killed_seconds_after_the_first_death(tmp_path, script, started):
    launch = started("--procs", "2", "train.py", "deaf")
    until_there(tmp_path / "ready-0", tmp_path / "ready-1")
    os.kill(int((tmp_path / "pid-1-0").read_text()), signal.SIGKILL)
    began = time.monotonic()
    _, err = launch.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert launch.returncode == 128 + 9
    assert "rank 1 was killed by SIGKILL" in err
    assert "rank 0 ended because of it" in err


def test_a_module_is_started_as_python_does(tmp_path, cli):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    text = "import sys; print(__name__, __package__, sys.argv[1:]); sys.exit(7)"
    (tmp_path / "package" / "train.py").write_text(text)
    done = cli("launch", "-m", "package.train", "--lr", "1")
    assert done.returncode == 7
    assert done.stdout == "__main__ package ['--lr', '1']\n"
    assert "rekindle: package.train: rank 0 ended with exit code 7" in done.stderr


def test_machines_that_do_not_come_are_counted(tmp_path, script, cli):
    done = cli("launch", "--nodes", "2", "--address", f"127.0.0.1:{free_port()}", "--wait", "1", "train.py", "wait")
    assert done.returncode == 1
    assert "rekindle: 1 of 2 machines came within 1 seconds" in done.stderr
    assert "--node-rank" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_a_first_machine_that_is_not_there_is_named(tmp_path, script, cli):
    address = f"127.0.0.1:{free_port()}"
    done = cli("launch", "--nodes", "2", "--node-rank", "1", "--address", address, "--wait", "1", "train.py", "wait")
    assert done.returncode == 1
    assert f"rekindle: the first machine was not found at {address} within 1 seconds" in done.stderr


HOSTS = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), total.item(), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def two_machines():
    """Two network namespaces with a cable between them: (name, address, device) of each."""
    tag = f"rk{os.getpid() % 10000}"
    hosts = [(f"{tag}{end}", f"10.231.7.{number}", f"{tag}{end}") for number, end in ((1, "a"), (2, "b"))]
    try:
        for name, _, _ in hosts:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        cable = ["ip", "link", "add", hosts[0][2], "netns", hosts[0][0], "type", "veth"]
        subprocess.run([*cable, "peer", "name", hosts[1][2], "netns", hosts[1][0]], check=True, capture_output=True)
        for name, address, device in hosts:
            for words in (["addr", "add", f"{address}/24", "dev", device], ["link", "set", device, "up"]):
                subprocess.run(["ip", "-n", name, *words], check=True, capture_output=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, capture_output=True)
        yield hosts
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', None) or error}")
    finally:
        for name, _, _ in hosts:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.soak
def test_two_machines_find_each_other_over_their_own_network(tmp_path, two_machines):
    (tmp_path / "train.py").write_text(HOSTS)
    first = two_machines[0][1]
    running = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "rekindle", "launch", "--procs", "2"),
                *("--nodes", "2", "--node-rank", str(number), "--address", f"{first}:29511", "train.py"),
            ],
            cwd=tmp_path,
            env={**os.environ, "GLOO_SOCKET_IFNAME": device},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (name, _, device) in enumerate(two_machines)
    ]
    ends = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    assert sorted(ends[0][0].splitlines()) == ["rank 0 of 4 10.0", "rank 1 of 4 10.0"]
    assert sorted(ends[1][0].splitlines()) == ["rank 2 of 4 10.0", "rank 3 of 4 10.0"]


@pytest.mark.soak
@pytest.mark.parametrize("killed", [0, 3])
def test_a_death_on_one_of_two_machines_has_both_start_their_ranks_again(tmp_path, two_machines, killed):
    """The other machine's launcher names the rank that was lost, not its own that heard of it."""
    bits = []
    for name, machines in (("whole", [None]), ("killed", two_machines)):
        base = tmp_path / name
        base.mkdir()
        (base / "train.py").write_text(ranks_job.SCRIPT)
        config = {"folder": str(base / "run"), "out": str(base)}
        config |= {"die_at": [killed, 7]} if name == "killed" else {}
        running = []
        for number, machine in enumerate(machines):
            words = [sys.executable, "-m", "rekindle", "launch", "--restarts", "2", "--procs", str(4 // len(machines))]
            variables = dict(os.environ)
            if machine is not None:
                words = ["ip", "netns", "exec", machine[0], *words, "--nodes", "2", "--node-rank", str(number)]
                words += ["--address", f"{two_machines[0][1]}:29512"]
                variables["GLOO_SOCKET_IFNAME"] = machine[2]
            running.append(
                subprocess.Popen(
                    [*words, "train.py", json.dumps(config)],
                    cwd=base,
                    env=variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        printed = [process.communicate(timeout=180)[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(machines), printed
        (base / "output").write_text("".join(printed))
        bits.append(ranks_job.Outcome(base, [0] * 4).bits)
    assert bits[0] == bits[1]
    assert len(bits[0]) == 1
    here, there = (printed[0], printed[1]) if killed < 2 else (printed[1], printed[0])
    assert f"rekindle: rank {killed} was killed by SIGKILL; all ranks start again (1 of 2)" in here
    assert f"rekindle: rank {killed} died: it ended without a word" in there
    assert "goes on after step 6" in printed[0]


# ---- planning, without starting anything


def test_what_is_not_there_is_refused_before_anything_starts(tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"tran\.py: there is no such script") as caught:
        plan_launch("tran.py")
    assert caught.value.why == "nearest: train.py"
    with pytest.raises(ConfigError, match="a folder; a script is wanted"):
        check_script(str(tmp_path), module=False)
    with pytest.raises(ConfigError, match=r"there is no module nothing\.here"):
        check_script("nothing.here", module=True)
    with pytest.raises(ConfigError, match=r"there is no module json\.nothing"):
        check_script("json.nothing", module=True)
    check_script("json.tool", module=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"procs": 0}, "--procs 0 is less than 1"),
        ({"restarts": -1}, "--restarts -1"),
        ({"nodes": 2, "node_rank": 2, "address": "a:1"}, "--node-rank 2 with --nodes 2"),
        ({"nodes": 2}, "--nodes 2 needs --address"),
        ({"address": "host:port"}, "'host:port' is no address"),
        ({"address": ":29500"}, "':29500' is no address"),
        ({"wait_s": 0}, "--wait 0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(script, settings, words):
    with pytest.raises(ConfigError, match=words):
        plan_launch(str(script), **settings)


def test_a_port_in_use_is_refused_with_a_free_one(script):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use on this machine") as caught:
            plan_launch(str(script), address=f"127.0.0.1:{port}")
    assert "--address 127.0.0.1:" in caught.value.do
    assert plan_launch(str(script), address=f"127.0.0.1:{port}").port == port


def test_each_process_gets_its_share_of_the_cores_unless_the_user_said_otherwise(script, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert plan_launch(str(script), procs=3).environment == {"OMP_NUM_THREADS": "2"}
    assert plan_launch(str(script)).environment == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert plan_launch(str(script), procs=3).environment == {}


def test_the_command_by_hand_is_the_same_launch(script):
    plan = plan_launch(str(script), ["--lr", "a b"], nodes=2, node_rank=1, address="node1:29500", procs=4, restarts=2)
    lines = words_of_plan(plan)
    assert lines[0] == "4 processes on machine 1 of 2, 8 in all"
    assert "RANK=4..7 LOCAL_RANK=0..3 WORLD_SIZE=8 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node1 MASTER_PORT=29500" in lines[-2]
    assert lines[-1].endswith(
        "-m torch.distributed.run --nnodes=2 --node-rank=1 --nproc-per-node=4 --master-addr=node1 --master-port=29500 "
        f"--max-restarts=2 --rdzv-conf=timeout=900 {script} --lr 'a b'"
    )


# ---- which death came first


def death(rank: int, error: str = "", code: int = 1, *, time: float = 0.0, by_us: bool = False) -> Death:
    return Death(rank, rank, 100 + rank, code, error, time=time, by_us=by_us)


LOST = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]"


@pytest.mark.parametrize(
    ("deaths", "rank"),
    [
        ([death(0, LOST, time=1.0), death(1, code=-9)], 1),  # a killed rank leaves no word, and is seen later
        ([death(0, LOST, time=1.0), death(1, "ValueError: odd", time=2.0)], 1),
        ([death(0, "KeyError: 'a'", time=2.0), death(1, "KeyError: 'b'", time=1.0)], 1),
        ([death(0, code=-9, by_us=True), death(1, LOST)], 1),  # which we killed ourselves, since it did not end
        ([death(0, LOST, time=2.0), death(1, LOST, time=1.0)], 1),
    ],
)
def test_the_first_cause_is_told_from_its_consequences(deaths, rank):
    cause = first_cause(deaths)
    assert cause is not None
    assert cause.rank == rank
    assert first_cause([]) is None


def noted(folder: Path, codes: dict[int, int], errors: dict[int, str], told: tuple[int, str]) -> str:
    """Write what agent and ranks of a launch note, and return the words of the cause."""
    for rank, error in errors.items():
        notes.write(str(folder), f"end-0-{rank}", {"rank": rank, "code": codes.get(rank, 0), "error": error, "time": 5})
    seen = [[rank, rank, 100 + rank, code] for rank, code in codes.items()]
    notes.write(str(folder), "failed-0", {"codes": seen})
    notes.write(str(folder), "cause-0", {"rank": told[0], "error": told[1], "time": 4})
    deaths, cause = deaths_of(str(folder), 0)
    assert cause is not None
    assert [death.rank for death in deaths] == sorted({*codes, told[0]})
    assert deaths[[death.rank for death in deaths].index(told[0])].error in {told[1], errors.get(told[0], "")}
    return words_of_death(cause)


@pytest.mark.parametrize(
    ("codes", "errors", "told", "words"),
    [
        ({0: 1}, {0: LOST, 1: ""}, (1, notes.LEFT), "rank 1 ended in the middle of its run"),  # with 0
        ({0: 1, 1: 1}, {0: LOST, 1: "rank 1 of 2 hangs"}, (1, "hangs in a.py, line 3"), "rank 1 hangs in a.py, line 3"),
        ({0: 1, 1: 1}, {0: LOST, 1: LOST}, (3, "ValueError: x"), "rank 3 died: ValueError: x"),  # of another machine
        ({0: 1, 1: 1}, {0: LOST, 1: "KeyError: 'a'"}, (1, "KeyError: 'a'"), "rank 1 died: KeyError: 'a'"),
        ({0: 1, 1: -9}, {0: LOST}, (1, "it ended without a word"), "rank 1 was killed by SIGKILL"),
    ],
)
def test_what_the_ranks_know_of_each_other_names_a_cause_that_nothing_else_shows(tmp_path, codes, errors, told, words):
    assert noted(tmp_path, codes, errors, told) == words
