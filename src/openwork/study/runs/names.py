"""The public names of openwork's values in a run's description, so that files may move and no id changes."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import openwork

PLACES = {
    "Run": "openwork.study.runs.run:Run",
    "Pretrained": "openwork.study.runs.origin:Pretrained",
    "LotteryTicket": "openwork.study.runs.origin:LotteryTicket",
    "Rewound": "openwork.study.runs.origin:Rewound",
    "Retrained": "openwork.study.runs.origin:Retrained",
    "Scratch": "openwork.study.runs.origin:Scratch",
    "DigitsLeNet300100": "openwork.study.tasks.lenet:DigitsLeNet300100",
    "MnistLeNet300100": "openwork.study.tasks.lenet:MnistLeNet300100",
    "MnistLeNet5Caffe": "openwork.study.tasks.lenet:MnistLeNet5Caffe",
    "ImagesLeNet300100": "openwork.study.tasks.lenet:ImagesLeNet300100",
    "Cifar10Vgg": "openwork.study.tasks.cifar10:Cifar10Vgg",
    "Cifar10WideResNet": "openwork.study.tasks.cifar10:Cifar10WideResNet",
    "Cifar10SmallResNet": "openwork.study.tasks.cifar10:Cifar10SmallResNet",
    "Cifar10ResNet": "openwork.study.tasks.cifar10_resnet:Cifar10ResNet",
    "ImageNetResNet": "openwork.study.tasks.imagenet:ImageNetResNet",
    "NumberWords": "openwork.study.tasks.number_words:NumberWords",
    "TextTranslation": "openwork.study.tasks.wmt:TextTranslation",
}
"""The places of the study's values that a run may hold; those of the library are in `openwork.__all__`."""


def name_of(value: type | Callable[..., Any]) -> str:
    """The public name of openwork's class or function, or ``module:name`` of anybody else's.

    Raises:
        ValueError: If the value has no such name.
    """
    place, name = f"{value.__module__}:{value.__qualname__}", value.__name__
    if "<" in place:
        raise ValueError(f"{value.__qualname__} has no importable name; define it at the top of a module")
    if value.__module__ == "__main__":
        raise ValueError(f"{name} is of the program itself, where no other finds it; move it to a module and import it")
    if not _is_there(value):
        raise ValueError(f"{place} names no or another object; give it that name at the top of its module")
    if value.__module__.partition(".")[0] != "openwork":
        return place
    if PLACES.get(name) == place or (name in openwork.__all__ and getattr(openwork, name) is value):
        return name
    raise ValueError(f"{place} has no public name for a run's description; add it to PLACES in {__name__}")


def _is_there(value: type | Callable[..., Any]) -> bool:
    """Whether the value is what its name names."""
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def named(name: str) -> Any:
    """Imports what a public name of `name_of` stands for, and returns it.

    Raises:
        ValueError: If the name is unknown.
    """
    if name in openwork.__all__:
        return getattr(openwork, name)
    if name not in PLACES:
        raise ValueError(f"the run uses {name}, which this openwork lacks; use the openwork that wrote it")
    module, _, name = PLACES[name].partition(":")
    return getattr(import_module(module), name)
