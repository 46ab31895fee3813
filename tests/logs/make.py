"""Make the corpus of logs by running programs that fail; the paths of this machine become those of nobody.

    python tests/logs/make.py [name ...]

Each program stands below with the form of its log. What a launcher adds on a cluster (srun's labels, Ray's, a time
stamp on each line) is added here to the real lines of real processes, as those programs write it.
"""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NET = """
import sys, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 6, 5)
        self.head = nn.Linear(400, 120)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))

def main():
    net = Net()
    net(torch.ones(2, 1, 28, 28))
"""
PROGRAMS = {
    "plain/linear": NET + "main()\n",
    "plain/target": """
import torch
from torch.nn import functional as F

def loss_of(logits, labels):
    return F.cross_entropy(logits, labels)

loss_of(torch.zeros(4, 10), torch.tensor([1, 2, 10, 3]))
""",
    "plain/keys": """
from torch import nn

old = nn.ModuleDict({"trunk": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
new = nn.ModuleDict({"trunk": nn.Linear(2, 2), "classifier": nn.Linear(2, 3)})
new.load_state_dict(old.state_dict())
""",
    "chained/from": NET
    + """
try:
    main()
except RuntimeError as error:
    raise SystemError("epoch 3 failed") from error
""",
    "chained/during": NET
    + """
try:
    main()
except RuntimeError as error:
    log.error(error)
""",
    "grouped/tasks": NET
    + """
import asyncio

async def step():
    main()

async def train():
    async with asyncio.TaskGroup() as group:
        group.create_task(step())

asyncio.run(train())
""",
    "bars/tqdm": NET
    + """
for step in range(0, 100, 7):
    print(f"\\rEpoch 1: {step:3d}%|####      | {step}/100 [00:0{step // 20}<00:05, 19.7it/s]", end="", file=sys.stderr)
main()
""",
    "worker/loader": """
import torch
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        return torch.nn.Linear(400, 120)(torch.ones(1, 576))

if __name__ == "__main__":
    for batch in DataLoader(Images(), batch_size=2, num_workers=1):
        pass
""",
    "worker/none_sample": """
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return None if index == 3 else (index, 1)

if __name__ == "__main__":
    for batch in DataLoader(Images(), batch_size=2, num_workers=1):
        pass
""",
    "chained/inside_a_message": """
import torch
import torch.distributed.checkpoint as dcp

dcp.save({"weight": torch.ones(2)}, checkpoint_id="step-1")
dcp.load({"weight": torch.ones(2), "bias": torch.ones(3)}, checkpoint_id="step-1")
""",
    "plain/sliced": """
import torch
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, words):
        out = self.rnn(words)
        return self.head(out[:, -1])

Reader()(torch.ones(2, 5, 4))
""",
    "plain/token": """
import torch

torch.load("https://ada:p455w0rd-of-ada@models.example/net.pt?token=t0k3n-of-ada")
""",
    "worker/spawn": NET
    + """
import torch.multiprocessing as mp

def work(rank):
    main()

if __name__ == "__main__":
    mp.spawn(work, nprocs=1)
""",
    "compile/dynamo": NET.replace("net = Net()", "net = torch.compile(Net(), backend='eager')") + "main()\n",
    "pytest/failed": "",
    "ranks/torchrun": "",
    "ranks/srun": "",
    "ranks/ray": "",
    "ranks/consequences": "",
    "stamped/every_line": "",
    "stamped/logging": NET
    + """
import logging
logging.basicConfig(format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
try:
    main()
except RuntimeError:
    logging.exception("training stopped")
""",
    "coloured/terminal": "",
    "boxed/rich": NET
    + """
from rich.traceback import install
install(width=110)
main()
""",
    "stamped/json_lines": NET
    + """
import json, traceback
print(json.dumps({"level": "info", "message": "epoch 3"}))
try:
    main()
except RuntimeError:
    print(json.dumps({"level": "error", "message": traceback.format_exc()}))
""",
    "message/alone": NET
    + """
try:
    main()
except RuntimeError as error:
    print(f"training failed: {error}")
""",
    "notebook/ipython": "",
    "notebook/old_colab": "",
    "ordinary/key_error": "settings = {'lr': 0.1}\nsettings['learning_rate']\n",
    "ordinary/index_error": "rows = [1, 2]\nrows[2]\n",
    "ordinary/attribute": "class Config:\n    pass\n\nConfig().epochs\n",
    "ordinary/type_error": "def f(a):\n    return a\n\nf()\n",
    "ordinary/value_error": "int('ten')\n",
    "ordinary/zero": "print(1 / 0)\n",
    "ordinary/name": "print(undefined)\n",
    "ordinary/import": "import pandas_that_is_not_there\n",
    "ordinary/unpack": "a, b = 1, 2, 3\n",
    "ordinary/file": "open('settings.yaml')\n",
    "ordinary/assertion": "assert 1 == 2, 'wrong sum'\n",
    "ordinary/json": "import json\njson.loads('{')\n",
    "ordinary/recursion": "def f(n):\n    return f(n + 1)\n\nf(0)\n",
    "ordinary/unicode": "b'\\xff'.decode()\n",
    "ordinary/own": "class Refused(Exception):\n    pass\n\nraise Refused('no')\n",
    "ordinary/group": "raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])\n",
    "ordinary/none": "None.epochs\n",
    "ordinary/concat": "'a' + 1\n",
    "ordinary/timeout": "import socket\nraise TimeoutError('timed out')\n",
    "ordinary/syntax": "def f(:\n    pass\n",
    "ordinary/numpy_index": "import numpy\nnumpy.zeros(10)[12]\n",
    "ordinary/numpy_broadcast": "import numpy\nnumpy.zeros(3) + numpy.zeros(4)\n",
    "ordinary/numpy_matmul": "import numpy\nnumpy.zeros((2, 3)) @ numpy.zeros((2, 3))\n",
    "ordinary/float": "float('abc')\n",
    "ordinary/subscript": "None['a']\n",
    "ordinary/too_few": "a, b = 'x'.split(',')\n",
    "ordinary/input": "input()\n",
    "ordinary/text_file": "open('a.txt', 'wb').write(b'gr\\xfc\\xdfe')\nopen('a.txt', encoding='utf-8').read()\n",
    "ordinary/changed_size": "d = {1: 1}\nfor k in d:\n    d[2] = 2\n",
    "ordinary/generator_len": "len(x for x in [])\n",
    "ordinary/not_implemented": "class Base:\n    def run(self):\n        raise NotImplementedError\n\nBase().run()\n",
    "ordinary/usage": "import argparse\nargparse.ArgumentParser().parse_args(['--learning-rate', '1'])\n",
    "ordinary/bad_zip": "import zipfile\nopen('a.zip', 'w').write('no')\nzipfile.ZipFile('a.zip')\n",
    "ordinary/module_attribute": "import os\nos.path.joined\n",
    "ordinary/list_attribute": "[].to('x')\n",
    "ordinary/import_name": "from os import pathology\n",
    "ordinary/refused": "import socket\nsocket.create_connection(('127.0.0.1', 1))\n",
    "ordinary/bool_compare": "sorted([1, 'a'])\n",
    "ordinary/own_runtime": "def step():\n    raise RuntimeError('training diverged: loss is 3.4e38')\n\nstep()\n",
    "ordinary/key_of_settings": "settings = {'model': {}}\nsettings['model']['hidden_size']\n",
    "ordinary/key_of_saved": "saved_args = {'model': 'r18'}\nsaved_args['sched']\n",
    "ordinary/key_of_checkpoints": "checkpoints = {'epoch_1': 'a.pt'}\ncheckpoints['epoch_9']\n",
    "ordinary/own_forward": "def forward(x, mask):\n    return x\n\nforward(1)\n",
    "ordinary/own_step": "def step(metrics):\n    return metrics\n\nstep()\n",
    "ordinary/tuple_of_sizes": "class Box:\n    target = (1, 2)\n\nmodel_box = Box()\nmodel_box.target.shape\n",
    "ordinary/tuple_sliced": "pair = (1, 2)\npair[0, 1]\n",
    "ordinary/not_iterable": "class Net:\n    pass\n\nfor p in Net():\n    pass\n",
    "ordinary/folder": "open('/tmp')\n",
    "ordinary/no_length": "len(None)\n",
    "ordinary/keyboard": "raise KeyboardInterrupt\n",
    "ordinary/killed_child": "import subprocess\nsubprocess.run(['false'], check=True)\n",
    "ordinary/memory": "raise MemoryError\n",
    "ordinary/warning": "import warnings\nwarnings.warn('the old name will be removed', DeprecationWarning)\n",
    "ordinary/healthy": "for epoch in range(50):\n    print(f'epoch {epoch} loss {1 / (epoch + 1):.3f} errors 0')\n",
}

GROUP = """
import os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo", timeout=timedelta(seconds=%s))
rank = dist.get_rank()
"""
LAUNCHED = {  # by torchrun: how many ranks, and the script
    "distributed/killed": (2, GROUP % 30 + "if rank == 1:\n    os.kill(os.getpid(), 9)\ndist.barrier()\n"),
    "distributed/one_label": (
        3,
        GROUP % 30
        + """
def step(label):
    loss = F.cross_entropy(torch.zeros(1, 10), torch.tensor([label]))
    dist.all_reduce(loss)

for number in range(3):
    step(10 if rank == 2 and number == 1 else 3)
""",
    ),
    "distributed/unused": (
        2,
        GROUP % 30
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.auxiliary = nn.Linear(2, 2)

    def forward(self, x):
        return self.body(x)

model = DistributedDataParallel(Net())
for step in range(2):
    model(torch.ones(1, 2)).sum().backward()
""",
    ),
    "distributed/barrier": (2, GROUP % 2 + "if rank == 0:\n    dist.barrier()\nelse:\n    time.sleep(4)\n"),
    "distributed/recorded": (
        2,
        """
import os, time
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    if os.environ["RANK"] == "1":
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (16x576 and 400x120)")
    time.sleep(20)

main()
""",
    ),
    "distributed/worker": (
        2,
        GROUP % 30
        + """
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        if rank == 1 and number == 3:
            os.kill(os.getpid(), 9)
        return number

for batch in DataLoader(Images(), num_workers=1, multiprocessing_context="fork"):
    dist.all_reduce(torch.ones(1))
""",
    ),
    "distributed/not_there": (
        2,
        GROUP % 30 + 'if rank == 1:\n    torch.load("checkpoints/last.pt")\ndist.barrier()\n',
    ),
    "distributed/own": (
        2,
        GROUP % 30 + "if rank == 1:\n    raise LookupError('no shard for rank 1')\ndist.barrier()\n",
    ),
    "distributed/differ": (2, GROUP % 30 + "DistributedDataParallel(nn.Linear(2, 10 + rank))\n"),
}
PROGRAMS |= dict.fromkeys([*LAUNCHED, "distributed/argument", "distributed/port"], "")


def run(source: str, folder: Path, words: tuple[str, ...] = (), *, python: tuple[str, ...] = ()) -> str:
    (folder / "train.py").write_text(source)
    done = subprocess.run(
        [sys.executable, *python, *(words or ("train.py",))],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout.decode(errors="replace")


def interleaved(texts: dict[str, str]) -> str:
    """Mix the lines of several processes as they arrive; the order within each stays."""
    chance = random.Random(7)
    rest = {prefix: text.splitlines() for prefix, text in texts.items()}
    lines = []
    while any(rest.values()):
        prefix = chance.choice([prefix for prefix, left in rest.items() if left])
        lines.append(prefix + rest[prefix].pop(0))
    return "\n".join(lines) + "\n"


def special(name: str, folder: Path) -> str:
    linear = NET + "main()\n"
    if name == "pytest/failed":
        (folder / "test_net.py").write_text(NET + "\ndef test_it_runs():\n    main()\n")
        return run("", folder, ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_net.py"))
    if name == "ranks/torchrun":
        source = linear.replace(
            "net = Net()", "import time, os; net = Net(); time.sleep(0.5 * int(os.environ['RANK']))"
        )
        words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--tee=3", "train.py")
        return run(source, folder, words)
    if name == "ranks/srun":
        text = run(linear, folder)
        return (
            interleaved({f"{rank}: ": text for rank in range(4)})
            + "srun: error: node07: tasks 0-3: Exited with exit code 1\n"
        )
    if name == "ranks/ray":
        text = run(linear, folder)
        return interleaved({f"(RayTrainWorker pid={pid}, ip=10.0.0.2) ": text for pid in (4711, 4712)})
    if name == "ranks/consequences":
        return consequences(folder)
    if name.startswith("distributed/"):
        return launched(name, folder)
    if name == "stamped/every_line":
        return "".join(
            f"2026-11-20T10:00:{n:02d}.123456Z stderr F {line}\n"
            for n, line in enumerate(run(linear, folder).splitlines(), 10)
        )
    if name == "coloured/terminal":
        paint = {True: "\x1b[35m", False: "\x1b[1;31m"}
        return "".join(
            f"{paint[line.startswith('  File')]}{line}\x1b[0m\n" for line in run(linear, folder).splitlines()
        )
    return notebook(name, folder)


def consequences(folder: Path) -> str:
    """Rank 1 fails; rank 0, which waits for it, is told that the connection was closed."""
    source = (
        NET
        + """
import os, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    main()
dist.all_reduce(torch.ones(1))
"""
    )
    return run(
        source, folder, ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--tee=3", "train.py")
    )


def launched(name: str, folder: Path) -> str:
    """What a script says that torchrun started, or its predecessor."""
    if name == "distributed/argument":
        source = "import argparse\nargparse.ArgumentParser().parse_args()\n"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        words = ("-m", "torch.distributed.launch", "--nproc-per-node=2", f"--master-port={port}", "train.py")
        return run(source, folder, words)
    if name == "distributed/port":
        with socket.socket() as other:
            other.bind(("0.0.0.0", 0))
            other.listen()
            port = str(other.getsockname()[1])
            source = GROUP % 5
            words = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "train.py")
            return run(source, folder, words)
    ranks, source = LAUNCHED[name]
    return run(source, folder, ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "train.py"))


def notebook(name: str, folder: Path) -> str:
    cell = NET.strip() + "\n"
    driver = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
shell.run_cell({cell!r}, store_history=True)
shell.run_cell("main()", store_history=True)
"""
    text = run(driver, folder)
    if name == "notebook/old_colab":
        text = re.sub(
            r"^Cell In ?\[(\d+)\], line \d+(?:, in (.*))?$",
            r"<ipython-input-\1-0a1b2c3d4e5f> in \2()",
            text,
            flags=re.MULTILINE,
        )
        text = re.sub(r"^File (\S+?):\d+, in (.*)$", r"\1 in \2", text, flags=re.MULTILINE)
        text = text.replace(" in ()", " in <module>()")
    return text


def nobodys(text: str, folder: Path) -> str:
    """Replace the paths of this machine."""
    text = text.replace(str(folder), "/home/ada/project")
    text = re.sub(r"[^\s\"'(]*/site-packages/", "/opt/venv/lib/python3.11/site-packages/", text)
    text = re.sub(r"[^\s\"'(<]*/lib/python3\.(\d+)/(?!site-packages)", r"/usr/lib/python3.\1/", text)
    text = re.sub(r"(?m)^(\s*File \")?/[^\s\"]*/bin/", r"\g<1>/opt/venv/bin/", text)
    text = re.sub(r"of binary: \S+", "of binary: /opt/venv/bin/python", text)
    text = re.sub(r"/tmp/torchelastic\S+/(\d+)/error.json", r"torchelastic/\1/error.json", text)
    return re.sub(r"host *: \S+", "host      : node07", text)


if __name__ == "__main__":
    for name in sys.argv[1:] or PROGRAMS:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made).resolve()
            text = run(PROGRAMS[name], folder) if PROGRAMS[name] else special(name, folder)
            target = HERE / f"{name}.log"
            target.parent.mkdir(exist_ok=True)
            target.write_text(nobodys(text, folder), newline="")
            print(name, len(text))
