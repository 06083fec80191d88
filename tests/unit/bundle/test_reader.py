import json
import os

import pytest

from gnnexport.bundle.reader import open_bundle
from gnnexport.errors import UsageError
from tests.unit.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path):
    """A sound bundle."""
    return write_tiny_bundle(tmp_path / "m.bundle")


MANY = {"target": {"spec": "ort", "runtime": "ort", "model_file": "model.onnx", "threads": 10**12}}


def edit(bundle, **changes):
    """Change keys of the manifest."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_bundle_opens(bundle):
    """Manifest, decisions and vectors are read back."""
    opened = open_bundle(bundle)
    assert opened.decisions() == {"lowering": "dense"}
    assert len(opened.golden()) == 6
    assert opened.evaluation().metric == "accuracy"
    assert opened.report() is None
    assert opened.size_bytes == (bundle / "model.onnx").stat().st_size


def test_a_changed_file_is_refused(bundle):
    """One byte changed in place fails the hash."""
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    with pytest.raises(UsageError, match=r"SHA-256.*Copy the bundle again"):
        open_bundle(bundle)


def test_a_truncated_file_is_refused(bundle):
    """A file cut short fails on its size."""
    os.truncate(bundle / "golden.npz", 100)
    with pytest.raises(UsageError, match="has 100 bytes where the manifest says"):
        open_bundle(bundle)


def test_a_missing_file_is_refused(bundle):
    """A file that is listed has to be there."""
    (bundle / "eval.npz").unlink()
    with pytest.raises(UsageError, match="listed in the manifest but missing"):
        open_bundle(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret", "C:secret"])
def test_paths_outside_the_bundle_are_refused(bundle, path):
    """A manifest cannot make us read files elsewhere."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    edit(bundle, files=[{**files[0], "path": path}])
    with pytest.raises(UsageError, match="outside the bundle"):
        open_bundle(bundle)


def test_links_out_of_the_bundle_are_refused(bundle):
    """Nor can a link, even to equal bytes."""
    moved = (bundle / "model.onnx").rename(bundle.parent / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(moved)
    with pytest.raises(UsageError, match="outside the bundle"):
        open_bundle(bundle)


def test_an_unlisted_model_is_refused(bundle):
    """The model that runs has to be one whose hash was checked."""
    target = json.loads((bundle / "manifest.json").read_text())["target"]
    edit(bundle, target={**target, "model_file": "other.onnx"})
    with pytest.raises(UsageError, match=r"'other.onnx' is not among the files listed"):
        open_bundle(bundle)


def test_a_wrong_digest_is_refused(bundle):
    """The digest has to be that of the files listed."""
    edit(bundle, digest="0" * 64)
    with pytest.raises(UsageError, match="digest"):
        open_bundle(bundle)


def test_a_newer_schema_says_to_upgrade(bundle):
    """A bundle from the future names the cure."""
    edit(bundle, schema=2)
    with pytest.raises(UsageError, match=r"schema 2 is newer than 1.*pip install --upgrade gnnexport"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"outputs": []}, "outputs: "), ({"tolerance": -1}, "tolerance: "), (MANY, "target.threads: ")],
)
def test_what_no_bundle_says(bundle, change, words):
    """A model without an answer, and an error below zero, are damage: the first would end as a bug, the second as 5."""
    edit(bundle, **change)
    with pytest.raises(UsageError, match=words):
        open_bundle(bundle)


def test_keys_of_a_grown_schema_are_kept(bundle):
    """A schema may grow within its version."""
    edit(bundle, colour="green")
    assert open_bundle(bundle).manifest.model_extra == {"colour": "green"}


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not JSON"), ("[]", "no schema number"), ('{"schema": 1}', "required")]
)
def test_damaged_manifests(bundle, text, words):
    """A damaged manifest says what is wrong with it."""
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=words):
        open_bundle(bundle)


def test_places_without_a_bundle(tmp_path, bundle):
    """No folder, a file, an empty folder, and a folder of bundles each get their own mend."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, words in [
        (tmp_path / "absent", "no such bundle"),
        (tmp_path / "file", "a bundle is a folder"),
        (tmp_path / "empty", "not a bundle"),
        (tmp_path, "holds several bundles: m.bundle"),
    ]:
        with pytest.raises(UsageError, match=words):
            open_bundle(path)
