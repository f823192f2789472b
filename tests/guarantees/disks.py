"""Small disks of our own: an ext4 in a file whose power can be cut, and a tmpfs that is soon full.

Rule: where they cannot be mounted (no root, no loop devices), the tests say so loudly and are skipped.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(source: str | Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(parents=True)
    done = subprocess.run(["mount", *options, str(source), str(at)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"!!! NOT PROVEN HERE: {source} cannot be mounted ({done.stderr.strip()}); run this as root")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def tmpfs(at: Path, mebibytes: int) -> Iterator[Path]:
    with mounted("none", at, "-t", "tmpfs", "-o", f"size={mebibytes}m") as folder:
        yield folder


def make_ext4(image: Path, mebibytes: int, mkfs: Path) -> None:
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run([mkfs, "-q", "-F", str(image)], check=True)


def copy_image(image: Path, to: Path) -> None:
    """What has reached the disk by now, and nothing that only the kernel knows."""
    subprocess.run(["cp", "--sparse=always", str(image), str(to)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is; remove it to give the room back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                size = size if file.write(b"\0" * size) == size else size >> 1
            except OSError:
                size >>= 1
    return ballast
