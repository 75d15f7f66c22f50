"""Fields for what a head's name or file leaves open."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox, Container, SpinBox

from napari_wsi_xai.viewer.head_options import HEAD_OPTIONS, HeadOption
from napari_wsi_xai.viewer.widgets.rows import row

__all__ = ["OptionFields"]


class OptionFields(Container[Any]):
    """The options of one architecture at a time; of most there are none."""

    def __init__(self) -> None:
        self.fields: dict[tuple[str, str], ComboBox | SpinBox] = {}
        self._rows: dict[tuple[str, str], Container[Any]] = {}
        self._architecture = ""
        for architecture, options in HEAD_OPTIONS.items():
            for option in options:
                key = (architecture, option.name)
                self.fields[key] = _field(option)
                self._rows[key] = row(self.fields[key])
        super().__init__(widgets=list(self._rows.values()), labels=False)
        self.margins = (0, 0, 0, 0)

    def show_for(self, architecture: str) -> None:
        """Show this architecture's options; none for a name without any."""
        self._architecture = architecture
        for (owner, _), line in self._rows.items():
            line.visible = owner == architecture
        self.visible = architecture in HEAD_OPTIONS

    def values(self) -> tuple[tuple[str, str | int], ...]:
        """(name, value) of the options shown."""
        return tuple(
            (name, field.value)
            for (owner, name), field in self.fields.items()
            if owner == self._architecture
        )


def _field(option: HeadOption) -> ComboBox | SpinBox:
    if option.choices:
        return ComboBox(label=option.label, choices=option.choices, tooltip=option.tooltip)
    return SpinBox(
        label=option.label,
        value=option.default,
        min=option.lowest,
        max=option.highest,
        tooltip=option.tooltip,
    )
