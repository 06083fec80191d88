from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gnnexport.errors import DataError, UsageError
from gnnexport.frontends import memory
from gnnexport.frontends.data import load_data


def good() -> dict[str, np.ndarray]:
    """Make the arrays of a small graph."""
    return {"x": np.ones((3, 2), dtype=np.float32), "edge_index": np.array([[0, 1], [1, 2]])}


def npy(array: np.ndarray) -> bytes:
    """Return the `.npy` bytes of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape: str, dtype: str = "<f4") -> bytes:
    """Return `.npy` bytes whose header claims a shape that the data has not."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def packed(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip file of members."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_x(x: bytes) -> Callable[[Path], Path]:
    """Write an `.npz` whose `x` is other bytes."""
    return lambda folder: packed(folder / "a.npz", {"x.npy": x, "edge_index.npy": npy(good()["edge_index"])})


def twice(folder: Path) -> Path:
    """Write an `.npz` with `x` in it twice."""
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy(good()["x"]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy(good()["x"]))
    return folder / "a.npz"


def pipe(folder: Path) -> Path:
    """Make a named pipe that nobody writes to."""
    os.mkfifo(folder / "a.npz")
    return folder / "a.npz"


def device(folder: Path) -> Path:
    """Link to a device that never ends."""
    (folder / "a.npz").symlink_to("/dev/zero")
    return folder / "a.npz"


def folder_of(name: str) -> Callable[[Path], Path]:
    """Make a folder with the name of a file."""

    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    """Write bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut(name: str, share: float) -> Callable[[Path], Path]:
    """Write a good file and cut off its end."""

    def make(folder: Path) -> Path:
        if name.endswith(".npz"):
            np.savez(folder / name, **good())
        else:
            torch.save(Data(**{key: torch.from_numpy(value) for key, value in good().items()}), folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])
        return folder / name

    return make


def changed(folder: Path) -> Path:
    """Write a good file and change one number in it, so that its sum is wrong."""
    np.savez(folder / "a.npz", **good())
    content = (folder / "a.npz").read_bytes()
    assert content.count(np.ones(6, dtype=np.float32).tobytes()) == 1
    (folder / "a.npz").write_bytes(content.replace(np.ones(6, dtype=np.float32).tobytes(), bytes(24)))
    return folder / "a.npz"


def sparse_claim(folder: Path) -> Path:
    """Write sparse features that claim 10^13 columns."""
    parts = {"x_data": np.ones(1, dtype=np.float32), "x_indices": np.zeros(1, dtype=np.int64)}
    parts |= {"x_indptr": np.array([0, 1, 1]), "x_shape": np.array([2, 10**13]), "edge_index": np.zeros((2, 0), int)}
    np.savez(folder / "a.npz", **parts)
    return folder / "a.npz"


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "absent.npz", "no such file"),
    "below_a_file": (lambda folder: raw("b", b"")(folder) / "a.npz", "no such file"),
    "null_in_name": (lambda folder: folder / "a\0b.npz", "no such file"),
    "folder": (folder_of("a.npz"), "is a folder, not a file"),
    "folder_pt": (folder_of("a.pt"), "is a folder, not a file"),
    "pipe": (pipe, "is a pipe or a device"),
    "device": (device, "is a pipe or a device"),
    "suffix": (raw("a.csv", b"1"), "unknown kind of data file '.csv'"),
    "no_suffix": (raw("a", b"1"), "unknown kind of data file ''"),
    "empty": (raw("a.npz", b""), "truncated or damaged"),
    "empty_pt": (raw("a.pt", b""), "is empty"),
    "magic": (raw("a.npz", b"\x93NUMPY nothing"), "truncated or damaged"),
    "magic_pt": (raw("a.pt", b"\x80\x02]."), "is not a zip file"),
    "cut_half": (cut("a.npz", 0.5), "truncated or damaged"),
    "cut_end": (cut("a.npz", 0.98), "truncated or damaged"),
    "cut_pt": (cut("a.pt", 0.7), "truncated or damaged"),
    "changed": (changed, "truncated or damaged"),
    "other_zip": (lambda folder: packed(folder / "a.npz", {"mimetype": b"text"}), "is a zip file without arrays"),
    "empty_zip": (lambda folder: packed(folder / "a.npz", {}), "is a zip file without arrays"),
    "npz_as_pt": (lambda folder: packed(folder / "a.pt", {"x.npy": npy(good()["x"])}), "outside a folder"),
    "twice": (twice, "holds the array 'x' twice"),
    "huge": (with_x(claiming("(1000000000000,)")), r"x claims the shape '\[1000000000000\]'"),
    "huge_twice": (with_x(claiming("(4611686018427387904, 4611686018427387904)")), "x claims the shape"),
    "negative": (with_x(claiming("(-4, -4)")), "x claims the shape"),
    "header_code": (with_x(claiming("__import__('os').getpid()")), "truncated or damaged"),
    "header_open": (with_x(claiming("(4")), "truncated or damaged"),
    "header_deep": (with_x(claiming("(" * 3000)), "truncated or damaged"),
    "header_type": (with_x(claiming("(4, 4)", "nonsense")), "truncated or damaged"),
    "header_kind": (with_x(claiming("'four'")), "truncated or damaged"),
    "version": (with_x(b"\x93NUMPY\x09\x00" + bytes(64)), "truncated or damaged"),
    "no_magic": (with_x(b"PK" + bytes(64)), "truncated or damaged"),
    "short_member": (with_x(b""), "truncated or damaged"),
    "lzma": (
        lambda folder: packed(folder / "a.npz", {f"{name}.npy": npy(value) for name, value in good().items()}, 14),
        "x is compressed in a way that numpy does not write",
    ),
    "objects": (with_x(claiming("(8,)", "|O")), "x holds Python objects.*Convert"),
    "sparse_claim": (sparse_claim, r"x of shape \[2, 10000000000000\], written out, would take 74,506 GiB"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_data_are_named_with_their_mend(name: str, tmp_path: Path) -> None:
    """Each file is an error of exit code 2 that names the file and the fault; none hangs or takes memory."""
    make, words = FILES[name]
    path = make(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        load_data(path)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(str(path))
    assert caught.value.problems[0].mend


def test_what_would_not_fit_into_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that packs a thousandfold is refused by the size it claims, before it is unpacked."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2000, 1000), dtype=np.float32), edge_index=good()["edge_index"])
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setattr(memory, "memory_bytes", lambda: 4_000_000)
    with pytest.raises(DataError, match="x would take 0 GiB where 0 GiB are to be had"):
        load_data(tmp_path / "a.npz")


def test_all_arrays_together_are_held_against_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that fit one by one but not together are refused, and small types count as what they become."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2_400_000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 200), np.float32), edge_index=np.zeros((2, 50_000), int))
    with pytest.raises(DataError, match="edge_index and what was read before it would take"):
        load_data(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 400), np.int8), edge_index=good()["edge_index"])
    with pytest.raises(DataError, match="x would take"):
        load_data(tmp_path / "a.npz")


def test_a_list_that_repeats_one_graph_is_not_written_out_beyond_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file can name one graph many times; all together are held against the memory first."""
    graph = Data(x=torch.ones(1000, 10), edge_index=torch.zeros(2, 0, dtype=torch.int64))
    torch.save([graph] * 1000, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    monkeypatch.setattr(memory, "memory_bytes", lambda: 20_000_000)
    with pytest.raises(DataError, match="the 1000 graphs together would take"):
        load_data(tmp_path / "a.pt")


def test_arrays_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    """Objects and damage in an array of another name do no harm."""
    others = {"smiles.npy": npy(np.array(["C", "CC"])), "notes.npy": b"nothing", "read.me": b"text"}
    members = {f"{name}.npy": npy(value) for name, value in good().items()}
    data, notes = load_data(packed(tmp_path / "a.npz", {**members, **others}))
    assert data.num_nodes == 3
    assert notes == ["data: not used: 'notes', 'read.me', 'smiles'"]


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_file_of_another_user_is_named(suffix: str, tmp_path: Path) -> None:
    """Without the right to read, the error says so rather than calling the file damaged."""
    path = raw(f"a{suffix}", b"PK")(tmp_path)
    path.chmod(0)
    program = f"""
import os, sys
from pathlib import Path
from gnnexport.errors import DataError
from gnnexport.frontends.arrays import read_arrays
if os.getuid() == 0:
    os.seteuid(65534)
try:
    read_arrays(Path({str(path)!r}))
except DataError as error:
    print(error)
"""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert "cannot be opened (permission denied). Let this user read it" in done.stdout, done.stderr


def test_storages_of_another_device_load_on_the_cpu(tmp_path: Path) -> None:
    """A graph saved on a GPU is a graph."""
    torch.save(Data(**{name: torch.from_numpy(value) for name, value in good().items()}), tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as old, zipfile.ZipFile(tmp_path / "gpu.pt", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            on_cpu, on_gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
            if info.filename.endswith(".pkl"):
                assert on_cpu in content
                content = content.replace(on_cpu, on_gpu)
            new.writestr(info.filename, content)
    data, _ = load_data(tmp_path / "gpu.pt")
    assert data.inputs["x"].device.type == "cpu"
