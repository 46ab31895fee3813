"""Data sets and loaders: the signal, the limit and the folder of this case, and silence about what is not theirs."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from explaining import run_example

from rekindle.explain.catalogue import entry
from rekindle.explain.catalogue._folders import folder_said
from rekindle.explain.catalogue._host import Memory, memory, memory_said, open_files, shared_memory, shared_said
from rekindle.explain.event import Event, Frame, event_of
from rekindle.explain.match import causes_of
from rekindle.explain.report import explain_events, explain_text

LOADER = "lib/python3.11/site-packages/torch/utils/data/dataloader.py"


def told(text: str, *codes: str, library: str = ""):
    """What is said of a message raised by these lines of the user's, below a line of this library if one is named."""
    frames = [Frame("train.py", 3 + number, "main", code) for number, code in enumerate(codes)]
    frames += [Frame(library, 1304, "_try_get_data", "raise RuntimeError(", is_users=False)] if library else []
    event = event_of(text)
    return causes_of(Event(event.raised, event.message, tuple(frames)), strict=True)


ENDED = [
    ("is killed by signal: Killed. ", "RK-DATA-06", "was killed", "dmesg"),
    ("is killed by signal: Segmentation fault. ", "RK-DATA-06", "crashed: segmentation fault", "faulthandler"),
    ("is killed by signal: Terminated. ", "RK-DATA-06", "was told to end", "log of the job"),
    ("exited unexpectedly with exit code 3. Details are lost", "RK-DATA-06", "exit code 3", "num_workers=0"),
    ("is killed by signal: Bus error. It is possible", "RK-DATA-07", "shared memory full", "--shm-size"),
]


@pytest.mark.parametrize(("ending", "code", "what", "fix"), ENDED)
def test_how_a_worker_ended_decides_what_is_said(ending, code, what, fix):
    (cause,) = told(f"RuntimeError: DataLoader worker (pid 27) {ending}")
    assert cause.code == code
    assert what in cause.what
    assert "27" in cause.what
    assert fix in cause.fix[0] + cause.fix[1]


def test_the_signal_of_the_upper_exception_decides_and_not_exited_unexpectedly():
    text = (
        'Traceback (most recent call last):\n  File "x/site-packages/torch/a.py", line 1, in handler\n'
        "RuntimeError: DataLoader worker (pid 27) is killed by signal: Bus error. It is possible\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    for batch in loader:\n'
        "RuntimeError: DataLoader worker (pid(s) 27) exited unexpectedly\n"
    )
    report = explain_text(text, strict=True)
    assert [cause.code for cause in report.causes] == ["RK-DATA-07"]
    assert report.causes[0].where == "train.py:9  for batch in loader:"


def test_the_number_of_workers_comes_from_the_users_line():
    text = "RuntimeError: DataLoader worker (pid 27) is killed by signal: Killed. "
    (cause,) = told(text, "for x in DataLoader(records, 64, num_workers=12):")
    assert cause.what.endswith("(12 workers)")
    assert "num_workers=6" in cause.fix[1]


def test_a_killed_worker_that_is_alive_here_is_told_with_this_machines_memory(tmp_path: Path):
    ran = run_example(entry("data_worker_killed").EXAMPLE, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.code == "RK-DATA-06"
    assert "of memory are free now" in cause.why


def test_a_bus_error_that_is_alive_here_is_told_with_the_size_of_the_shared_memory(tmp_path: Path):
    ran = run_example(entry("data_bus_error").EXAMPLE, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert shared_said(shared_memory()).partition(",")[0] in cause.why


def test_a_small_shared_memory_leaves_no_doubt(monkeypatch, tmp_path: Path):
    ran = run_example(entry("data_bus_error").EXAMPLE, tmp_path)
    monkeypatch.setattr(entry("data_bus_error"), "shared_memory", lambda: (64 << 20, 1 << 20))
    cause = explain_events(ran.events, strict=True).causes[0]
    assert "has 67.1 MB, 1.0 MB of it free now" in cause.why
    assert cause.likelihood == "certain"


def host(root: Path, group: str, **files: str) -> Path:
    """Make the files that the kernel shows of a process's groups."""
    for name, text in {"proc/self/cgroup": group, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_narrowest_group_of_version_two_is_the_limit(tmp_path: Path):
    root = host(
        tmp_path,
        "0::/slurm/job_7/step_0\n",
        **{
            "sys/fs/cgroup/slurm/job_7/memory.max": "4000000000\n",
            "sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max\n",
            "sys/fs/cgroup/slurm/job_7/memory.events": "low 0\noom 3\noom_kill 2\n",
            "proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1000000 kB\n",
        },
    )
    found = memory(root)
    assert (found.limit, found.available, found.kills) == (4_000_000_000, 1_024_000_000, 2)
    assert memory_said(found) == (
        "the memory limit of the container or job (cgroup) is 4.0 GB; 1.0 GB of memory are free now;"
        " the kernel has ended 2 of its processes for want of memory (oom_kill)"
    )


def test_a_group_of_version_one_without_a_limit_is_none(tmp_path: Path):
    group = "5:cpu:/x\n4:memory:/docker/7\n"
    limit = "sys/fs/cgroup/memory/docker/7/memory.limit_in_bytes"
    assert memory(host(tmp_path / "a", group, **{limit: "9223372036854771712\n"})).limit is None
    assert memory(host(tmp_path / "b", group, **{limit: "500000000\n"})).limit == 500_000_000


def test_where_nothing_can_be_read_nothing_is_said(tmp_path: Path):
    assert memory_said(memory(tmp_path)) == ""
    assert memory_said(Memory(None, "", None, 0)) == ""
    assert shared_memory(str(tmp_path / "none")) is None
    assert shared_said(None) == ""


def test_the_limit_of_open_files_is_this_processs():
    limit, count = open_files()
    assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 3 <= count < limit


def test_a_limit_of_address_space_counts_too(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2_000_000_000, -1))
    assert memory_said(memory(tmp_path)) == "the limit of address space (ulimit -v) is 2.0 GB"


def test_an_empty_data_set_is_told_with_what_lies_at_its_path(tmp_path: Path):
    source = entry("data_num_samples_0").EXAMPLE
    ran = run_example(source, tmp_path)
    cause = explain_events(ran.events, strict=True).causes[0]
    assert cause.what == "the data set (Volumes) has no samples"
    assert "data/volumes does not exist" in cause.why
    assert cause.fix[1].startswith("ls data/volumes | head")


def test_a_folder_is_told_with_its_suffixes(tmp_path: Path):
    for name in ("a.jpg", "b.jpg", "c.txt", "README"):
        (tmp_path / name).touch()
    (tmp_path / "cat").mkdir()
    said = folder_said(str(tmp_path))
    assert "1 folder and 2 .jpg" not in said
    assert said.startswith(f"{tmp_path} holds 1 folder and files: 2 .jpg")
    assert folder_said(f"{tmp_path}/*.jpg").endswith("fits 2 files")
    assert folder_said(str(tmp_path / "a.jpg")).endswith("is a file of 0 bytes")


def test_an_array_of_the_users_own_that_is_not_indexable_is_not_a_data_set():
    assert told("TypeError: 'Settings' object is not subscriptable", "settings['lr']") == []
    assert told("TypeError: object of type 'Settings' has no len()", "len(settings)") == []
    [of_none] = told("RuntimeError: Could not infer dtype of NoneType", "torch.tensor([1, None])")
    assert of_none.code == "RK-DTYPE-14"
    assert told("OSError: [Errno 24] Too many open files: 'a.txt'", "open('a.txt')") == []
    assert told("EOFError", "input()") == []
    assert told("TypeError: cannot pickle '_io.TextIOWrapper' object", "pickle.dumps(file)") == []


def test_a_broken_connection_inside_the_loader_is_a_worker_that_went():
    (cause,) = told(
        "ConnectionResetError: [Errno 104] Connection reset by peer", "for batch in loader:", library=LOADER
    )
    assert (cause.code, cause.likelihood) == ("RK-DATA-06", "possible")


BATCH_SIZES = [
    ("<function collate at 0x7f>", "a function stands where the batch size belongs"),
    ("4.0", "batch_size is 4.0, a float"),
    ("'32'", "batch_size is '32', no whole number"),
    ("0", "batch_size is 0"),
    ("-1", "batch_size is -1"),
]


@pytest.mark.parametrize(("given", "what"), BATCH_SIZES)
def test_what_was_given_as_batch_size_is_told_apart(given, what):
    (cause,) = told(f"ValueError: batch_size should be a positive integer value, but got batch_size={given}")
    assert cause.what == what


def test_the_parents_message_is_explained_by_what_the_new_worker_said_before_it():
    frame = 'Traceback (most recent call last):\n  File "train.py", line 5, in <module>\n    for batch in loader:\n'
    text = (
        f"{frame}RuntimeError: \n        An attempt has been made to start a new process before the\n"
        "        current process has finished its bootstrapping phase.\n\n"
        "            if __name__ == '__main__':\n                freeze_support()\n\n"
        f"{frame}RuntimeError: DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        f"{frame}RuntimeError: DataLoader worker (pid(s) 7) exited unexpectedly\n"
    )
    report = explain_text(text, strict=True)
    assert [cause.code for cause in report.causes] == ["RK-DATA-08"]
    assert "main()" in report.causes[0].fix[0]


def caught(kind: str, last: str) -> str:
    """What a loader raises of a worker's own failure."""
    return f"""Traceback (most recent call last):
  File "train.py", line 11, in <module>
    for batch in loader:
  File "/opt/venv/{LOADER}", line 1567, in _process_data
    data.reraise()
{kind}: Caught {kind} in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/opt/venv/{LOADER.replace("dataloader", "_utils/worker")}", line 374, in _worker_loop
    data = fetcher.fetch(index)
  File "records.py", line 9, in __getitem__
    return read(index)
{last}
"""


def test_an_error_inside_a_worker_that_has_its_own_entry_is_explained_as_that():
    report = explain_text(caught("IndexError", "IndexError: Target 10 is out of bounds."), strict=True)
    assert [cause.code for cause in report.causes] == ["RK-LOSS-01"]


def test_an_unknown_error_inside_a_worker_names_the_users_line():
    (cause,) = explain_text(caught("KeyError", "KeyError: 'label'"), strict=True).causes
    assert cause.what == "the data set failed in worker 0 of the loader with KeyError: 'label'"
    assert cause.where == "records.py:9  return read(index)"


NORMALIZED = "RuntimeError: output with shape [1, 28, 28] doesn't match the broadcast shape [3, 28, 28]"


def test_three_means_for_a_grey_image_are_counted():
    functional = "lib/python3.11/site-packages/torchvision/transforms/functional.py"
    frames = (Frame("train.py", 3, "main", "prepare(image)"), Frame(functional, 9, "normalize", "", is_users=False))
    event = event_of(NORMALIZED)
    cause = causes_of(Event(event.raised, event.message, frames), strict=True)[0]
    assert cause.what == "the image has 1 channel, Normalize has 3 means"
    assert cause.fix[0].startswith("transforms.Normalize((0.5,), (0.5,))")


def test_an_addition_of_the_users_own_is_no_normalize():
    assert "RK-DATA-05" not in [cause.code for cause in told(NORMALIZED, "a.add_(b)")]


def test_a_lambda_and_a_named_function_are_told_apart():
    text = (
        "_pickle.PicklingError: Can't pickle <function <lambda> at 0x7f>: attribute lookup <lambda> on __main__ failed"
    )
    (cause,) = told(text, "for batch in loader:", library=LOADER)
    assert cause.what == "a lambda cannot be sent to a worker"
    (cause,) = told(
        "AttributeError: Can't pickle local object 'main.<locals>.pad'", "for batch in loader:", library=LOADER
    )
    assert cause.what == "pad cannot be sent to a worker"
