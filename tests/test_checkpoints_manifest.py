"""Manifests are written whole, chain by digest, and record where a run went on."""

import dataclasses
import hashlib

import pytest

from msm_jax.checkpoints import manifest
from msm_jax.errors import InputError


def make(**changes):
    values = {
        "phase": "msm",
        "parent": None,
        "data": {"a.jsonl": "00"},
        "data_fingerprint": "f",
        "tokenizer_sha256": "t",
        "template_sha256": "c",
        "versions": manifest.versions(),
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
        "seed": 3,
        "device_kind": "cpu",
        "threads": 1,
    }
    return manifest.Manifest(**{**values, **changes})


def test_lineage_is_the_digest_of_the_parents_manifest(tmp_path):
    manifest.write(tmp_path / "a", make(phase="pretrain"))
    parent = manifest.parent_of(tmp_path / "a" / "checkpoints" / "12")
    assert (
        parent.manifest_sha256 == hashlib.sha256((tmp_path / "a" / "manifest.json").read_bytes()).hexdigest()
    )
    child = make(parent=parent)
    manifest.write(tmp_path / "b", child)
    assert dataclasses.asdict(manifest.read(tmp_path / "b")) == dataclasses.asdict(child) | {"continued": []}
    assert manifest.parent_of(tmp_path / "none" / "checkpoints" / "1").manifest_sha256 == ""


def test_going_on_elsewhere_is_recorded_once(tmp_path):
    manifest.write(tmp_path, make())
    manifest.record_continuation(tmp_path, 5, make(seed=3))
    assert manifest.read(tmp_path).continued == []
    for step in (7, 9):
        manifest.record_continuation(tmp_path, step, make(threads=2))
    assert manifest.read(tmp_path).continued == [{"step": 7, "threads": 2}]
    manifest.record_continuation(tmp_path, 11, make(threads=1))
    assert manifest.read(tmp_path).continued[-1] == {"step": 11, "threads": 1}


def test_what_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"parent": null}')
    with pytest.raises(InputError, match="not a manifest"):
        manifest.read(tmp_path)
