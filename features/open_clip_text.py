"""``open_clip:`` for titles: the text tower of any open_clip model, tokenised as the model declares."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bundlecache.errors import EncoderError, first_line
from bundlecache.pretrained import no_remote_code, quiet

from .checkpoints import check_vocabulary
from .fingerprints import fingerprint
from .open_clip_image import load_model
from .towers import TextTower

if TYPE_CHECKING:
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

PACKAGES = ("open_clip_torch", "transformers", "tokenizers")


def load(spec: EncoderSpec, options: Options) -> TextTower:
    """A text tower; its vectors are what ``encode_text`` gives without normalisation."""
    model, config, name = load_model(spec)
    with no_remote_code(), quiet():
        import open_clip

        try:
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # its files are not in the folder, or not in the cache and not to be had
            raise EncoderError(
                f"The tokenizer of {spec.text!r} cannot be loaded: {first_line(error)}.",
                hint=f"type --encoder {spec.kind}:local-dir:FOLDER, a folder that holds its tokenizer files too",
            ) from error
    model.visual = None
    inner = getattr(tokenizer, "tokenizer", None)  # of transformers, unless open_clip's own
    if inner is not None:
        check_vocabulary(spec, inner)
    words = type(tokenizer).__name__ if inner is None else inner.get_vocab()
    cause = {key: config.get(key) for key in ("embed_dim", "text_cfg", "quick_gelu")}
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("logit_")}
    clean = getattr(tokenizer, "clean_fn", None)
    return TextTower(
        spec,
        options,
        model,
        partial(model.encode_text, normalize=False),
        tokenizer,
        f"{type(tokenizer).__name__}, {clean.__name__.strip('_') if clean else 'as it is'}, {tokenizer.context_length} tokens, projected",
        fingerprint("open_clip text", cause, words, tensors=weights),
        PACKAGES,
    )
