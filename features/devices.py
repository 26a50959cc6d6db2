"""Devices and forward passes: where a network runs, in which precision, and its output as numpy arrays."""

from __future__ import annotations

from typing import Any

from bundlecache.errors import EncoderError, first_line

DEVICES = ("cpu", "cuda", "mps")


def resolve_device(device: str) -> str:
    """``auto`` is the first CUDA device, or the CPU; a device that is asked for and absent is an error."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in DEVICES:
        raise EncoderError(
            f"{device!r} is no device; there are auto, {', '.join(DEVICES)}, cuda:1.", hint="type --device auto"
        )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EncoderError(
            f"The device {device!r} cannot be used here: {first_line(error)}.", hint="type --device cpu, or auto"
        ) from error
    return device


def forward_precision(device: str, dtype: str, precision: str = "auto") -> str:
    """The type of the forward pass; ``auto`` is half precision on CUDA if half is stored anyway, else float32."""
    if precision != "auto":
        return precision
    return "float16" if device.startswith("cuda") and dtype == "float16" else "float32"


def forward(module: Any, inputs: Any, device: str, compute: str) -> Any:
    """``module(inputs)`` on the device without gradients, its products in ``compute``; a tensor or a dict of tensors."""
    import torch

    if isinstance(inputs, dict):
        inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    else:
        inputs = inputs.to(device, non_blocking=True)
    half = torch.bfloat16 if compute == "bfloat16" else torch.float16
    with torch.inference_mode(), torch.autocast(device.split(":")[0], half, enabled=compute != "float32"):
        return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def as_tensor(output: Any) -> Any:
    """The projected vectors [n, d] of ``get_*_features``: a tensor before transformers 5, a pooled output since.

    Raises
    ------
    TypeError
        For anything else: a vector must never be guessed.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, torch.Tensor):
        return pooled
    raise TypeError(f"expected a tensor or an output with pooler_output, got {type(output).__name__}")


def to_numpy(tensor: Any) -> Any:
    """A tensor on any device as a float32 array."""
    return tensor.detach().float().cpu().numpy()


def measured_dim(encoder: Any, samples: list[Any]) -> int:
    """The width of an encoder's vectors, asked of one forward pass rather than of a configuration."""
    return int(encoder.encode(samples).shape[-1])
