"""The command `rekindle gpus`: the table, the JSON, the exit codes, with a driver that is not there."""

from __future__ import annotations

import json
import subprocess
import sys

from fake_nvml import GIB, card, install, sliced


def test_the_table(cli, tmp_path):
    cards = [card(0, 30, processes=[(4711, 10 * GIB)]), sliced(1, _0=3), {"handle": "lost"}]
    env = {**install(tmp_path / "driver", cards), "CUDA_VISIBLE_DEVICES": "MIG-10,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    done = cli("gpus", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "3 GPUs, driver 570.1, CUDA up to 12.8; CUDA_VISIBLE_DEVICES 'MIG-10,0'\n"
        "\n"
        "GPU  as      name              capability  memory free  of        busy  processes\n"
        "0    cuda:1  NVIDIA A100       8.0         30.0 GiB     40.0 GiB  7 %   1\n"
        "1            NVIDIA A100       8.0         1.0 GiB      40.0 GiB  7 %   0\n"
        "1.0  cuda:0  A100 MIG 1g.10gb              3.0 GiB      10.0 GiB        MIG-10\n"
        "2    hidden  unknown                       ?            ?         ?     it fell off the bus or lost power; "
        "the machine must be rebooted\n"
        "  GPU 0: process 4711  program-4711  10.0 GiB\n"
    )


def test_json_has_the_map_both_ways(cli, tmp_path):
    env = {**install(tmp_path / "driver", [card(0, 30), card(1, 2)]), "CUDA_VISIBLE_DEVICES": "1"}
    done = cli("gpus", "--json", env=env)
    answer = json.loads(done.stdout)
    assert answer["logical"] == ["GPU-111-aaaa"]
    assert [gpu["logical"] for gpu in answer["gpus"]] == [None, 0]
    assert answer["gpus"][0]["memory_free_bytes"] == 30 * GIB
    assert (answer["driver"], answer["cuda"], answer["visible_devices"]) == ("570.1", "12.8", "1")


def test_no_gpu_is_exit_code_1_and_a_driver_that_cannot_be_asked_is_2(cli, tmp_path):
    done = cli("gpus", env=install(tmp_path / "driver", [], nvmlInit="no driver"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no GPU\n  why     there is no NVIDIA driver on this machine")
    done = cli("gpus", env=install(tmp_path / "driver", [], nvmlInit="mismatch"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "do      reboot the machine" in done.stderr
    done = cli("gpus", "--json", env=install(tmp_path / "driver", [], nvmlInit="no driver"))
    assert (done.returncode, json.loads(done.stdout)["gpus"]) == (1, [])


def test_what_a_driver_says_cannot_colour_the_terminal(cli, tmp_path):
    done = cli("gpus", env=install(tmp_path / "driver", [card(0, 30, name="\x1b[31mred")]))
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout


def test_it_loads_no_torch():
    code = "import sys; from rekindle.cli import main; main(['gpus']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
