"""What every benchmark here needs: the machine in words, its peak, medians, tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def describe(threads: int) -> dict[str, Any]:
    """The machine, the libraries and the commit that a result belongs to."""
    import transformers

    return {
        "processor": _processor(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def matmul_peak(dtype: torch.dtype, device: str, size: int = 2048, rounds: int = 15) -> float:
    """FLOP/s of a square matrix product, the best of several: what a step is measured against."""
    if device == "cuda":
        size = 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        left @ right
        _wait(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def bandwidth(threads: int, megabytes: int = 512, rounds: int = 7) -> float:
    """Bytes/s that are read from memory by so many threads, the best of several: no step of a model
    that is larger than the caches can read its weights faster."""
    torch.set_num_threads(threads)
    numbers = torch.ones(megabytes * 2**20 // 4)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - start)
    return numbers.nbytes / min(times)


def alternate(
    contestants: Sequence[str], rounds: int, measure: Callable[[str], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """A, B, C, A, B, C, ...: what slows the machine for a while slows each of them."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name in contestants:
            taken[name].append(measure(name))
    return taken


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Lowest and highest, as shares of the median."""
    middle = median(values)
    return f"{min(values) / middle:.2f}-{max(values) / middle:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def write(name: str, result: dict[str, Any]) -> Path:
    """`results/NAME.json`, beside the scripts."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    return file


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"{platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str:
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Until `lmapps serve` says at /ready that it is; it has two minutes."""
    import httpx

    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"the server at {url} was not ready in two minutes, or has ended")


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an ASGI application from a thread of this process: its address, on a free port."""
    import uvicorn

    # A client of the same process may be late by seconds: it must not send its next request on a
    # connection that is just being closed because nothing came.
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_keep_alive=600)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
