"""Where and in which precision a network runs: what ``auto`` means on this machine."""

import ctypes
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

logger = logging.getLogger(__name__)

# What glibc's mallopt(3) calls M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD, and their new values.
_KEEP_ALL = ((-8, 1), (-4, 0), (-1, 2**31 - 1))

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision a network runs.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    precision : {"float32", "bfloat16"}
        ``bfloat16`` applies to the convolutions; softmax and averages are always float32.
    compiled : bool
        Whether the network is compiled for the size of its tiles before it is used.
    """

    device: Device
    precision: Precision
    compiled: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network is to be called."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def choose_runtime(settings: Mapping[str, Any], section: str) -> Runtime:
    """Settle ``auto`` for device and precision, and log what was taken.

    Parameters
    ----------
    settings : mapping
        ``device``: auto, cpu or cuda. ``precision``: auto, float32 or bfloat16; auto is bfloat16
        where the hardware multiplies it natively.
    section : {"training", "prediction"}
        Section of the config they stand in, for the messages.

    Raises
    ------
    ValueError
        If a GPU is asked for and there is none.

    Examples
    --------
    >>> choose_runtime({"device": "cpu", "precision": "float32"}, "prediction")
    Runtime(device='cpu', precision='float32', compiled=False)
    """
    device, precision = settings["device"], settings["precision"]
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError(
            f"{section}.device is cuda, but PyTorch sees no CUDA device here: set it to auto or "
            f"cpu, or run on a machine with a GPU and a CUDA build of PyTorch"
        )
    if device == "auto":
        device = "cuda" if available else "cpu"
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16(device) else "float32"
    logger.info("%s on %s in %s", section, device, precision)
    return Runtime(device, precision)


def has_native_bfloat16(device: Device) -> bool:
    """Say whether the hardware multiplies bfloat16 itself; emulation would be slower."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Not yet public for every supported version of PyTorch.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for the next tile; False if it cannot.

    The features of one tile take tens of MB each, and the C library returns such pieces to the
    system at once. Every layer of every tile would then get fresh pages, which the system must
    clear first: up to a third of the time of a network on a CPU.

    All threads allocate from one arena after this, as only the first can keep large pieces. Call
    it before threads are started. Other C libraries than glibc are left as they are.

    Examples
    --------
    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows: no such library
        return False
    taken = [mallopt(name, value) for name, value in _KEEP_ALL]
    return all(taken)


@contextmanager
def arithmetic(device: Device, *, deterministic: bool) -> Iterator[None]:
    """Have a GPU train in full float32 and, if wanted, with the same bits again; a CPU always does.

    Convolutions in float32 keep its mantissa of 23 bits, of which cuDNN would drop 13 (TF32).

    Parameters
    ----------
    device : {"cpu", "cuda"}
        On a CPU nothing is changed: with as many threads its bits are the same again.
    deterministic : bool
        Whether kernels are chosen that add up in one order, and not those that were fastest just
        now. An operation that has no such kernel is named in a warning and runs as it is.

    Examples
    --------
    >>> with arithmetic("cuda", deterministic=True):
    ...     torch.are_deterministic_algorithms_enabled()
    True
    >>> torch.are_deterministic_algorithms_enabled()
    False
    """
    if device == "cpu":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.allow_tf32
    cudnn.allow_tf32 = False
    if deterministic:
        # Read by cuBLAS when it is used for the first time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("warn")
        cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.benchmark, cudnn.allow_tf32 = before[1:]


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Say what to do if a device has too little memory for what is done within.

    Parameters
    ----------
    advice : str
        What does not fit, and what to do. Of several contexts the outermost speaks: it knows best
        what was to be done.

    Raises
    ------
    RuntimeError
        With the advice, and in brackets the first line of what the device says.

    Examples
    --------
    >>> with memory_explained("the tile does not fit: lower prediction.tile"):
    ...     torch.empty(10**16)
    Traceback (most recent call last):
        ...
    RuntimeError: the tile does not fit: lower prediction.tile (...)
    """
    try:
        yield
    except RuntimeError as problem:
        cause = problem.__cause__ or problem
        # Torch has no class for a CPU's memory.
        if not isinstance(cause, torch.OutOfMemoryError) and "DefaultCPUAll" not in str(cause):
            raise
        raise RuntimeError(f"{advice} ({str(cause).splitlines()[0]})") from cause


def hardware_name(device: torch.device) -> str:
    """Name the kind of hardware: the same kind computes the same bits.

    Examples
    --------
    >>> " (" in hardware_name(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    instructions = torch.backends.cpu.get_cpu_capability()
    native = ", bfloat16" if has_native_bfloat16("cpu") else ""
    return f"{_processor()} ({instructions}{native})"


def _processor() -> str:
    """Name the model of the CPU; Python knows it on some systems only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
