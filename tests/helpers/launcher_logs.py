# ruff: noqa: E501 - the lines of a log stand whole, as they are printed
"""What launchers, NCCL, Slurm and drivers print when a job ends, in the shapes that people post, shortened.

The error lines are those of the programs; hosts, paths, numbers and what stands around them are made up. Each shape
has the first cause that explains it and the ranks it is said of. `ORDINARY` are failures of other kinds whose last
line reads like a known one: nothing may be said of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A log, the code of its root cause, and the ranks that failed of it."""

    text: str
    code: str
    ranks: tuple[int, ...] = ()


_CALLS = """Traceback (most recent call last):
  File "/home/ada/project/train.py", line 61, in <module>
    main()
  File "/home/ada/project/train.py", line 44, in main
    {code}
"""
_LAUNCHER = """W1120 22:07:15.103000 32515 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 32519 closing signal SIGTERM
E1120 22:07:15.292000 32515 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: {local} (pid: 32520) of binary: /opt/venv/bin/python
Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/multiprocessing/errors/__init__.py", line 367, in wrapper
    return f(*args, **kwargs)
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_22:07:15
  host      : node07
  rank      : {rank} (local_rank: {local})
  exitcode  : {code} (pid: 32520)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


def _calls(code: str) -> str:
    return _CALLS.format(code=code)


def _ranked(text: str, rank: int) -> str:
    return "".join(f"[rank{rank}]: {line}\n" for line in text.splitlines())


def _ended(rank: int, code: int = 1) -> str:
    return _LAUNCHER.format(rank=rank, local=rank, code=code)


_TEXT: dict[str, str] = {}
# one rank out of memory, the others time out in their watchdogs and are ended
_TEXT["oom_one_rank"] = (
    _ranked(
        _calls("loss.backward()")
        + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 2 has a total capacity of 79.15 GiB of which 1.31 GiB is free. Process 4711 has 77.83 GiB memory in use. Of the allocated memory 74.10 GiB is allocated by PyTorch, and 2.01 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
        2,
    )
    + """[rank0]:[E1120 22:17:15.000000000 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060 milliseconds before timing out.
[rank0]:[E1120 22:17:15.000100000 ProcessGroupNCCL.cpp:684] [Rank 0] Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU operations might run on corrupted/incomplete data.
[rank0]:[E1120 22:17:15.000200000 ProcessGroupNCCL.cpp:698] [Rank 0] To avoid data inconsistency, we are taking the entire process down.
[rank0]:[E1120 22:17:15.000300000 ProcessGroupNCCL.cpp:1896] [PG ID 0 PG GUID 0 Rank 0] Process group watchdog thread terminated with exception: [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060 milliseconds before timing out.
Exception raised from checkTimeout at /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:635 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x98 (0x7f0000000000 in /opt/venv/lib/python3.11/site-packages/torch/lib/libc10.so)
frame #1: <unknown function> + 0x123 (0x7f0000000000 in /opt/venv/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so)
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 PG GUID 0 Rank 0] Process group watchdog thread terminated with exception: [Rank 0] Watchdog caught collective operation timeout
"""
    + _ended(2, 1)
)
_TEXT["nccl_remote_exited"] = (
    _ranked(_calls("labels = vocabulary[word]") + "KeyError: 'rekindle'", 3)
    + "".join(
        _ranked(
            _calls("dist.all_reduce(total)")
            + """torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:2383, remote process exited or there was a network error, NCCL version 2.21.5
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
Last error:
socketProgress: Connection closed by remote peer node07<44444>""",
            r,
        )
        for r in (0, 1)
    )
    + _ended(3, 1)
)
_TEXT["nccl_internal_closed"] = _ranked(
    _calls("model = DDP(model, device_ids=[local_rank])")
    + """torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1275, internal error, NCCL version 2.14.3
ncclInternalError: Internal check failed.
Last error:
Net : Connection closed by remote peer node08<50260>""",
    0,
) + _ended(0, 1)
_TEXT["nccl_no_interface"] = _ranked(
    _calls("dist.barrier()")
    + """torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:268, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
socketStartConnect: Connect to 169.254.3.1<40019> failed : Software caused connection abort""",
    1,
) + _ended(1, 1)
_TEXT["nccl_shm"] = _ranked(
    _calls("dist.barrier()")
    + """torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1333, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.18.1
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-jTQxZy (size 9637888)""",
    0,
)
_TEXT["nccl_cuda_oom"] = (
    """node07:3063025:3066048 [0] misc/socket.cc:49 NCCL WARN socketProgress: Connection closed by remote peer node07<51159>
node07:3063025:3066048 [0] NCCL INFO misc/socket.cc:749 -> 6
node07:3063028:3066152 [3] include/alloc.h:178 NCCL WARN Cuda failure 'out of memory'
node07:3063028:3066152 [3] include/alloc.h:185 NCCL WARN Failed to CUDA calloc 6291456 bytes
"""
    + _ranked(
        _calls("dist.barrier()")
        + """torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1333, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.18.1
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
Cuda failure 'out of memory\'""",
        3,
    )
    + _ended(3, 1)
)
_TEXT["slurm_oom"] = """Epoch 3:  41% 415/1001 loss 0.5844
slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4711.0 cgroup. Some of your processes may have been killed by the cgroup out-of-memory handler.
srun: error: node07: task 0: Out Of Memory
srun: Terminating StepId=4711.0
"""
_TEXT["slurm_oom_worker"] = (
    """slurmstepd: error: Detected 3 oom_kill events in StepId=4711.0. Some of the step tasks have been OOM Killed.
"""
    + _calls("for images, labels in loader:")
    + """RuntimeError: DataLoader worker (pid 26472) is killed by signal: Killed.
srun: error: node07: task 0: Out Of Memory
"""
)
_TEXT["slurm_time"] = """epoch 17 loss 0.31
slurmstepd: error: *** STEP 4711.0 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***
slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO TIME LIMIT ***
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
W1120 10:00:00.103000 32515 torch/distributed/elastic/agent/server/api.py:719] Received Signals.SIGTERM death signal, shutting down workers
W1120 10:00:00.103000 32515 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 32519 closing signal SIGTERM
Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/multiprocessing/api.py", line 84, in _terminate_process_handler
    raise SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)
torch.distributed.elastic.multiprocessing.api.SignalException: Process 32515 got signal: 15
"""
_TEXT["slurm_preempted"] = (
    "slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 DUE TO PREEMPTION ***\n"
)
_TEXT["torchrun_killed"] = _ended(1, -9)
_TEXT["torchrun_segv"] = "Fatal Python error: Segmentation fault\n\n" + _ended(0, -11)
_TEXT[
    "rendezvous"
] = """[E socket.cpp:860] [c10d] The client socket has timed out after 60s while trying to connect to (10.0.0.2, 29500).
Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/rendezvous/c10d_rendezvous_backend.py", line 155, in _create_tcp_store
    store = TCPStore(
TimeoutError: The client socket has timed out after 60s while trying to connect to (10.0.0.2, 29500).

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/rendezvous/c10d_rendezvous_backend.py", line 159, in _create_tcp_store
    raise RendezvousConnectionError(
torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed. See inner exception for details.
"""
_TEXT["rendezvous_lost"] = """Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/rendezvous/c10d_rendezvous_backend.py", line 113, in _call_store
    return getattr(self._store, store_op)(*args, **kwargs)
torch.distributed.DistNetworkError: Connection reset by peer

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/opt/venv/lib/python3.11/site-packages/torch/distributed/elastic/rendezvous/dynamic_rendezvous.py", line 1255, in num_nodes_waiting
    self._state_holder.sync()
torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed. See inner exception for details.
"""
_TEXT[
    "heartbeat"
] = """[rank5]:[E1120 22:17:15.000300000 ProcessGroupNCCL.cpp:1484] [PG ID 0 PG GUID 0(default_pg) Rank 5] ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives. This typically indicates a NCCL/CUDA API (e.g., CudaEventDestroy) hang blocking the watchdog, and could be triggered by another thread holding the GIL inside a CUDA api, or other deadlock-prone behaviors.
[rank5]:[F1120 22:25:15.000300000 ProcessGroupNCCL.cpp:1557] [PG ID 0 PG GUID 0(default_pg) Rank 5] [PG ID 0 PG GUID 0(default_pg) Rank 5] Terminating the process after attempting to dump debug info, due to ProcessGroupNCCL watchdog hang.
""" + _ended(5, -6)
_TEXT["store_timeout"] = _ranked(
    _calls("dist.barrier()")
    + """torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /default_pg/0//cuda//0/0""",
    1,
) + _ended(1, 1)
_TEXT["store_timeout2"] = _ranked(
    _calls("model = DDP(model)")
    + "torch.distributed.DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: wait timeout after 600000ms, keys: /default_pg/0//cuda//0",
    1,
)
_TEXT["store_socket"] = _ranked(
    _calls("model = DDP(model)")
    + "torch.distributed.DistBackendError: [3] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: Connection reset by peer",
    3,
)
_TEXT["device_assert"] = (
    """/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1553: indexSelectLargeIndex: block: [12,0,0], thread: [0,0,0] Assertion `srcIndex < srcSelectDimSize` failed.
/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1553: indexSelectLargeIndex: block: [12,0,0], thread: [1,0,0] Assertion `srcIndex < srcSelectDimSize` failed.
"""
    + _calls("loss.backward()")
    + """torch.AcceleratorError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
)
_TEXT["accelerate_oom"] = (
    _calls("trainer.train()")
    + """torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 12.00 MiB. GPU 0 has a total capacity of 23.69 GiB of which 5.81 MiB is free. Including non-PyTorch memory, this process has 23.67 GiB memory in use. Of the allocated memory 23.19 GiB is allocated by PyTorch, and 31.17 MiB is reserved by PyTorch but unallocated.
Traceback (most recent call last):
  File "/opt/venv/bin/accelerate", line 8, in <module>
    sys.exit(main())
  File "/opt/venv/lib/python3.11/site-packages/accelerate/commands/launch.py", line 1168, in simple_launcher
    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)
subprocess.CalledProcessError: Command '['/opt/venv/bin/python', 'train.py']' returned non-zero exit status 1.
"""
)
_TEXT["deepspeed_kill"] = """[2026-11-20 10:00:00,000] [INFO] [launch.py:316:sigkill_handler] Killing subprocess 4711
[2026-11-20 10:00:00,000] [ERROR] [launch.py:322:sigkill_handler] ['/opt/venv/bin/python', '-u', 'train.py', '--local_rank=1'] exits with return code = -9
"""
_TEXT["ray_oom"] = """(RayTrainWorker pid=4711, ip=10.0.0.2) Setting up process group for: env:// [rank=0, world_size=2]
ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.2, ID: 1) where the task (task ID: 2, name=train, pid=4711, memory used=30.00GB) was running was 60.00GB / 62.00GB (0.95), which exceeds the memory usage threshold of 0.95.
"""
_TEXT["exclusive"] = _ranked(
    _calls("model.to(device)")
    + "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
    2,
)
_TEXT["xid"] = (
    """NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, GPU has fallen off the bus.
"""
    + _calls("loss.item()")
    + "torch.AcceleratorError: CUDA error: unspecified launch failure\n"
)
_TEXT["mismatch"] = _ranked(
    _calls("dist.all_reduce(total)")
    + "RuntimeError: Detected mismatch between collectives on ranks. Rank 1 is running collective: CollectiveFingerPrint(SequenceNumber=4, OpType=ALLREDUCE, TensorShape=[1], TensorDtypes=Float, TensorDeviceTypes=TensorOptions(dtype=float (default), device=cuda)), but Rank 0 is running collective: CollectiveFingerPrint(SequenceNumber=4, OpType=BARRIER).Collectives differ in the following aspects: \t Op type: ALLREDUCEvs BARRIER",
    1,
)

SHAPES = {
    "oom_one_rank": Shape(_TEXT["oom_one_rank"], "RK-DEV-14", (2,)),
    "nccl_remote_exited": Shape(_TEXT["nccl_remote_exited"], "RK-DIST-16"),
    "nccl_internal_closed": Shape(_TEXT["nccl_internal_closed"], "RK-DIST-24", (0,)),
    "nccl_no_interface": Shape(_TEXT["nccl_no_interface"], "RK-DIST-24", (1,)),
    "nccl_shm": Shape(_TEXT["nccl_shm"], "RK-DIST-24", (0,)),
    "nccl_cuda_oom": Shape(_TEXT["nccl_cuda_oom"], "RK-DIST-24", (3,)),
    "slurm_oom": Shape(_TEXT["slurm_oom"], "RK-DIST-25"),
    "slurm_oom_worker": Shape(_TEXT["slurm_oom_worker"], "RK-DATA-06"),
    "slurm_time": Shape(_TEXT["slurm_time"], "RK-DIST-25"),
    "slurm_preempted": Shape(_TEXT["slurm_preempted"], "RK-DIST-25"),
    "torchrun_killed": Shape(_TEXT["torchrun_killed"], "RK-DIST-16"),
    "torchrun_segv": Shape(_TEXT["torchrun_segv"], "RK-DIST-16"),
    "rendezvous": Shape(_TEXT["rendezvous"], "RK-DIST-05"),
    "rendezvous_lost": Shape(_TEXT["rendezvous_lost"], "RK-DIST-05"),
    "heartbeat": Shape(_TEXT["heartbeat"], "RK-DIST-27", (5,)),
    "store_timeout": Shape(_TEXT["store_timeout"], "RK-DIST-26", (1,)),
    "store_timeout2": Shape(_TEXT["store_timeout2"], "RK-DIST-26", (1,)),
    "store_socket": Shape(_TEXT["store_socket"], "RK-DIST-26", (3,)),
    "device_assert": Shape(_TEXT["device_assert"], "RK-SHAPE-19"),
    "accelerate_oom": Shape(_TEXT["accelerate_oom"], "RK-DEV-14"),
    "deepspeed_kill": Shape(_TEXT["deepspeed_kill"], "RK-DIST-16"),
    "ray_oom": Shape(_TEXT["ray_oom"], "RK-DIST-28"),
    "exclusive": Shape(_TEXT["exclusive"], "RK-DEV-21", (2,)),
    "xid": Shape(_TEXT["xid"], "RK-DEV-21"),
    "mismatch": Shape(_TEXT["mismatch"], "RK-DIST-06", (1,)),
}


def _at(code: str, error: str, path: str = "/home/ada/project/tools.py") -> str:
    """A traceback whose innermost call is a line of somebody's own."""
    return f'{_calls("work()")}  File "{path}", line 7, in work\n    {code}\n{error}\n'


ORDINARY = {
    "key_of_a_dict": _at("return self.names[number]", "KeyError: 42"),
    "key_of_a_table_alone": _at(
        "return table.loc[row]", "KeyError: 42", "/opt/venv/lib/python3.11/site-packages/pandas/core/series.py"
    ),
    "key_that_exists": _at("registry.add(name)", "KeyError: \"attribute 'speed' already exists\""),
    "none_row": _at("return row.item()", "AttributeError: 'NoneType' object has no attribute 'item'"),
    "none_of_a_tree": _at("return self.root.data", "AttributeError: 'NoneType' object has no attribute 'data'"),
    "verbose_of_another": _at(
        "Reader(path, verbose=True)", "TypeError: Reader.__init__() got an unexpected keyword argument 'verbose'"
    ),
    "library_of_another": _at(
        "import cv2", "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    ),
    "symbol_of_another": _at("import shapely", "ImportError: /usr/lib/libgeos_c.so.1: undefined symbol: GEOSFoo_r"),
    "step_of_a_slider": _at("Slider(step=0)", "ValueError: step must be greater than zero"),
    "timeout_of_a_socket": _at("connection.recv(4)", "TimeoutError: timed out"),
    "daemon": _at("pool.apply(work)", "AssertionError: a daemon may not start another"),
    "subprocess": _at(
        "subprocess.run(['ls', 'x'], check=True)",
        "subprocess.CalledProcessError: Command '['ls', 'x']' returned non-zero exit status 2.",
    ),
    "unsupported_operation": _at("file.seek(0)", "io.UnsupportedOperation: underlying stream is not seekable"),
    "own_divisible": _at("raise ValueError(text)", "ValueError: num_tiles (20) must be divisible by num_workers (8)"),
    "range_of_float": _at("for i in range(n / 2):", "TypeError: 'float' object cannot be interpreted as an integer"),
    "numpy_split": _at("np.split(x, 3)", "ValueError: array split does not result in an equal division"),
    "numpy_max": _at("x.max()", "ValueError: zero-size array to reduction operation maximum which has no identity"),
    "own_module": _at("raise TypeError(text)", "TypeError: class Reader is not a subclass of Module"),
    "method_of_a_class": _at(
        "Reader.read()", "TypeError: Reader.read() missing 1 required positional argument: 'self'"
    ),
    "abstract_step": _at(
        "machine.step()", "TypeError: Machine.step() missing 1 required positional argument: 'signal'"
    ),
    "memory_of_java": "java.lang.OutOfMemoryError: Java heap space\n",
    "srun_exit": "srun: error: node07: task 0: Exited with exit code 1\n",
    "cancelled_by_hand": "slurmstepd: error: *** JOB 4711 ON node07 CANCELLED AT 2026-11-20T10:00:00 ***\n",
    "nccl_info": "node07:3063025:3066048 [0] NCCL INFO Connected all rings\nnode07:3063025:3066048 [0] NCCL INFO comm 0x5 rank 0 nranks 4 - Init COMPLETE\n",
}
