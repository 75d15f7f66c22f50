"""How many numbers well-known networks describe a tile by. No torch here."""

from __future__ import annotations

import re

__all__ = ["ENCODER_LENGTHS", "encoders_of_length", "known_length"]

ENCODER_LENGTHS = {
    "resnet18": 512,
    "resnet34": 512,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "convnext_tiny": 768,
    "vit_b_16": 768,
    "densenet121": 1024,
    "convnext_base": 1024,
    "vit_l_16": 1024,
    "mobilenet_v2": 1280,
    "efficientnet_b0": 1280,
    "resnet50": 2048,
    "inception_v3": 2048,
    "bagnet9": 2048,
    "bagnet17": 2048,
    "bagnet33": 2048,
}
"""Length of the descriptor by the encoder's name; a selection."""

_NARROW_BAGNET = re.compile(r"bagnet(?:9|17|33)-([1-9]\d*)")


def known_length(encoder: str) -> int | None:
    """Length of a network's descriptor, where the name is one of those known here."""
    name = encoder.strip().lower()
    narrow = _NARROW_BAGNET.fullmatch(name)
    return 32 * int(narrow[1]) if narrow else ENCODER_LENGTHS.get(name)


def encoders_of_length(length: int) -> tuple[str, ...]:
    """Well-known networks whose descriptor has this length."""
    return tuple(name for name, known in ENCODER_LENGTHS.items() if known == length)
