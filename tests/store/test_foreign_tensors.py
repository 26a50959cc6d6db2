"""Files of tensors and arrays from elsewhere: dense data is read, everything else is one sentence."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
import torch

from bundlecache.errors import BundlecacheError
from bundlecache.foreign_tensors import read_array, read_tensor, read_tensors

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"


def test_dense_tensors_come_back_as_they_were(tmp_path):
    from safetensors.torch import save_file

    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, tmp_path / "x.bin")
    save_file(tensors, tmp_path / "x.safetensors")
    for name in ("x.bin", "x.safetensors"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], value) for key, value in tensors.items())
    torch.save(tensors["b"], tmp_path / "one.pt")
    assert list(read_tensors(tmp_path / "one.pt")) == ["weight"]
    torch.save(torch.nn.Parameter(tensors["a.weight"][:, 1:]), tmp_path / "view.pt")
    assert torch.equal(read_tensor(tmp_path / "view.pt"), tensors["a.weight"][:, 1:])


def _nested():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


STRANGE = {
    "meta": lambda: torch.ones(4, 3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "nested": _nested,
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "expanded": lambda: torch.ones(1).expand(1 << 40),
    "list": lambda: [torch.ones(2)],
    "text": lambda: "weights",
    "nothing": dict,
    "a dictionary in a dictionary": lambda: {"state": {"w": torch.ones(2)}},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_dense_tensor_is_one_sentence(tmp_path, kind: str):
    path = tmp_path / "x.pt"
    torch.save(STRANGE[kind](), path)
    for read in (read_tensors, read_tensor):
        with pytest.raises(BundlecacheError, match=r"x\.pt") as caught:
            read(path)
        assert caught.value.hint
        assert "\n" not in caught.value.message


def test_damaged_missing_and_endless_files_are_one_sentence(tmp_path):
    torch.save(torch.ones(1000), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:700])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    (tmp_path / "empty.pt").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for name in ("cut.pt", "cut.safetensors", "empty.pt", "pipe.pt", "zero.pt", "none.pt"):
        with pytest.raises(BundlecacheError):
            read_tensors(tmp_path / name)


def test_a_compressed_archive_is_refused_before_it_unpacks(tmp_path):
    torch.save(torch.zeros(4_000_000), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in source.namelist():
            bomb.writestr(entry, source.read(entry))
    with pytest.raises(BundlecacheError, match="unpacks to"):
        read_tensors(tmp_path / "bomb.pt")


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        _npy(HEADER % "-1, 3"),
        _npy(HEADER % "3, 3"),
        _npy(HEADER % "10**9, 3"),
        _npy("{'descr': '<f4', (("),
        _npy("[" * 3000),
        _npy("{'descr': 'O', 'fortran_order': False, 'shape': (1,), }") + b"c__main__\n",
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 99999999999999999999), }"),
    ],
    ids=["empty", "text", "negative", "cut off", "no literal", "broken", "deep", "objects", "overflow"],
)
def test_an_npy_file_that_lies_is_one_sentence(tmp_path, content: bytes):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(BundlecacheError, match=r"x\.npy is no array"):
        read_array(tmp_path / "x.npy")


def test_an_npz_archive_under_the_name_of_an_array_is_told(tmp_path):
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, a=np.ones(3))
    with pytest.raises(BundlecacheError, match="npz archive"):
        read_array(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.float32(3))
    assert read_array(tmp_path / "y.npy").shape == ()
