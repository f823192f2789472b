"""Where it ran: figures are worth nothing without the machine, its load and its disk."""

import os
import platform
import statistics
import time
from pathlib import Path


def describe(folder: Path) -> dict[str, object]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "file_system": file_system(folder),
        "sync_ms": round(sync_milliseconds(folder), 3),
    }


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`: the mount with the longest matching path."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    path = folder.resolve()
    return max((mount for mount in mounts if path.is_relative_to(mount[0])), key=lambda mount: len(mount[0]))[1]


def sync_milliseconds(folder: Path, times: int = 100) -> float:
    """The median time to append 4 KiB and sync it: the floor under every durable latency."""
    probe, taken = folder / "sync-probe", []
    with probe.open("wb", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    probe.unlink()
    return statistics.median(taken) * 1000
