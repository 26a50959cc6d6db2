"""``open_clip:`` for pictures: the image tower of any open_clip model (CLIP, SigLIP, SigLIP 2, CoCa, EVA, ...).

``open_clip-tokens:`` gives its patches instead of one vector.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError, counted
from bundlecache.pretrained import no_remote_code, quiet

from .checkpoints import HUB_FILES, checkpoint_folder, load_failure, local_path
from .fingerprints import fingerprint
from .towers import ImageTower

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

MAX_SHOWN = 60  # letters of a wrong name in a message
PACKAGES = ("Pillow", "torchvision", "open_clip_torch")


def load(spec: EncoderSpec, options: Options) -> ImageTower:
    """An image tower; its vectors are what ``encode_image`` gives, before it may normalise them.

    Patches are those of the last block without CLS: of open_clip's own towers before the final norm (as
    transformers' ``last_hidden_state`` of CLIP), of timm's behind it (as that of SigLIP).
    """
    model, config, _ = load_model(spec)
    tower, tokens = model.visual, spec.kind == "open_clip-tokens"
    cause = {key: config.get(key) for key in ("embed_dim", "vision_cfg", "quick_gelu")}
    transform, steps = _transform(tower.preprocess_cfg)
    return ImageTower(
        spec,
        options,
        tower,
        _patches(spec, tower) if tokens else _vectors(tower),
        transform,
        f"{steps}; patches" if tokens else steps,
        fingerprint("open_clip", cause, tensors=tower.state_dict()),
        PACKAGES,
    )


def _transform(settings: dict[str, Any]) -> tuple[Callable[[Any], Any], str]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    steps = PreprocessCfg(**settings)
    told = (
        f"resize {steps.resize_mode} to {steps.size} {steps.interpolation}, fill {steps.fill_color}, "
        f"mean {steps.mean}, std {steps.std}"
    )
    return image_transform_v2(steps, is_train=False), told


def _vectors(tower: Any) -> Callable[[Any], Any]:
    def call(pixels: Any) -> Any:
        out = tower(pixels)
        return out[0] if isinstance(out, tuple) else out  # CoCa gives its tokens too

    return call


def _patches(spec: EncoderSpec, tower: Any) -> Callable[[Any], Any]:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if not isinstance(tower, (VisionTransformer, TimmModel)):
        raise EncoderError(
            f"The image tower of {spec.text!r} is no vision transformer, so it has no patches.",
            hint="type --encoder open_clip-tokens:ViT-L-14/openai, or open_clip: for one vector each",
        )
    normed = isinstance(tower, TimmModel)

    def call(pixels: Any) -> Any:
        out = tower.forward_intermediates(
            pixels, indices=1, normalize_intermediates=normed, intermediates_only=True, output_fmt="NLC"
        )
        return out["image_intermediates"][-1]

    return call


def load_model(spec: EncoderSpec) -> tuple[Any, dict[str, Any], str]:
    """A whole model by architecture and pretrained tag, from a local folder, or from a hub repository.

    A folder holds ``open_clip_config.json`` and the weights, as ``open_clip`` itself saves and publishes
    them. A bare weights file is not accepted: it does not say how pictures must be resized and normalised,
    and a guess gives wrong vectors without a word.

    Returns
    -------
    The model, the configuration it was made by, and the name by which open_clip finds its tokenizer.

    Raises
    ------
    EncoderError
        When there is no such architecture, tag, folder or repository, or it cannot be loaded.
    """
    schema, _, rest = spec.name.partition(":")
    if schema in ("local-dir", "hf-hub") or local_path(spec, spec.name).is_dir():
        folder = checkpoint_folder(
            spec, rest if schema in ("local-dir", "hf-hub") else spec.name, (*HUB_FILES, "*.bin")
        )
        return _from_folder(spec, folder)
    return _from_tag(spec)


def _from_folder(spec: EncoderSpec, folder: Path) -> tuple[Any, dict[str, Any], str]:
    name = f"local-dir:{folder}"
    with no_remote_code(), quiet():
        import open_clip

        try:
            config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
            if lacking := {"mean", "std"} - set(config.get("preprocess_cfg") or ()):
                raise ValueError(f"open_clip_config.json has no {' and '.join(sorted(lacking))} under preprocess_cfg")
            model = open_clip.create_model(name, precision="fp32", require_pretrained=True)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    return model, config["model_cfg"], name


def _from_tag(spec: EncoderSpec) -> tuple[Any, dict[str, Any], str]:
    with no_remote_code(), quiet(), warnings.catch_warnings():
        import open_clip

        warnings.simplefilter("ignore")  # of the activation, which is set right below
        arch, _, tag = spec.name.partition("/")
        if spec.revision is not None:
            raise EncoderError(f"{spec.text!r} has a revision; an open_clip tag is pinned by its name alone.")
        if arch not in open_clip.list_models():
            raise EncoderError(
                f"open_clip knows no model {arch[:MAX_SHOWN]!r}{_nearest(arch, open_clip.list_models())}; allowed are "
                f"{spec.kind}:ARCH/PRETRAINED, {spec.kind}:local-dir:FOLDER and {spec.kind}:hf-hub:ORG/NAME.",
                hint="to see all: python -c 'import open_clip; print(open_clip.list_models())'",
            )
        tags = open_clip.list_pretrained_tags_by_model(arch)
        if tag not in tags:
            raise EncoderError(
                f"{arch} has {counted(len(tags), 'checkpoint')} in open_clip{_nearest(tag, tags)}, none of them named "
                f"{tag[:MAX_SHOWN]!r}.",
                hint=f"to see all: python -c 'import open_clip; print(open_clip.list_pretrained_tags_by_model(\"{arch}\"))'",
            )
        quick = trained_with_quick_gelu(arch, tag)
        try:
            model = open_clip.create_model(
                arch, pretrained=tag, precision="fp32", require_pretrained=True, force_quick_gelu=quick
            )
        except Exception as error:
            repository = open_clip.get_pretrained_cfg(arch, tag).get("hf_hub", "").rpartition("/")[0] or "REPOSITORY"
            raise EncoderError(
                f"The weights of {spec.text!r} are not in the cache and cannot be downloaded.",
                hint=f"where there is a network, `hf download {repository} --local-dir FOLDER`; "
                f"then type --encoder {spec.kind}:local-dir:FOLDER",
            ) from error
        return model, {**open_clip.get_model_config(arch), **({"quick_gelu": True} if quick else {})}, arch


def _nearest(name: str, known: list[str]) -> str:
    """The three known names most like ``name``, in brackets; the first three where none is like it."""
    from difflib import get_close_matches

    close = get_close_matches(name[:MAX_SHOWN], known, n=3) or known[:3]
    return f" (for example {', '.join(close)})" if close else ""


def trained_with_quick_gelu(arch: str, tag: str) -> bool:
    """Whether a tag's weights were trained with QuickGELU, which the library merely warns of.

    ``ViT-B-32/openai`` means ``ViT-B-32-quickgelu/openai``: its weights under the other activation give
    vectors that look right and are not.
    """
    import open_clip

    config, weights = open_clip.get_model_config(arch), open_clip.get_pretrained_cfg(arch, tag)
    return bool(config.get("quick_gelu") or weights.get("quick_gelu"))
