import errno
import os
from pathlib import Path

import pytest

from gnnexport.bundle import atomic, writer
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.writer import BundleWriter, check_destination
from gnnexport.errors import UsageError
from tests.unit.tiny_bundle import manifest, write_tiny_bundle


def names(folder: Path) -> list[str]:
    """List everything in a folder, hidden files too."""
    return sorted(os.listdir(folder))


def fail_halfway(path: Path, error: BaseException) -> None:
    """Raise an error when half a bundle is written."""
    with BundleWriter(path) as open_writer:
        (open_writer.folder / "model.onnx").write_bytes(b"half")
        raise error


def test_a_bundle_is_complete_or_absent(tmp_path):
    """Until commit nothing stands at the destination; after it, only the bundle."""
    with BundleWriter(tmp_path / "m.bundle") as open_writer:
        (open_writer.folder / "model.onnx").write_bytes(b"model")
        open_writer.seal(manifest())
        assert not (tmp_path / "m.bundle").exists()
        open_writer.commit()
    assert names(tmp_path) == ["m.bundle"]
    assert names(tmp_path / "m.bundle") == ["manifest.json", "model.onnx"]


def test_a_sealed_folder_can_be_opened_before_commit(tmp_path):
    """Measurements are taken on the files that ship, before they are put in place."""
    with BundleWriter(tmp_path / "m.bundle") as open_writer:
        (open_writer.folder / "model.onnx").write_bytes(b"model")
        sealed = open_writer.seal(manifest())
        assert open_bundle(open_writer.folder).manifest == sealed


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path, error):
    """An error or Ctrl-C in the middle leaves neither files nor the parent folders made on the way."""
    with pytest.raises(error):
        fail_halfway(tmp_path / "new" / "deep" / "m.bundle", error())
    assert names(tmp_path) == []


@pytest.mark.parametrize("parts", [["o" * 300], ["o" * 250], ["d" * 200] * 25])
def test_a_name_too_long_is_told(tmp_path, parts):
    """What the file system cannot hold is an error of the place, found early or when the folder is made."""
    with pytest.raises(UsageError, match=r"cannot be written \(File name too long\).*with -o"):
        fail_halfway(tmp_path.joinpath(*parts), ValueError())
    assert names(tmp_path) == []


def test_a_place_that_takes_no_folders_is_told(tmp_path, monkeypatch):
    """Some file systems answer that a folder does not exist when one is made in it."""

    def refuse(path, *args, **kwargs):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(No such file or directory\)"):
        fail_halfway(tmp_path / "m.bundle", ValueError())


def test_a_file_that_was_never_written_is_no_fault_of_the_place(tmp_path):
    """A missing file inside the bundle is a bug, told with its traceback: another folder would not help."""
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"), BundleWriter(tmp_path / "m") as open_writer:
        (open_writer.folder / "model.onnx").read_bytes()
    assert names(tmp_path) == []


def test_a_folder_that_was_taken_away_is_told(tmp_path):
    """Who removes the folder while it is written is told so."""

    def write() -> None:
        with BundleWriter(tmp_path / "m") as open_writer:
            open_writer.folder.rmdir()
            (open_writer.folder / "model.onnx").write_bytes(b"")

    with pytest.raises(UsageError, match="cannot be written"):
        write()


def test_nothing_is_left_without_commit(tmp_path):
    """Leaving the block without commit removes everything."""
    with BundleWriter(tmp_path / "m.bundle") as open_writer:
        (open_writer.folder / "model.onnx").write_bytes(b"half")
    assert names(tmp_path) == []


def test_disk_full_while_writing(tmp_path):
    """A full disk is a usage error with a mend, and leaves nothing."""
    with pytest.raises(UsageError, match=r"No space left.*Free some space"):
        fail_halfway(tmp_path / "m", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert names(tmp_path) == []


def test_disk_full_while_syncing_keeps_the_old_bundle(tmp_path, monkeypatch):
    """A disk that turns out full at the last moment leaves the old bundle as it was."""
    write_tiny_bundle(tmp_path / "m")
    old = open_bundle(tmp_path / "m").manifest

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_tiny_bundle(tmp_path / "m", force=True, seed=7)
    assert names(tmp_path) == ["m"]
    assert open_bundle(tmp_path / "m").manifest == old


def test_an_unrelated_os_error_is_not_blamed_on_the_output(tmp_path):
    """A file missing elsewhere keeps its own error."""
    with pytest.raises(FileNotFoundError), BundleWriter(tmp_path / "m"):
        (tmp_path / "absent").read_text()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EIO, errno.ENOTDIR])
def test_an_error_that_names_another_file(tmp_path, number):
    """What names a file elsewhere keeps its own error; in the bundle or its place it is the output that fails."""
    elsewhere = str(tmp_path / "elsewhere" / "data.npz")
    with pytest.raises(OSError, match="elsewhere"):
        fail_halfway(tmp_path / "m", OSError(number, os.strerror(number), elsewhere))
    for name in ("m", "m/model.onnx", "."):
        with pytest.raises(UsageError, match="cannot be written"):
            fail_halfway(tmp_path / "m", OSError(number, os.strerror(number), str(tmp_path / name)))
    with pytest.raises(UsageError, match="cannot be written"), BundleWriter(tmp_path / "m") as open_writer:
        raise OSError(number, os.strerror(number), os.fsencode(open_writer.folder / "model.onnx"))
    assert names(tmp_path) == []


def test_a_full_disk_is_told_whatever_it_names(tmp_path):
    """No room is no room, also where the error names a scratch file."""
    with pytest.raises(UsageError, match="Free some space"):
        fail_halfway(tmp_path / "m", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/weights"))


def test_force_replaces_a_bundle(tmp_path):
    """An existing bundle is refused without force and replaced with it."""
    write_tiny_bundle(tmp_path / "m", seed=1)
    with pytest.raises(UsageError, match=r"exists there already.*--force"):
        write_tiny_bundle(tmp_path / "m", seed=2)
    write_tiny_bundle(tmp_path / "m", seed=2, force=True)
    assert open_bundle(tmp_path / "m").manifest.seed == 2
    assert names(tmp_path) == ["m"]


def test_the_old_bundle_returns_when_the_swap_fails(tmp_path, monkeypatch):
    """When the new folder cannot be put in place, the old bundle is put back."""
    write_tiny_bundle(tmp_path / "m", seed=1)
    rename = Path.rename

    def failing(self, target):
        if self.suffix == ".tmp":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(writer.Path, "rename", failing)
    with pytest.raises(UsageError, match="may write to"):
        write_tiny_bundle(tmp_path / "m", seed=2, force=True)
    assert open_bundle(tmp_path / "m").manifest.seed == 1
    assert names(tmp_path) == ["m"]


def test_other_folders_are_never_replaced(tmp_path):
    """A folder with other files is refused, with force too."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(UsageError, match=r"other files in it.*-o"):
            check_destination(tmp_path / "m", force=force)


def test_an_empty_folder_is_taken(tmp_path):
    """An empty folder may become the bundle."""
    (tmp_path / "m").mkdir()
    write_tiny_bundle(tmp_path / "m")
    assert open_bundle(tmp_path / "m")


def test_files_in_the_way(tmp_path):
    """A file at the destination or above it is refused by name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"), BundleWriter(tmp_path / "file"):
        pass
    with pytest.raises(UsageError, match=r"file' is a file, not a folder.*-o"), BundleWriter(tmp_path / "file" / "m"):
        pass
    assert names(tmp_path) == ["file"]


def test_the_root_is_no_bundle():
    """A destination without a name of its own is refused."""
    with pytest.raises(UsageError, match="Choose a folder inside it"):
        BundleWriter(Path("/"))


def test_seal_comes_after_the_last_file(tmp_path):
    """A file written after seal would have no hash, so commit refuses it."""
    with BundleWriter(tmp_path / "m") as open_writer:
        open_writer.seal(manifest())
        (open_writer.folder / "late").write_text("")
        with pytest.raises(RuntimeError, match="after seal"):
            open_writer.commit()


def test_equal_contents_have_equal_digests(tmp_path):
    """The digest covers model and decisions; test data and reports do not change it."""
    first = open_bundle(write_tiny_bundle(tmp_path / "a")).manifest
    second = open_bundle(write_tiny_bundle(tmp_path / "b", embed=0)).manifest
    assert first.digest == second.digest
    assert first.files != second.files


def test_write_text_keeps_the_old_text_on_a_full_disk(tmp_path, monkeypatch):
    """A report that cannot be written leaves the old one."""
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UsageError, match="Free some space"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]
