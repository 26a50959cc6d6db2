"""``timm:``: features of any network of timm, such as an ImageNet CNN, prepared as its own data configuration says.

``timm:MODEL/FILE`` is an architecture of timm and a file of its weights (.safetensors, .pth), ``timm:FOLDER`` a folder with
config.json and the weights as timm publishes them, ``timm:MODEL`` the weights of the hub or its cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import BundlecacheError, EncoderError, first_line
from bundlecache.foreign_tensors import read_tensors
from bundlecache.pretrained import no_remote_code, quiet

from .checkpoints import check_complete, load_failure, local_path
from .fingerprints import fingerprint
from .towers import ImageTower

if TYPE_CHECKING:
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

PACKAGES = ("Pillow", "torchvision", "timm")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADVICE = "type --encoder timm:MODEL/FILE, for example timm:mobilenetv3_small_100.lamb_in1k/model.safetensors"


def load(spec: EncoderSpec, options: Options) -> ImageTower:
    """A network without its classifier: its pooled features, a vector each.

    Raises
    ------
    EncoderError
        When timm knows no such model, or its weights are missing or do not fit.
    """
    with no_remote_code(), quiet():
        import timm
        from timm.data import create_transform, resolve_model_data_config

        name, weights, changes = _found(spec, timm)
        try:
            model = timm.create_model(name, pretrained=weights is None, num_classes=0, **changes)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            if weights is not None:
                raise load_failure(spec, weights, error) from error
            raise EncoderError(
                f"The weights of {spec.text!r} are not in the cache and cannot be downloaded.", hint=ADVICE
            ) from error
        if weights is not None:
            _fill(spec, model, weights)
        config = resolve_model_data_config(model)
        transform = create_transform(**config, is_training=False)
    told = {key: value for key, value in changes.items() if key != "pretrained_cfg"}
    shape = [told] if told else []  # such as the pooling, which no weight shows
    steps = ", ".join(f"{key} {config[key]}" for key in sorted(config))
    return ImageTower(
        spec,
        options,
        model,
        lambda pixels: model(pixels),
        transform,
        f"{steps}; pooled features",
        fingerprint("timm", name.partition(".")[0], *shape, tensors=model.state_dict()),
        PACKAGES,
    )


def _found(spec: EncoderSpec, timm: Any) -> tuple[str, Path | None, dict[str, Any]]:
    """The architecture, the file of its weights (None: those of the hub), and what its configuration changes."""
    folder = local_path(spec, spec.name)
    if spec.name and folder.is_dir():
        try:
            told = json.loads((folder / "config.json").read_text("utf-8"))
            name, config = told["architecture"], told["pretrained_cfg"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise load_failure(spec, folder, error) from error
        weights = next((folder / each for each in WEIGHTS if (folder / each).is_file()), folder / WEIGHTS[0])
        return name, weights, {"pretrained_cfg": config, **told.get("model_args", {})}
    name, slash, file = spec.name.partition("/")
    if not timm.is_model(name):
        raise EncoderError(
            f"timm knows no model {name[:60]!r}, and {spec.text!r} names no folder.",
            hint="to see all: python -c 'import timm; print(timm.list_models())'",
        )
    return name, local_path(spec, file) if slash else None, {}


def _fill(spec: EncoderSpec, model: Any, path: Path) -> None:
    """Load the weights of a file; what belongs to the classifier is left out, and nothing else may lack."""
    try:
        tensors = dict(read_tensors(path))
    except BundlecacheError as error:
        raise EncoderError(f"The weights of {spec.text!r} cannot be read: {error.message}", hint=ADVICE) from error
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    try:
        missing, _ = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise EncoderError(
            f"The weights of {spec.text!r} do not fit the model: {first_line(error)}.", hint=ADVICE
        ) from error
    check_complete(spec, [name for name in missing if not name.endswith("num_batches_tracked")])
