"""``open_clip:``: the image tower of any open_clip model (CLIP, SigLIP, SigLIP 2, CoCa, EVA, ...)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache._torchvision import prepare
from bundlecache.errors import EncoderError

from .common import (
    HUB_FILES,
    computing,
    fingerprint,
    folder_of,
    forward,
    libraries,
    load_failure,
    measured_dim,
    quiet,
    resolve_device,
    to_numpy,
)
from .image import DECODING, read_picture

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from .common import Options, Spec

_FORMS = "open_clip:ARCH/PRETRAINED, open_clip:local-dir:FOLDER and open_clip:hf-hub:ORG/NAME"


def load(spec: Spec, options: Options) -> OpenClipImage:
    """An image tower by architecture and pretrained tag, from a local folder, or from a hub repository.

    A folder holds ``open_clip_config.json`` and the weights, as ``open_clip`` itself saves and publishes
    them. A bare weights file is not accepted: it does not say how pictures must be resized and normalised,
    and a guess gives wrong vectors without a word.
    """
    prepare()
    schema, _, rest = spec.name.partition(":")
    if schema in ("local-dir", "hf-hub") or Path(spec.name).expanduser().is_dir():
        folder = folder_of(spec, rest if schema in ("local-dir", "hf-hub") else spec.name, (*HUB_FILES, "*.bin"))
        model, config = _from_folder(spec, folder)
    else:
        model, config = _from_tag(spec)
    return OpenClipImage(spec, options, model.visual, config)


def _from_folder(spec: Spec, folder: Path) -> tuple[Any, Any]:
    with quiet():
        import open_clip

        try:
            config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"]
            model = open_clip.create_model(f"local-dir:{folder}", precision="fp32", require_pretrained=True)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    return model, config


def _from_tag(spec: Spec) -> tuple[Any, Any]:
    with quiet():
        import open_clip

        arch, _, tag = spec.name.partition("/")
        tags = open_clip.list_pretrained_tags_by_model(arch)
        if spec.revision is not None:
            raise EncoderError(f"{spec.text!r} has a revision; an open_clip tag is pinned by its name alone.")
        if arch not in open_clip.list_models():
            raise EncoderError(f"open_clip knows no model {arch!r}; allowed are {_FORMS}.")
        if tag not in tags:
            raise EncoderError(f"open_clip has {arch} as {', '.join(tags) or 'no pretrained model'}, not as {tag!r}.")
        try:
            model = open_clip.create_model(arch, pretrained=tag, precision="fp32", require_pretrained=True)
        except Exception as error:
            repository = open_clip.get_pretrained_cfg(arch, tag).get("hf_hub", "").rpartition("/")[0] or "REPOSITORY"
            raise EncoderError(
                f"The weights of {spec.text!r} are not in the cache and cannot be downloaded.",
                hint=f"where there is a network, `hf download {repository} --local-dir FOLDER`; "
                "then type --encoder open_clip:local-dir:FOLDER",
            ) from error
        return model, open_clip.get_model_config(arch)


class OpenClipImage:
    """Pictures -> the tower's projected vectors, as ``encode_image`` gives them, not normalised."""

    modality = "image"
    tokens = 0
    reading = DECODING

    def __init__(self, spec: Spec, options: Options, tower: Any, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.device = resolve_device(options.device)
        self.spec, self.dtype = spec.text, options.dtype
        self.batch_size = options.batch_size or (256 if self.device.startswith("cuda") else 16)
        self.compute = computing(self.device, self.dtype)
        cause = {key: config.get(key) for key in ("embed_dim", "vision_cfg", "quick_gelu")}
        self.fingerprint = fingerprint("open_clip", cause, tensors=tower.state_dict())
        steps = PreprocessCfg(**tower.preprocess_cfg)
        self.transform = image_transform_v2(steps, is_train=False)
        self.preprocess = (
            f"{self.reading}; resize {steps.resize_mode} to {steps.size} {steps.interpolation}, fill {steps.fill_color}, "
            f"mean {steps.mean}, std {steps.std}; forward {self.compute}; "
            f"{libraries('Pillow', 'torchvision', 'open_clip_torch')}"
        )
        self.tower = tower.eval().requires_grad_(False).to(self.device)
        self.dim = measured_dim(self, [self.transform(_blank())])

    def read(self, source: Path | str) -> Image:
        """The picture in full, RGB."""
        return read_picture(Path(source))

    def prepare(self, raw: Image) -> Any:
        """The picture as the tower reads it: a float32 tensor [3, s, s]."""
        return self.transform(raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, d]."""
        import torch

        out = forward(self.tower, torch.stack(samples), self.device, self.compute)
        return to_numpy(out[0] if isinstance(out, tuple) else out)  # CoCa gives its tokens too


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), "white")
