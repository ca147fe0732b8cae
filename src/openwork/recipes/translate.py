"""A recipe as Python that calls openwork."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from openwork.recipes import gradual, once
from openwork.recipes.call import STEPS, Call, Left, names_in
from openwork.recipes.read import Modifier, Stage

_TRANSLATIONS: dict[str, Callable[[Modifier], Iterator[Call | Left]]] = {
    **gradual.TRANSLATIONS,
    **once.TRANSLATIONS,
}
# What belongs to a training loop has equivalents in torch, not in openwork.
_LOOP = ("EpochRange", "LearningRate", "Trainable", "SetWeightDecay", "Distillation", "Logarithmic", "SetParam")
_QUANTISING = ("Quantization", "GPTQ", "AWQ", "SmoothQuant", "SpinQuant", "QuIP", "AutoRound", "Quantisation")
_NAMED = '''
def named(targets, ignored=()):
    """Selects matrices by name, or by the class or name of a module around them; "re:" begins a regular expression."""

    def fits(pattern, name, module):
        parts = name.split(".")
        names = [type(module).__name__, *(".".join(parts[:count]) for count in range(1, len(parts) + 1))]
        return any(re.match(pattern[3:], one) if pattern.startswith("re:") else pattern == one for one in names)

    def select(name, parameter, module):
        fitting = [any(fits(pattern, name, module) for pattern in patterns) for patterns in (targets, ignored)]
        return fitting == [True, False] and ow.weight_matrices(name, parameter, module)

    return select

'''


@dataclass(frozen=True)
class Translation:
    """A recipe's equivalent.

    Args:
        code: The Python.
        missing: The modifiers that have no equivalent in it, and why.
        pruning: How many calls prune.
    """

    code: str
    missing: tuple[str, ...]
    pruning: int


def translate(stages: Sequence[Stage], *, source: str, steps_per_epoch: int | None = None) -> Translation:
    """The Python for a recipe.

    It takes ``model``, ``optimizer``, ``loader`` and ``train``, your own training loop, from your script; a one-shot
    modifier takes ``batches``.

    Args:
        stages: What `read_recipe` returned.
        source: The recipe's name, for the first line.
        steps_per_epoch: How many optimizer steps an epoch has; None for the length of ``loader``.

    Raises:
        ValueError: If a modifier lacks a field, or a value makes no sense.
    """
    body: list[str] = []
    missing: list[str] = []
    pruning = 0
    for stage in stages:
        found = [(modifier, part) for modifier in _apart(stage.modifiers) for part in translated(modifier)]
        found = [(modifier, _after(modifier, part, found[:place])) for place, (modifier, part) in enumerate(found)]
        if stage.name:
            body += ["", f"# Stage {stage.name}"]
        body += _stage(found)
        missing += [f"{one.kind}: {part.reason}" for one, part in found if isinstance(part, Left) and part.missing]
        pruning += sum(isinstance(part, Call) for _, part in found)
    text = "\n".join(body)
    head = [f"# The equivalent of {source}, printed by `openwork recipe`."]
    imports = ["import re"] * ("named(" in text) + [""] * ("named(" in text)
    imports += ["from torch import nn", ""] * ("nn." in text) + ["import openwork as ow"]
    lines = [*head, *imports]
    if "named(" in text:
        lines += ["", *_NAMED.rstrip("\n").split("\n"), "", ""]
    if STEPS in text:
        length = "len(loader)  # optimizer steps: fewer where gradients accumulate" if steps_per_epoch is None else ""
        lines += [""] * bool(lines[-1]) + [f"{STEPS} = {length or steps_per_epoch}"]
    code = "\n".join([*lines, *body]).rstrip() + "\n"
    return Translation(code, tuple(missing), pruning)


def translated(modifier: Modifier) -> list[Call | Left]:
    """What a modifier becomes.

    Raises:
        ValueError: If it lacks a field, or a value makes no sense.
    """
    kind = modifier.kind
    if kind == "MagnitudePruningModifier" and "sparsity" in modifier.fields:
        return [
            Left("a MagnitudePruningModifier has init_sparsity, final_sparsity and epochs; this has a sparsity alone")
        ]
    if kind in _TRANSLATIONS:
        return list(_TRANSLATIONS[kind](modifier))
    if any(word in kind for word in _QUANTISING):
        return [Left("openwork does not quantise; do that after finalize(), on the plain model")]
    if any(word in kind for word in _LOOP):
        return [Left("it belongs to your training loop, where torch has it", missing=False)]
    return [Left("openwork has nothing like it")]


def _apart(modifiers: Sequence[Modifier]) -> list[Modifier]:
    """The modifiers, where a weight that several of them name is left to the one with the highest final sparsity."""

    def share(one: Modifier) -> float:
        final = one.fields.get("final_sparsity")
        return final if isinstance(final, float | int) else -1.0

    apart = []
    for one in modifiers:
        params = one.fields.get("params")
        others = [other for other in modifiers if other is not one and share(one) < share(other)]
        taken = {name for other in others for name in names_in(other.fields.get("params")) if share(one) >= 0}
        left = [name for name in names_in(params) if name not in taken]
        changed = isinstance(params, list) and left and len(left) < len(params)
        apart.append(Modifier(one.kind, {**one.fields, "params": left}) if changed else one)
    return apart


def _after(modifier: Modifier, part: Call | Left, before: Sequence[tuple[Modifier, Call | Left]]) -> Call | Left:
    """The part, unless an earlier one of its stage already holds the same weights."""
    if not isinstance(part, Call) or part.once:
        return part
    earlier = [(one, call) for one, call in before if isinstance(call, Call) and not call.once]
    if "keep_zeros=True" in part.options and "Constant(0.0)" in part.technique and earlier:
        return Left("masks stay until finalize(), so that nothing has to hold them", missing=False)
    same = [one for one, call in earlier if call.select == part.select]
    if not same:
        return part
    final = modifier.fields.get("final_sparsity")
    if final == modifier.fields.get("init_sparsity") == same[-1].fields.get("compression_sparsity"):
        return Left("the last phase of AC/DC is sparse and lasts, so that nothing has to follow it", missing=False)
    return Left("a weight has one schedule, and the call before this one has these weights; give it the whole curve")


def _stage(found: Sequence[tuple[Modifier, Call | Left]]) -> list[str]:
    """The lines of a stage: calls, training, and what ends it."""
    lines: list[str] = []
    training = [part for _, part in found if isinstance(part, Call) and not part.once]
    names = [f"sparsifier_{number}" if len(training) > 1 else "sparsifier" for number in range(1, len(training) + 1)]
    unused = iter(names)
    for modifier, part in found:
        lines += ["", f"# {modifier.kind}"]
        if isinstance(part, Left):
            lines[-1] += f": {part.reason}."
            continue
        lines += [f"# {note}." for note in part.notes]
        lines += _call(part, "" if part.once else next(unused))
    ends = [modifier.fields.get("end_epoch") for modifier, _ in found if modifier.kind == "EpochRangeModifier"]
    epochs = f"{ends[0]} epochs of it" if ends and ends[0] else "the recipe's epochs of it"
    if training:
        lines += ["", f"train(model, optimizer)  # your own loop, {epochs}", *(f"{name}.finalize()" for name in names)]
    return lines


def _call(part: Call, name: str) -> list[str]:
    """`ow.prune`, or `ow.sparsify` and `attach`."""
    arguments = [part.technique, *([f"select={part.select}"] if part.select else []), *part.options]
    if part.once:
        arguments.append("batches=batches")
    function = "ow.prune" if part.once else f"{name} = ow.sparsify"
    lines = [f"{function}(", "    model,", *(f"    {argument}," for argument in arguments), ")"]
    return lines if part.once else [*lines, f"{name}.attach({part.attach})"]
