"""Options that commands that train have in common."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "DeviceOption",
    "RuleOption",
    "SettingOption",
    "SlideMppOption",
    "WatchOption",
    "WorkersOption",
]

SettingOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, before those of the recipe."),
]
WatchOption = Annotated[
    list[str] | None,
    typer.Option(metavar="SLIDE", help="Map this slide after every epoch; repeatable."),
]
RuleOption = Annotated[
    list[str] | None,
    typer.Option(metavar="WORDS", help='As in "stop when attention on excluded > 0.5".'),
]
SlideMppOption = Annotated[
    float | None, typer.Option("--mpp", metavar="UM", help="um/px of slides that do not say.")
]
WorkersOption = Annotated[int, typer.Option(metavar="N", help="Processes that read bags.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
