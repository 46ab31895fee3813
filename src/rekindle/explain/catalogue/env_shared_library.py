"""A library that PyTorch needs is missing, or another one is found in its place."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-MISC-30", "env-shared-library", "0.2"
TITLE = "ImportError: libcudnn.so.9: cannot open shared object file: No such file or directory"
RAISES = ("ImportError", "OSError")
NEEDLES = (
    "cannot open shared object file",
    "undefined symbol: ",
    "[WinError 126]",
    "[WinError 127]",
    "[WinError 1114]",
    "version `GLIBC",
    "version `CXXABI",
    "DLL load failed",
)
PATTERNS = (
    r"(?P<missing>lib(?:cud|cublas|cufft|curand|cusolver|cusparse|nccl|nv|torch|c10|cupti|gomp|mkl)[\w.+-]*\.so[\w.]*): cannot open shared object file",
    r"(?P<file>[^\s:]{1,300}(?:torch|nccl|cud|cublas|cusparse|flash_attn|c10|mkl)[^\s:]{0,200}\.so[\w.]*): undefined symbol: (?P<symbol>[\w@.]{1,300})",
    r"\[WinError (?:126|127|1114)\][^\n]{0,200}[\"'](?P<dll>[^\"'\n]{1,300}(?:torch|c10|shm|fbgemm)[^\"'\n]{0,100}\.dll)",
    r"version `(?P<abi>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found[^\n]{0,40}",
    r"DLL load failed while importing (?P<import_name>_C|torch\w*|_\w+)",
)
OLD = (
    "ImportError: /opt/conda/lib/python3.10/site-packages/torch/lib/libtorch_cuda.so: undefined symbol: ncclCommRegister",
    'OSError: [WinError 126] The specified module could not be found. Error loading "C:\\Python\\lib\\site-packages\\torch\\lib\\fbgemm.dll" or one of its dependencies.',
    "ImportError: /lib64/libstdc++.so.6: version `GLIBCXX_3.4.29' not found (required by /opt/venv/lib/python3.11/site-packages/torch/lib/libtorch.so)",
)
WHY = (
    "PyTorch's wheels bring their CUDA libraries as packages of their own (`nvidia-cudnn-cu12` and others). One is missing after a partial"
    " install, or `LD_LIBRARY_PATH` puts another version in front of it. An extension (flash-attn, torchvision, a kernel of one's own) that"
    " was built for another PyTorch misses a symbol."
)
CHECK = '`python -c "import torch; print(torch.__version__, torch.__file__)"`, `pip list | grep -i -E "torch|nvidia"`, `echo $LD_LIBRARY_PATH`.'


def explain(event: Event) -> Iterator[Cause]:
    """Which library, symbol or file."""
    facts = event.facts
    again = "pip install --force-reinstall torch   # with the packages of CUDA that belong to it"
    unset = 'LD_LIBRARY_PATH= python -c "import torch"   # does it work without other libraries in front?'
    if facts.get("missing"):
        name = facts["missing"]
        what, why = (
            f"the library {name} is missing",
            "an install that stopped early, a program built for another CUDA version, or a wheel for the CPU with an extension for CUDA",
        )
        fix: tuple[str, ...] = (again, "pip list | grep -i -E 'torch|nvidia'   # do the versions go together?")
    elif facts.get("symbol"):
        ours = "/torch/lib/" in facts["file"]
        what = f"{facts['file'].rpartition('/')[2]} misses the symbol {facts['symbol'][:80]}"
        why = (
            "another version of a library it uses is found first, as by LD_LIBRARY_PATH"
            if ours
            else "it was built for another version of PyTorch"
        )
        fix = (
            (unset, again)
            if ours
            else (
                f"pip install --force-reinstall --no-binary :all: {facts['file'].rpartition('/')[2].partition('.')[0].partition('_cuda')[0]}   # built against the PyTorch that is there, or a wheel made for it",
            )
        )
    elif facts.get("abi"):
        what, why = (
            f"the system's C or C++ library has no {facts['abi']}",
            "the wheel was built for a newer system, or an old libstdc++ stands in front of a newer one",
        )
        fix = ("conda install -c conda-forge libstdcxx-ng   # in a conda environment", unset)
    else:
        name = facts.get("dll") or facts.get("import_name") or "a library of PyTorch"
        what, why = (
            f"windows could not load {name.rpartition(chr(92))[2]} or something that it needs",
            "mostly the Visual C++ redistributable is missing, or the install is broken",
        )
        fix = ("install the Microsoft Visual C++ Redistributable (x64), then start again", again)
    yield Cause(CODE, NAME, what=what, why=why, fix=fix, likelihood="likely")


EXAMPLE = ""
MENDED = ""
MESSAGE = "ImportError: libcudnn.so.9: cannot open shared object file: No such file or directory"
REQUIRES: tuple[str, ...] = ()
