"""Whether a ``torch.export`` archive can be read without unpickling or evaluating anything."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import torch

from napari_wsi_xai.errors import ModelFileError

__all__ = ["require_plain_archive"]

# Expressions for dynamic sizes go through sympy, which evaluates them with Python's builtins: only
# words that sympy's own notation of integers needs are let through.
_WORD = re.compile(r"[^\W\d]\w*")
_CHARACTERS = re.compile(r"[\w\s+\-*/(),<>='\"]*")
_KNOWN_WORDS = re.compile(
    r"[su]\d+|Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod"
    r"|oo|int_oo|positive|nonnegative|nonzero|integer|finite|True|False"
)
# A node's function is looked up by its dotted name, so that any of Python could be reached.
_KNOWN_TARGETS = re.compile(
    r"torch\.ops\.(?!load_library|import_module)\w+(\.\w+){1,2}|torch\.sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
)


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
        return _graph_is_plain(json.loads(content))
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


def _graph_is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        if not _expression_is_plain(str(value.get("expr_str", ""))):
            return False
        if "target" in value and "inputs" in value and not _target_is_plain(str(value["target"])):
            return False
        return all(_graph_is_plain(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_graph_is_plain(inner) for inner in value)
    return True


def _expression_is_plain(text: str) -> bool:
    known = all(_KNOWN_WORDS.fullmatch(word) for word in _WORD.findall(text))
    return known and _CHARACTERS.fullmatch(text) is not None


def _target_is_plain(name: str) -> bool:
    return "__" not in name and _KNOWN_TARGETS.fullmatch(name) is not None
