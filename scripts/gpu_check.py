"""Run the tests and measurements that need a GPU, or say clearly that there is none: `make gpu-check`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Return the exit code: 0 also where there is no GPU, since then nothing failed."""
    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} finds no CUDA device, so nothing was checked")
        return 0
    for index in range(torch.cuda.device_count()):
        print(f"GPU {index}: {torch.cuda.get_device_name(index)}, torch {torch.__version__}", flush=True)
    commands = [[sys.executable, "-m", "pytest", "-m", "gpu", "-q"]]
    commands += [[sys.executable, str(script)] for script in sorted((ROOT / "benchmarks").glob("gpu_*.py"))]
    codes = [subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands]
    if codes[0] == 5:  # pytest collected nothing
        print("there are no tests marked `gpu` yet")
        codes[0] = 0
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
