"""Logs of every form tell which error it was, on which rank, and at which line of the user's own code."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import explaining  # noqa: F401 - the entries as they are now
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.explain.log import chains_of, is_users_path, loose_events, plain_lines
from rekindle.explain.report import explain_text

LOGS = Path(__file__).parent.parent / "logs"
EXPECTED = json.loads((LOGS / "expected.json").read_text())
LINEAR = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)"


def test_the_corpus_was_found():
    assert sorted(EXPECTED) == sorted(str(path.relative_to(LOGS))[:-4] for path in LOGS.glob("*/*.log"))
    assert sum(1 for want in EXPECTED.values() if want["code"]) >= 18
    assert sum(1 for want in EXPECTED.values() if not want["code"]) >= 20


@pytest.mark.parametrize("name", [name for name, want in EXPECTED.items() if want["code"]])
def test_a_log_of_each_form_is_explained(name):
    report = explain_text((LOGS / f"{name}.log").read_text(), strict=True)
    want = EXPECTED[name]
    assert [cause.code for cause in report.causes][:1] == [want["code"]]
    assert report.causes[0].where.split("  ")[0] == want["where"]
    assert list(report.explained[0].ranks) == want["ranks"]
    assert len(report.explained) == 1, "one failure, said once"


@pytest.mark.parametrize("name", [name for name, want in EXPECTED.items() if not want["code"]])
def test_errors_of_python_itself_are_left_alone(name):
    report = explain_text((LOGS / f"{name}.log").read_text(), strict=True)
    assert report.causes == ()
    without_exception = {"ordinary/healthy", "ordinary/usage", "ordinary/warning"}
    assert bool(report.unknown) == (name not in without_exception)


def test_the_users_line_is_the_innermost_that_is_no_librarys():
    text = f"""Traceback (most recent call last):
  File "/home/ada/train.py", line 9, in <module>
    main()
  File "/home/ada/net.py", line 4, in forward
    return self.fc(x)
  File "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/linear.py", line 125, in forward
    return F.linear(input, self.weight, self.bias)
{LINEAR}
"""
    [chain] = chains_of(text)
    frame = chain.events[0].user_frame
    assert (str(frame), frame.function, frame.code) == ("/home/ada/net.py:4", "forward", "return self.fc(x)")


@pytest.mark.parametrize(
    ("path", "is_users"),
    [
        ("train.py", True),
        ("/home/ada/torch_project/net.py", True),
        ("C:\\Users\\ada\\train.py", True),
        ("<ipython-input-3-abc>", True),
        ("<stdin>", True),
        ("/opt/conda/lib/python3.10/site-packages/torch/nn/modules/module.py", False),
        ("/usr/local/lib/python3.10/dist-packages/torch/functional.py", False),
        ("/usr/lib/python3.11/multiprocessing/spawn.py", False),
        ("C:\\Python311\\Lib\\threading.py", False),
        ("<frozen runpy>", False),
        ("~/.venv/lib/python3.12/site-packages/torch/nn/functional.py", False),
    ],
)
def test_whose_file_it_is(path, is_users):
    assert is_users_path(path) is is_users


def chain_texts(text):
    return [[event.text for event in chain.events] for chain in chains_of(text)]


BECAUSE = "The above exception was the direct cause of the following exception:"
DURING = "During handling of the above exception, another exception occurred:"
BLOCK = 'Traceback (most recent call last):\n  File "train.py", line 1, in f\n    f()\n'


def test_the_cause_comes_before_what_was_raised_from_it():
    text = f"{BLOCK}{LINEAR}\n\n{BECAUSE}\n\n{BLOCK}ValueError: b"
    assert chain_texts(text) == [[LINEAR, "ValueError: b"]]


def test_what_was_handled_comes_after_what_was_raised_meanwhile():
    text = f"{BLOCK}ImportError: a\n\n{DURING}\n\n{BLOCK}{LINEAR}"
    assert chain_texts(text) == [[LINEAR, "ImportError: a"]]


def test_two_failures_in_one_log_are_two():
    assert chain_texts(f"{BLOCK}KeyError: 'a'\n\nepoch 2\n{BLOCK}KeyError: 'b'\n") == [
        ["KeyError: 'a'"],
        ["KeyError: 'b'"],
    ]


def test_a_message_of_many_lines_is_whole():
    text = (
        f"{BLOCK}RuntimeError: Error(s) in loading state_dict for Net:\n"
        '\tMissing key(s) in state_dict: "a.weight". \n\tUnexpected key(s) in state_dict: "b.weight". \n'
        "2026-11-20 10:00:00 INFO the next line of the log\n"
    )
    [[message]] = chain_texts(text)
    assert message.endswith('"b.weight".')


def test_a_progress_bar_between_the_lines_is_no_part_of_it():
    text = BLOCK.replace("    f()", "    f()\nEpoch 3:  10%|#    | 1/10") + LINEAR
    assert chain_texts(text) == [[LINEAR]]


def test_a_message_that_a_box_wrapped_is_one_line_again():
    text = """╭──── Traceback (most recent call last) ────╮
│ /home/ada/train.py:20 in <module>         │
│                                           │
│ ❱ 20 main()                               │
╰───────────────────────────────────────────╯
RuntimeError: mat1 and mat2 shapes cannot be
multiplied (16x576 and 400x120)
"""
    [chain] = chains_of(text)
    assert chain.events[0].text == LINEAR
    assert str(chain.events[0].user_frame) == "/home/ada/train.py:20"


def test_a_log_that_breaks_off_is_read_as_far_as_it_goes():
    [chain] = chains_of(BLOCK)
    assert chain.events[0].text == ""
    assert explain_text(BLOCK).causes == ()


def test_what_a_carriage_return_overwrote_is_a_line_of_its_own():
    assert plain_lines("a\r\nb\rc\x1b[31md\x1b[0m") == ["a", "b", "cd"]


def test_a_warning_outside_of_tracebacks_is_an_event_with_its_place():
    [event] = loose_events(
        "train.py:12: UserWarning: The given NumPy array is not writable\n  x = torch.from_numpy(a)\n"
    )[:1]
    assert (event.raised, str(event.frames[0])) == ("UserWarning", "train.py:12")


def test_each_rank_tells_its_first_real_cause_and_not_what_followed():
    lines = []
    for rank in range(3):
        first = LINEAR if rank == 2 else "RuntimeError: Connection closed by peer [10.0.0.2]:4711"
        lines += [f"[rank{rank}]: {line}" for line in f"{BLOCK}{first}".splitlines()]
    report = explain_text("\n".join(lines), strict=True)
    assert [(found.causes[0].code, found.ranks) for found in report.explained] == [("RK-SHAPE-01", (2,))]


ASSERTED = (
    "../aten/src/ATen/native/cuda/Loss.cu:250: nll_loss_forward_reduce_cuda_kernel_2d: block: [0,0,0], "
    "thread: [{thread},0,0] Assertion `t >= 0 && t < n_classes` failed.\n"
)


def test_the_assertion_of_a_kernel_is_the_cause_and_its_line_is_not_guessed():
    text = (
        "".join(ASSERTED.format(thread=thread) for thread in range(8))
        + f"{BLOCK}RuntimeError: CUDA error: device-side assert triggered\n"
        + "CUDA kernel errors might be asynchronously reported at some other API call.\n"
    )
    first = explain_text(text, strict=True).causes[0]
    assert (first.code, first.where) == ("RK-LOSS-01", "")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(
                [
                    "Traceback (most recent call last):",
                    "Original Traceback (most recent call last):",
                    '  File "a.py", line 3, in f',
                    '    |   File "a.py", line 3',
                    "    x = 1",
                    LINEAR,
                    "[rank1]: Traceback (most recent call last):",
                    "RuntimeError            Traceback (most recent call last)",
                    "Cell In[2], line 1",
                    "----> 1 main()",
                    "E       RuntimeError: x",
                    "The above exception was the direct cause of the following exception:",
                    "torch._dynamo.exc.TorchRuntimeError: got RuntimeError('a\\",
                    "\x1b[31m",
                    "",
                ]
            ),
        ),
        max_size=30,
    )
)
def test_no_text_is_too_strange(lines):
    report = explain_text("\n".join(lines), strict=True)
    assert report.lines >= 1
    for cause in report.causes:
        assert cause.what


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "Traceback (most recent call last):\n",
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nRuntimeError: x\n',
        '  File "a.py", line 1, in f\n',
        "RuntimeError: x\n",
        "\tError: failed Exception Warning\n",
        "[rank1]: Error: a\n",
        "\r",
        "\x1b[31m",
        " ",
        "E       RuntimeError: a\n",
        "RuntimeError   Traceback (most recent call last)\n",
        "got RuntimeError('",
        "Original Traceback (most recent call last):\nValueError: Caught\n",
    ],
)
def test_the_time_grows_with_the_length_and_no_faster(unit):
    def seconds(size):
        text = unit * (size // len(unit))
        begin = time.process_time()
        explain_text(text, strict=True)
        return time.process_time() - begin

    seconds(1_000)
    small, large = seconds(100_000), seconds(800_000)
    assert large < 24 * small + 0.3, (small, large)


def test_a_megabyte_of_training_is_read_in_a_fraction_of_a_second():
    chance = random.Random(1)
    lines = [f"step {n} loss {chance.random():.4f} errors failed Warning" for n in range(20_000)]
    begin = time.process_time()
    report = explain_text("\n".join(lines) + f"\n{BLOCK}{LINEAR}\n", strict=True)
    assert time.process_time() - begin < 2
    assert report.causes[0].code == "RK-SHAPE-01"


def test_passwords_and_tokens_of_the_users_line_are_not_said_again():
    log = (LOGS / "plain/token.log").read_text()
    assert "p455w0rd-of-ada" in log
    assert "t0k3n-of-ada" in log
    [cause] = explain_text(log, strict=True).causes
    said = " ".join((cause.what, cause.why, *cause.fix, cause.where))
    assert "https://***@models.example/net.pt?token=*** is an address" in said
    assert "of-ada" not in said
