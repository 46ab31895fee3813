"""What the driver is asked: every card is listed, with what it tells, whatever else goes wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_nvml import CODES, GIB, card, fake, sliced

from rekindle.devices.gpus import GpuProcess, survey_gpus


@pytest.fixture
def driver(monkeypatch):
    def put(cards, **faults):
        module = fake(cards, **faults)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return put


def test_a_card_is_listed_with_all_that_the_driver_tells(driver):
    module = driver([card(0, 30, processes=[(4711, 10 * GIB)])])
    survey = survey_gpus()
    (gpu,) = survey.gpus
    assert (survey.driver, survey.cuda, survey.asked, survey.why) == ("570.1", (12, 8), True, "")
    assert (gpu.index, gpu.uuid, gpu.name, gpu.capability) == (0, "GPU-000-aaaa", "NVIDIA A100", (8, 0))
    assert (gpu.memory_total_bytes, gpu.memory_free_bytes, gpu.busy_percent) == (40 * GIB, 30 * GIB, 7)
    assert gpu.processes == (GpuProcess(4711, "program-4711", 10 * GIB),)
    assert (gpu.compute_mode, gpu.slices, gpu.fault) == ("shared", None, "")
    assert module.calls[-1] == "nvmlShutdown"


QUESTIONS = [
    name
    for name in vars(fake([]))
    if name.startswith("nvml") and name not in {"nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
]


def test_the_questions_were_found():
    assert len(QUESTIONS) > 12


@pytest.mark.parametrize("fault", ["not supported", "no permission", "unknown"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_that_is_not_answered_leaves_the_rest(driver, question, fault):
    driver([card(0, 30), sliced(1, _0=3)], **{question: fault})
    survey = survey_gpus()
    assert [gpu.index for gpu in survey.gpus] == [0, 1]
    told = [survey.gpus[0].name != "unknown", survey.gpus[0].capability is not None, survey.driver is not None]
    assert sum(told) >= 2


def test_a_lost_card_is_listed_beside_the_good_ones(driver):
    driver([card(0, 30), {"handle": "lost"}, card(2, 1, free="reset"), {"handle": "no permission"}])
    good, lost, reset, forbidden = survey_gpus().gpus
    assert good.fault == ""
    assert lost.fault == "it fell off the bus or lost power; the machine must be rebooted"
    assert "nvidia-smi --gpu-reset" in reset.fault
    assert forbidden.fault == "this account may not use it"


def test_slices_are_listed_with_gaps_in_their_numbers(driver):
    driver([sliced(0, _0=3, _5=9)])
    (gpu,) = survey_gpus().gpus
    assert [(part.index, part.uuid, part.memory_free_bytes) for part in gpu.slices] == [
        (0, "MIG-00", 3 * GIB),
        (5, "MIG-05", 9 * GIB),
    ]


def test_a_card_that_shares_the_machines_memory_is_no_faulty_one(driver):
    driver([card(0, 1, free="not supported")])
    (gpu,) = survey_gpus().gpus
    assert (gpu.fault, gpu.memory_free_bytes) == ("", None)


@pytest.mark.parametrize(
    ("faults", "asked", "why", "do"),
    [
        ({"nvmlInit": "no driver"}, True, "there is no NVIDIA driver", "--gpus all"),
        ({"nvmlInit": "no library"}, True, "there is no NVIDIA driver", "--gpus all"),
        ({"nvmlInit": "mismatch"}, False, "updated since the last boot", "reboot"),
        ({"nvmlInit": "no permission"}, False, "may not talk to the driver", "/dev/nvidiactl"),
        ({"nvmlInit": "unknown"}, False, "fault 999", "nvidia-smi"),
        ({"nvmlDeviceGetCount": "unknown"}, False, "cannot count", ""),
        ({}, True, "sees no GPU", "lspci"),
    ],
)
def test_no_gpu_has_its_reason(driver, faults, asked, why, do):
    driver([], **faults)
    survey = survey_gpus()
    assert survey.gpus == ()
    assert survey.asked is asked
    assert why in survey.why
    assert do in survey.do


def test_names_as_bytes_are_understood(driver):
    driver([card(0, 30, name=b"Tesla V100", uuid=b"GPU-1")])
    assert survey_gpus().gpus[0].name == "Tesla V100"


def test_without_the_binding_and_without_a_driver_there_is_no_gpu_and_nothing_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("rekindle.devices.gpus._has_driver_library", lambda: False)
    survey = survey_gpus()
    assert survey.asked
    assert survey.why.startswith("there is no NVIDIA driver")
    assert "pip" not in survey.do


def test_without_the_binding_it_says_what_to_install_where_a_driver_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("rekindle.devices.gpus._has_driver_library", lambda: True)
    survey = survey_gpus()
    assert not survey.asked
    assert "'rekindle[gpu]'" in survey.do


def test_the_real_binding_has_all_that_is_asked_and_the_same_numbers():
    pynvml = pytest.importorskip("pynvml")
    assert [name for name in QUESTIONS if not callable(getattr(pynvml, name, None))] == []
    assert (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIBRARY_NOT_FOUND) == (9, 12)
    assert (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_FOUND) == (3, 4, 6)
    assert (CODES["lost"], CODES["reset"]) == (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
    assert CODES["mismatch"] == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH


def test_the_real_binding_gives_an_answer_on_this_machine():
    pytest.importorskip("pynvml")
    survey = survey_gpus()
    assert survey.gpus or survey.why


def test_it_needs_no_torch():
    code = "import sys, rekindle.devices.gpus as g; g.survey_gpus(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
