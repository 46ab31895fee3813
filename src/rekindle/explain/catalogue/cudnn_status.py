"""cuDNN or cuBLAS could not start or run, mostly for want of memory on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from rekindle.explain.cause import Cause
from rekindle.explain.event import Event

CODE, NAME, SINCE = "RK-DEV-20", "cudnn-status", "0.2"
TITLE = "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"
RAISES = ("RuntimeError", "AcceleratorError", "CublasError")
NEEDLES = (
    "CUDNN_STATUS_",
    "CUBLAS_STATUS_",
    "Unable to find a valid cuDNN algorithm",
    "unable to find an engine to execute",
    "cuFFT error: ",
)
PATTERNS = (
    r"CUDNN_STATUS_(?P<cudnn>NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|ALLOC_FAILED|SUBLIBRARY_\w+|NOT_SUPPORTED|BAD_PARAM\w*)",
    r"(?P<engine>Unable to find a valid cuDNN algorithm|unable to find an engine to execute)",
    r"CUBLAS_STATUS_(?P<cublas>NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR|INVALID_VALUE|NOT_SUPPORTED|ARCH_MISMATCH)(?: when calling `(?P<call>\w{1,60}))?",
    r"cuFFT error: (?P<cufft>\w{1,60})",
)
OLD = (
    "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "RuntimeError: Unable to find a valid cuDNN algorithm to run convolution",
    "RuntimeError: GET was unable to find an engine to execute this computation",
    "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, lda, b, ldb, &beta, c, ldc)`",
    "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "RuntimeError: cuFFT error: CUFFT_INTERNAL_ERROR",
)
WHY = (
    "These libraries need memory of their own on the GPU, and say a status, not how much was missing. The same status comes when an earlier"
    " kernel failed (a label or index out of range) and this is the first call that notices, and when the library that is found at run time"
    " is not the one PyTorch was built with."
)
CHECK = "In this order: `nvidia-smi` (is the GPU full?), the same batch on the CPU (is an index out of range?), `torch.backends.cudnn.version()` and `LD_LIBRARY_PATH`."


def explain(event: Event) -> Iterator[Cause]:
    """The three causes in the order of their frequency for this status."""
    facts = event.facts
    status = (
        f"CUDNN_STATUS_{facts['cudnn']}"
        if facts.get("cudnn")
        else f"CUBLAS_STATUS_{facts['cublas']}"
        if facts.get("cublas")
        else facts.get("cufft") or "no algorithm found"
    )
    library = "cuDNN" if facts.get("cudnn") or facts.get("engine") else "cuBLAS" if facts.get("cublas") else "cuFFT"
    on_cpu = "model.cpu()(batch.cpu())   # an index or label out of range then says so"
    memory = "nvidia-smi   # is the GPU full? A smaller batch, or end the other process"
    paths = 'python -c "import torch; print(torch.backends.cudnn.version(), torch.version.cuda)"; echo $LD_LIBRARY_PATH   # another copy of the library in front of PyTorch\'s own'
    noticed = status.endswith(("EXECUTION_FAILED", "INTERNAL_ERROR", "MAPPING_ERROR"))
    if library == "cuBLAS" and status.endswith(("INVALID_VALUE", "NOT_SUPPORTED", "ARCH_MISMATCH")):
        what = f"cuBLAS refused a product of matrices: {status}"
        why = "another cuBLAS than PyTorch's own was found at run time, shapes or types that this GPU cannot do, or an earlier kernel failed"
        fix: tuple[str, ...] = (paths, "unset LD_LIBRARY_PATH   # PyTorch brings its own CUDA libraries", on_cpu)
    elif noticed:
        what = f"{library} failed while it ran: {status}"
        why = "an earlier kernel failed and this is where it was noticed, or the GPU's memory is full"
        fix = (on_cpu, "CUDA_LAUNCH_BLOCKING=1 python train.py   # the line that fails, not a later one", memory)
    else:
        what = f"{library} could not start or found no way to compute: {status}"
        why = "mostly the GPU's memory is full: the library needs some of its own, outside of what PyTorch reports"
        fix = (memory, on_cpu, paths)
    yield Cause(
        CODE,
        NAME,
        what=what.replace("cuBLAS", "cublas", 1) if what.startswith("cuBLAS") else what,
        why=why,
        fix=fix,
        likelihood="possible" if facts.get("cublas") == "INTERNAL_ERROR" else "likely",
    )


EXAMPLE = ""
MENDED = ""
MESSAGE = "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"
REQUIRES: tuple[str, ...] = ()
