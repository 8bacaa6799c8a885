import logging
import platform
import subprocess
import sys

import pytest
import torch
from gigaseg import runtime
from gigaseg.runtime import Runtime, arithmetic, choose_runtime


def settings(**changes):
    return {"device": "auto", "precision": "auto", **changes}


def test_automatic_choices_are_logged(caplog, monkeypatch):
    monkeypatch.setattr(runtime, "has_native_bfloat16", lambda _: True)
    caplog.set_level(logging.INFO, runtime.logger.name)
    assert choose_runtime(settings(device="cpu"), "prediction") == Runtime("cpu", "bfloat16")
    assert "prediction on cpu in bfloat16" in caplog.text


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_taken_where_it_is_native(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    expected = "bfloat16" if native else "float32"
    assert choose_runtime(settings(device="cpu"), "training").precision == expected


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = choose_runtime(settings(device=device, precision="float32"), "training")
    assert chosen.device == "cuda"


@pytest.mark.parametrize("section", ["training", "prediction"])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch, section):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_runtime(settings(precision="float32"), section).device == "cpu"
    with pytest.raises(ValueError, match=f"{section}.device is cuda, but PyTorch sees no CUDA"):
        choose_runtime(settings(device="cuda"), section)


def flags():
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("device", "deterministic", "expected"),
    [
        ("cuda", False, (False, True, False)),
        ("cuda", True, (False, False, True)),
        ("cpu", True, (True, True, False)),
    ],
)
def test_a_gpu_trains_in_full_float32_and_repeatably_if_wanted(
    monkeypatch, device, deterministic, expected
):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with arithmetic(device, deterministic=deterministic):
        assert flags() == expected
    assert flags() == (True, True, False)


# In a thread, as networks run in threads. The first use of memory costs a fault per page.
FAULTS = """
import resource, sys, threading
from gigaseg.runtime import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def use():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(100_000_000)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

faults = []
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(faults[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_pieces_of_memory_are_used_again():
    fresh, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("no", "keep")
    )
    assert kept <= fresh / 10
