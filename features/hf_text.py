"""``hf:``: text encoders of transformers, pooled the way their sentence-transformers folder declares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError
from bundlecache.pretrained import load_model, load_tokenizer, quiet

from . import clip_text
from .checkpoints import check_complete, check_vocabulary, checkpoint_folder, load_failure, read_config
from .devices import forward, forward_precision, measured_dim, resolve_device, to_numpy
from .fingerprints import config_cause, fingerprint, package_versions
from .item_text import TEXT_READING, clean_text

if TYPE_CHECKING:
    import numpy as np

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options
    from .towers import TextTower

# In the order in which sentence-transformers joins them when a folder asks for several.
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
LONGEST = 512  # tokens; titles are far shorter


@dataclass(frozen=True)
class Declared:
    """What a folder says about turning token states into one vector."""

    transformer: str = ""  # sub-folder of the tokenizer and the weights
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[str, ...] = ()  # sub-folders of linear layers, in order
    normalize: bool = False
    max_length: int = LONGEST
    lower: bool = False
    prompt: str = ""

    @classmethod
    def read(cls, folder: Path) -> Declared:
        """From ``modules.json`` and its neighbours; a folder without them is pooled by the mean.

        Raises
        ------
        ValueError
            For a module or a pooling that is none of those above.
        """
        if not (folder / "modules.json").is_file():
            return cls()
        found: dict[str, Any] = {"dense": ()}
        for module in _json(folder / "modules.json"):
            kind, path = module["type"].rpartition(".")[2], module["path"]
            if kind == "Transformer":
                settings = _json(folder / path / "sentence_bert_config.json")
                found["transformer"] = path
                found["max_length"] = min(settings.get("max_seq_length") or LONGEST, LONGEST)
                found["lower"] = bool(settings.get("do_lower_case", False))
            elif kind == "Pooling":
                found["pooling"] = _poolings(_json(folder / path / "config.json"))
            elif kind == "Dense":
                found["dense"] += (path,)
            elif kind == "Normalize":
                found["normalize"] = True
            elif kind != "Dropout":
                raise ValueError(f"modules.json asks for {kind}, which is not supported")
        prompts = _json(folder / "config_sentence_transformers.json")
        found["prompt"] = prompts.get("prompts", {}).get(prompts.get("default_prompt_name") or "", "")
        return cls(**found)


def _poolings(settings: dict[str, Any]) -> tuple[str, ...]:
    named = settings.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else list(named or [])
    chosen = chosen or [mode for flag, mode in POOLINGS.items() if settings.get(flag)] or ["mean"]
    if unknown := set(chosen) - set(POOLINGS.values()):
        raise ValueError(f"its pooling {', '.join(sorted(unknown))} is not supported")
    return tuple(chosen)


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def load(spec: EncoderSpec, options: Options) -> HfText | TextTower:
    """Any transformers text encoder: a folder as ``save_pretrained`` or sentence-transformers writes it, or a hub id.

    A folder of CLIP or SigLIP gives their text tower, by their own rules: see :mod:`bundlecache.features.clip_text`.
    """
    folder = checkpoint_folder(spec)
    if (folder / "config.json").is_file():
        config = read_config(spec, folder)
        if config.model_type in clip_text.MODELS:
            return clip_text.load(spec, options, folder, config)
    with quiet():
        import torch

        try:
            declared = Declared.read(folder)
            place = folder / declared.transformer
            tokenizer = load_tokenizer(place)
            loaded = load_model("AutoModel", place, dtype=torch.float32)
            head = [_dense(folder / path) for path in declared.dense]
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    model = loaded.model
    if hasattr(model.config, "vision_config") or hasattr(model.config, "audio_config"):
        raise EncoderError(
            f"{spec.text!r} is a {model.config.model_type} model of several modalities, not a text encoder.",
            hint="type --encoder hf:FOLDER with a BERT-like model, CLIP or SigLIP",
        )
    check_complete(spec, loaded.missing, unused=("pooler.", "decoder."))
    check_vocabulary(spec, tokenizer)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return HfText(spec, options, model, tokenizer, declared, torch.nn.Sequential(*head))


def _dense(folder: Path) -> Any:
    """A sentence-transformers ``Dense`` module: linear, then its activation."""
    import torch
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    weights = load_file(file) if file.is_file() else torch.load(folder / "pytorch_model.bin", weights_only=True)
    settings = _json(folder / "config.json")
    linear = torch.nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    linear.load_state_dict({k.removeprefix("linear."): v for k, v in weights.items()})
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in ("Tanh", "Identity", "ReLU", "GELU", "SiLU", "Sigmoid"):
        raise ValueError(f"its activation {activation} is not supported")
    return torch.nn.Sequential(linear, getattr(torch.nn, activation)())


class HfText:
    """Titles -> one pooled vector each, with the pooling, head and normalisation of the folder."""

    modality = "text"
    tokens = 0
    reading = TEXT_READING

    def __init__(
        self, spec: EncoderSpec, options: Options, model: Any, tokenizer: Any, declared: Declared, head: Any
    ) -> None:
        self.device = resolve_device(options.device)
        self.spec, self.dtype, self.declared = spec.text, options.dtype, declared
        self.batch_size = options.batch_size or (256 if self.device.startswith("cuda") else 32)
        self.compute = forward_precision(self.device, self.dtype, options.precision)
        # A pooler is never used, and random in checkpoints that lack it.
        weights = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler.")}
        weights |= {f"head.{name}": value for name, value in head.state_dict().items()}
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.fingerprint = fingerprint(
            "hf text", config_cause(model.config), repr(declared), str(head), vocabulary, tensors=weights
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        positions = getattr(model.config, "max_position_embeddings", None) or LONGEST
        self.max_length = min(declared.max_length, tokenizer.model_max_length, positions)
        self.tokenizer = tokenizer
        self.preprocess = (
            f"{self.reading}, {'lower-cased, ' if declared.lower else ''}prompt {declared.prompt!r}, at most {self.max_length} tokens, "
            f"pooling {'+'.join(declared.pooling)}, {len(declared.dense)} dense, "
            f"{'normalised' if declared.normalize else 'not normalised'}; forward {self.compute}; "
            f"{package_versions('transformers', 'tokenizers')}"
        )
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.head = head.eval().requires_grad_(False).to(self.device)
        self.call = self._vectors
        self.dim = measured_dim(self, [self.prepare("a")])

    def read(self, source: Path | str) -> str:
        """The title without surrounding space."""
        return clean_text(source)

    def prepare(self, raw: str) -> str:
        """The title with the folder's prompt; tokens are made per batch, where padding is known."""
        return self.declared.prompt + (raw.lower() if self.declared.lower else raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, d]."""
        return to_numpy(forward(self.call, self.tokenize(samples), self.device, self.compute))

    def tokenize(self, samples: list[str]) -> dict[str, Any]:
        """The tokens of prepared titles and their mask, int64 [n, t]."""
        options = {"padding": True, "truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
        return dict(self.tokenizer(samples, **options))

    @property
    def module(self) -> Any:
        """The network; the dense layers behind its pooling are not part of it."""
        return self.model

    def _vectors(self, **tokens: Any) -> Any:
        import torch

        states = self.model(**tokens).last_hidden_state.float()  # [n, t, h]
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # [n, t, 1]
        pooled = torch.cat([pool(states, mask, mode) for mode in self.declared.pooling], dim=-1)
        vectors = self.head(pooled)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.declared.normalize else vectors


def pool(states: Any, mask: Any, mode: str) -> Any:
    """Token states [n, t, h] and their mask [n, t, 1] -> [n, h], with right padding."""
    import torch

    if mode == "cls":
        return states[:, 0]
    if mode == "max":
        return states.masked_fill(mask == 0, -torch.inf).amax(dim=1)
    if mode == "lasttoken":
        last = mask.sum(dim=1).long() - 1  # [n, 1]
        return states.gather(1, last.unsqueeze(-1).expand(-1, 1, states.shape[-1])).squeeze(1)
    if mode == "weightedmean":
        mask = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=mask.dtype).view(1, -1, 1)
    count = mask.sum(dim=1).clamp(min=1e-9)
    return (states * mask).sum(dim=1) / (count.sqrt() if mode == "mean_sqrt_len" else count)
