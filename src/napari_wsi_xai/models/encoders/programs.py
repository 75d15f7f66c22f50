"""Encoders that are serialized programs: TorchScript and ``torch.export`` files.

Such a file *is* a program, so running it runs what its author wrote; but it is read without
unpickling Python objects.
"""

from __future__ import annotations

__all__ = ["PROGRAM_TENSOR"]

PROGRAM_TENSOR = "program"
"""Name of the tensor of bytes that holds the program in a model bundle."""
