"""What surrounds a run, and what is said when it changed."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from rekindle.run.environment import adopt_threads, describe, differences, git_commit


def test_the_surroundings_are_plain_values():
    facts = describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert differences(facts, describe()) == []


def test_each_difference_is_one_line():
    now = describe()
    then = {**now, "torch": "2.6.0", "git": "a" * 40, "hostname": "elsewhere"}
    assert differences(then, {**now, "git": "b" * 40}) == [
        f"torch: was 2.6.0, is {torch.__version__}; the bits may differ from here on",
        "the git commit of the code was aaaaaaaaaa and is bbbbbbbbbb",
    ]


def test_a_script_that_was_changed_without_a_commit_is_said_and_a_notebook_is_not(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("lr = 0.1")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    then = describe()
    assert differences(then, describe()) == []
    script.write_text("lr = 0.2")
    changed = "the script was changed since then: what it computes may be something else from here on"
    assert differences(then, describe()) == [changed]
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    assert differences({**then, "git": None}, {**describe(), "git": None}) == []
    del then["script"]  # a snapshot of an older rekindle
    assert differences({**then, "git": None}, {**describe(), "git": None}) == []


def test_the_recorded_number_of_threads_is_taken_over():
    before = torch.get_num_threads()
    try:
        assert adopt_threads({"threads": before}) is None
        assert adopt_threads({"threads": before + 1}) == (
            f"torch uses {before + 1} threads now, as before, instead of {before}: sums depend on it"
        )
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_commit_is_read_without_git(tmp_path):
    assert git_commit("/proc") is None
    (tmp_path / "deep" / "er").mkdir(parents=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

    def git(*words):
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    assert git_commit(str(tmp_path)) is None
    git("commit", "-q", "--allow-empty", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert git_commit(str(tmp_path / "deep" / "er")) == head
    git("pack-refs", "--all")
    assert git_commit(str(tmp_path)) == head
    git("checkout", "-q", "--detach")
    assert git_commit(str(tmp_path)) == head
