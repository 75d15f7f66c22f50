"""Whether a ``torch.export`` archive can be read without unpickling or evaluating anything."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import torch

from napari_wsi_xai.errors import ModelFileError

__all__ = ["require_plain_archive"]

# Expressions for dynamic sizes go through sympy, which evaluates them with Python's builtins.
_WORD = re.compile(r"[^\W\d]\w*")
_CHARACTERS = re.compile(r"[\w\s+\-*/(),<>=]*")
_KNOWN_WORDS = re.compile(r"([su]\d+|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod|oo|int_oo)")


def require_plain_archive(program: bytes, name: str) -> None:
    """Refuse an archive that holds pickled objects or unusual expressions.

    The archive is read with PyTorch's own reader, so that both see the same records.

    Raises
    ------
    ModelFileError
        It does, or it is no such archive.
    """
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(program))
        records = {record: reader.get_record(record) for record in reader.get_all_records()}
    except (RuntimeError, EOFError) as error:
        raise ModelFileError(f"{name!r} is not a readable torch.export archive.") from error
    if "archive_format" not in records:
        raise ModelFileError(
            f"{name!r} is no torch.export archive of PyTorch 2.8 or later: export it again."
        )
    for record, content in records.items():
        if not _is_plain(record, content):
            raise ModelFileError(
                f"{name!r} holds Python objects or code besides its graph ({record!r}) and was "
                "not loaded: export it again without sample inputs or custom objects."
            )


def _is_plain(record: str, content: bytes) -> bool:
    if record.endswith("_config.json"):
        return _config_is_plain(json.loads(content))
    if record.startswith("models/"):
        return _expressions_are_plain(json.loads(content))
    if record.startswith("data/sample_inputs/"):
        return not content or _loads_weights_only(content)
    if record.startswith(("data/weights/", "data/constants/")):
        return not record.endswith(".pt")  # the older form, a pickle
    return not record.startswith("data/aotinductor/")  # compiled machine code


def _config_is_plain(config: Any) -> bool:
    entries = config.get("config", {}).values()
    return not any(entry.get("use_pickle") or _is_object(entry) for entry in entries)


def _is_object(entry: dict[str, Any]) -> bool:
    return not str(entry.get("path_name", "")).startswith(("weight_", "tensor_"))


def _loads_weights_only(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # a pickle may fail in any way
        return False
    return True


def _expressions_are_plain(value: Any) -> bool:
    if isinstance(value, dict):
        text = value.get("expr_str", "")
        words = _WORD.findall(text)
        known = all(_KNOWN_WORDS.fullmatch(word) for word in words)
        if not known or not _CHARACTERS.fullmatch(text):
            return False
        return all(_expressions_are_plain(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_expressions_are_plain(inner) for inner in value)
    return True
