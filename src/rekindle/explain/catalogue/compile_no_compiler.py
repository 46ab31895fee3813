"""torch.compile finds no C++ compiler, or no Triton."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.catalogue._modules import is_in
from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-COMPILE-03", "compile-no-compiler", "0.2"
TITLE = "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx"
RAISES = (
    "InductorError",
    "BackendCompilerFailed",
    "InvalidCxxCompiler",
    "RuntimeError",
    "TritonMissing",
    "FileNotFoundError",
)
NEEDLES = (
    "No working C++ compiler found",
    "InvalidCxxCompiler",
    "Failed to find C compiler",
    "Cannot find a working triton installation",
    "Compiler: cl is not found",
    "TritonMissing",
    "No such file or directory: 'g++'",
    "No such file or directory: 'cl'",
)
PATTERNS = (
    r"No working C\+\+ compiler found in (?P<config>[\w.]+): (?P<tried>\([^)\n]{0,200}\))",
    r"InvalidCxxCompiler",
    r"(?P<c>Failed to find C compiler)",
    r"(?P<triton>Cannot find a working triton installation)",
    r"Compiler: (?P<windows>cl) is not found",
    r"No such file or directory: '(?P<missing>g\+\+|cl)'",
)
OLD = (
    (
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found in"
        " torch._inductor.config.cpp.cxx: (None, 'g++')"
    ),
    "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
    (
        "RuntimeError: Cannot find a working triton installation. More information on installing Triton can be found at"
        " https://github.com/openai/triton"
    ),
    "torch._inductor.exc.InductorError: FileNotFoundError: [Errno 2] No such file or directory: 'g++'",
)
WHY = (
    "`torch.compile` writes C++ for the CPU and Triton kernels for a GPU, and has both compiled on this machine: it needs a C++"
    " compiler, for a GPU a C compiler and the `triton` package. Slim containers have none; Windows has `cl` only inside of a"
    " developer's prompt."
)
CHECK = '`which g++ gcc`, `echo $CXX $CC`, `python -c "import triton"`.'


def explain(event: Event) -> Iterator[Cause]:
    """Compiler or Triton, and what was tried."""
    facts = event.facts
    if (
        facts.get("missing")
        and "inductor" not in (event.text + event.outer).lower()
        and not is_in(event, "torch/_inductor/cpp_builder.py", "torch/_inductor/codecache.py")
    ):
        return
    without = 'torch.compile(model, backend="eager")   # or no compile: the same results, slower'
    if facts.get("triton"):
        what, why = (
            "torch.compile found no working Triton for the GPU",
            "kernels for a GPU are written in Triton; it comes with the Linux wheels, and not with every build",
        )
        fix: tuple[str, ...] = (
            "pip install --force-reinstall torch   # brings the Triton that fits; on Windows: pip install triton-windows",
            without,
        )
    elif facts.get("c"):
        what, why = "Triton found no C compiler", "Triton compiles a small launcher for each kernel with a C compiler"
        fix = ("apt-get install gcc", "CC=/usr/bin/gcc python train.py   # if it is there under another name", without)
    else:
        tried = f": tried {facts['tried']}" if facts.get("tried") else ""
        on_windows = "cl" in {facts.get("windows"), facts.get("missing")}
        what, why = (
            f"torch.compile found no C++ compiler{tried}",
            "it writes C++ for the CPU and has it compiled on this machine",
        )
        fix = (
            ("Visual Studio Build Tools with the C++ workload, and start from its developer prompt",)
            if on_windows
            else (
                "apt-get install g++   # in a container: in its image",
                "export CXX=/usr/bin/g++   # if it is there under another name; a wrong CXX gives this too",
            )
        )
        fix = (*fix, without)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="certain")


EXAMPLE = """
import os
os.environ["CXX"] = "/nonexistent/g++"
os.environ["PATH"] = "/nonexistent"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath("cache")

import torch
from torch import nn

model = torch.compile(nn.Linear(4, 8))
model(torch.ones(1, 4))
"""
MENDED = """
import os
import shutil
os.environ["CXX"] = "/nonexistent/g++"

import torch
from torch import nn

model = nn.Linear(4, 8)
if shutil.which(os.environ.get("CXX", "g++")):
    model = torch.compile(model)
model(torch.ones(1, 4))
"""
REQUIRES = ("process",)
MESSAGE = ""
