"""Arrays and tensors in files that other programs wrote: ``.npy``, ``.pt``, ``.bin`` and ``.safetensors``.

Nothing that such a file names is ever run (no pickled objects), nothing is allocated that the file does not hold, and
whatever is wrong with it is one sentence. torch is imported only where a file of tensors is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BundlecacheError, first_line
from .files import is_regular

if TYPE_CHECKING:
    import torch

NPY_MAGIC = b"\x93NUMPY"
SAVE_TENSOR = "save it again with torch.save(tensor, path), a dense tensor on the CPU"
SAVE_TENSORS = "save it again with safetensors or torch.save: a dictionary from names to dense tensors on the CPU"
UNNAMED = "weight"  # the name of the tensor of a file that holds one without a name
ZIP_SLACK_BYTES = 1 << 20


def read_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file, memory-mapped read-only where its type allows.

    Raises
    ------
    BundlecacheError
        When it is no such file, is cut off, or holds Python objects.
    """
    _check_file(path, "save it with numpy.save(path, array)")
    try:
        with path.open("rb") as file:
            magic = file.read(len(NPY_MAGIC))
        if magic != NPY_MAGIC:
            kind = "an .npz archive" if magic.startswith(b"PK") else "no file of numpy.save"
            raise ValueError(f"it is {kind}")
        try:
            loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:
            loaded = np.load(path, allow_pickle=False)  # an array of no elements cannot be mapped
    except Exception as error:  # numpy evaluates the header: SyntaxError, TokenError, OverflowError, MemoryError, ...
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BundlecacheError(
            f"{path} is no array that can be read: {reason}.", hint="save it with numpy.save(path, array)"
        ) from error
    return loaded


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; the one tensor of a file without names is called "weight".

    Raises
    ------
    BundlecacheError
        When it cannot be read without running code, is compressed, cut off or empty, or holds anything but dense
        tensors with data.
    """
    import torch

    loaded = _load(path, SAVE_TENSORS)
    if isinstance(loaded, torch.Tensor):
        loaded = {UNNAMED: loaded}
    if not isinstance(loaded, Mapping) or not loaded:
        raise BundlecacheError(f"{path} holds {_kind(loaded)}, not tensors by name.", hint=SAVE_TENSORS)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise BundlecacheError(
                f"{path} holds {_kind(value)} under {str(name)[:80]!r}, where a tensor is needed.", hint=SAVE_TENSORS
            )
        _check_tensor(f"The tensor {name[:80]!r} of {path}", value, SAVE_TENSORS)
    return {name: value.detach() for name, value in loaded.items()}


def read_tensor(path: Path) -> torch.Tensor:
    """The one tensor of a file: dense, with data, on the CPU.

    Raises
    ------
    BundlecacheError
        As `read_tensors`, and when the file holds several tensors.
    """
    import torch

    loaded = _load(path, SAVE_TENSOR)
    if isinstance(loaded, Mapping) and len(loaded) == 1:
        loaded = next(iter(loaded.values()))
    if not isinstance(loaded, torch.Tensor):
        raise BundlecacheError(f"{path} holds {_kind(loaded)}; needed is one tensor.", hint=SAVE_TENSOR)
    _check_tensor(f"The tensor of {path}", loaded, SAVE_TENSOR)
    return loaded.detach()


def _load(path: Path, hint: str) -> Any:
    """What the file holds; only tensors, numbers, texts, lists and dictionaries can come of it."""
    import torch

    _check_file(path, hint)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise BundlecacheError(f"{path} cannot be read as safetensors: {first_line(error)}.", hint=hint) from error
    _check_archive(path, hint)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundlecacheError(
            f"{path} cannot be loaded as plain tensors ({type(error).__name__}).", hint=hint
        ) from error


def _check_file(path: Path, hint: str) -> None:
    if not path.exists():
        raise BundlecacheError(f"There is no {path}.", hint=hint)
    if not is_regular(path):
        raise BundlecacheError(f"{path} is no regular file.", hint=hint)


def _check_archive(path: Path, hint: str) -> None:
    """torch.save compresses nothing, so what unpacks to more than the file's size was made to fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BundlecacheError(f"{path} cannot be read: {first_line(error)}.", hint=hint) from error
    if unpacked > path.stat().st_size + ZIP_SLACK_BYTES:
        raise BundlecacheError(
            f"{path} has {path.stat().st_size:,} bytes and says that it unpacks to {unpacked:,}, which torch.save never "
            "writes.",
            hint=hint,
        )


def _check_tensor(name: str, tensor: torch.Tensor, hint: str) -> None:
    import torch

    kind = (
        "a nested tensor"
        if tensor.is_nested
        else f"a tensor of the layout {str(tensor.layout).removeprefix('torch.')}"
        if tensor.layout != torch.strided
        else "a tensor without data (device meta)"
        if tensor.is_meta
        else "a quantised tensor"
        if tensor.is_quantized
        else "a tensor of complex numbers"
        if tensor.is_complex()
        else None
    )
    if kind is None and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = f"an expanded tensor of the shape {list(tensor.shape)}, of which the file holds a part"
    if kind is not None:
        raise BundlecacheError(f"{name} is {kind}; needed is a dense one with all its numbers.", hint=hint)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {len(value):,}" if value else "an empty dictionary"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
