"""What explaining costs: nothing per step, at most 50 ms once, 150 ms for a log of a megabyte.

step        a training step with `rekindle.explain.install()` called against one without, in turns
install     `import rekindle; rekindle.explain.install()` in a fresh Python, beside the same Python without it
explain     the first explanation of an exception, with torch and a model alive
log         `rekindle explain LOG` as a whole process, on a megabyte of training ending in eight ranks' tracebacks

  python benchmarks/explaining.py [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from report import header, write_result
from torch import nn

import rekindle

ROUNDS, STEPS = 40, 50
TRACE = Path(__file__).parents[1] / "tests" / "logs" / "plain" / "linear.log"


def step_ratio(*, null: bool = False) -> float:
    """Seconds of steps with the hooks installed over those without; the fastest rounds of each, in turns.

    With `null`, neither has them: what is then not 1 is the noise of the machine.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(64, 32), torch.randint(10, (64,))

    def seconds(installed: bool) -> float:
        (rekindle.explain.install if installed and not null else rekindle.explain.uninstall)()
        begin = time.process_time()  # of this process alone: others may use the machine
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return time.process_time() - begin

    seconds(True), seconds(False)
    with_it, without = [], []
    for number in range(ROUNDS):
        for installed in (True, False) if number % 2 else (False, True):
            (with_it if installed else without).append(seconds(installed))
    rekindle.explain.uninstall()
    return min(with_it) / min(without)


def process_seconds(*words: str, rounds: int = 9) -> float:
    """The median of the whole process."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *words], capture_output=True, check=False)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def explanation_seconds() -> float:
    """The first explanation in a fresh Python, torch being loaded already."""
    code = (
        "import time, torch, rekindle; from torch import nn; rekindle.explain.install()\n"
        "net = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(50)], nn.Linear(9, 2))\n"
        "try: net(torch.ones(2, 8))\n"
        "except RuntimeError as error:\n"
        "    begin = time.perf_counter(); found = rekindle.explain.explain_exception(error)\n"
        "    print(time.perf_counter() - begin if found.causes else 'not explained')"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


def log_of_a_megabyte(folder: Path) -> Path:
    """Lines of training, then the tracebacks of eight ranks, interleaved."""
    chance = random.Random(0)
    rest = {rank: TRACE.read_text().splitlines() for rank in range(8)}
    size = 1_000_000 - 8 * len(TRACE.read_text())
    lines = []
    while size > 0:
        lines.append(f"[rank{chance.randrange(8)}]: epoch 3 step {chance.randrange(10**6)} loss {chance.random():.5f}")
        size -= len(lines[-1]) + 1
    while any(rest.values()):
        rank = chance.choice([rank for rank, left in rest.items() if left])
        lines.append(f"[rank{rank}]: {rest[rank].pop(0)}")
    path = folder / "train.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def measure() -> dict[str, float]:
    """Return all figures: a ratio, and milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        log = log_of_a_megabyte(Path(folder))
        bare = process_seconds("-c", "pass")
        with_it = process_seconds("-c", "import rekindle; rekindle.explain.install()")
        return {
            "step_ratio": round(step_ratio(), 4),
            "null_ratio": round(step_ratio(null=True), 4),
            "install_ms": round(1000 * (with_it - bare), 1),
            "explain_ms": round(1000 * explanation_seconds(), 1),
            "log_ms": round(1000 * process_seconds("-m", "rekindle", "explain", str(log)), 1),
            "log_bytes": log.stat().st_size,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and write no page")
    args = parser.parse_args()
    found = measure()
    if args.json:
        print(json.dumps(found))
        return
    lines = [
        f"step with / without   {found['step_ratio']:.3f} (without / without: {found['null_ratio']:.3f})",
        f"install, once         {found['install_ms']:.1f} ms (budget 50 ms)",
        f"first explanation     {found['explain_ms']:.1f} ms",
        f"log of {found['log_bytes']:,} bytes  {found['log_ms']:.1f} ms, whole process (budget 150 ms)",
    ]
    write_result("explaining", [header("explaining", ""), "```text", *lines, "```"])


if __name__ == "__main__":
    main()
