"""Modifiers that prune while a model trains: SparseML's, and those that llm-compressor kept of them."""

import math
from collections.abc import Iterator

from openwork.recipes.call import Call, Left, expression, names_in, number, selection, sparsity, steps
from openwork.recipes.patterns import pattern_of
from openwork.recipes.read import Modifier

_GRADUAL = {
    "GMPruningModifier": "GradualMagnitude",
    "LegacyGMPruningModifier": "GradualMagnitude",
    "MagnitudePruningModifier": "GradualMagnitude",
    "GlobalMagnitudePruningModifier": "GradualMagnitude",
    "StructuredPruningModifier": "GradualMagnitude",
    "MovementPruningModifier": "Movement",
}
_CURVES = {"cubic": "Cubic", "linear": "Linear"}


def gradual(modifier: Modifier) -> Iterator[Call | Left]:
    """A sparsity that rises from init_sparsity to final_sparsity; one call for each final sparsity."""
    kind, fields = modifier.kind, modifier.fields
    curve = str(fields.get("inter_func", fields.get("update_scheduler", "cubic")))
    if curve not in _CURVES:
        yield Left(
            f"its {curve!r} curve has no schedule here; Cubic and Linear are there, and Schedule is a base class"
        )
        return
    final = fields.get("final_sparsity")
    targets = names_in(fields.get("params", fields.get("targets")))
    if not isinstance(final, dict):
        yield _rising(modifier, curve, sparsity(kind, fields, "final_sparsity"), targets)
        return
    for value, params in final.items():
        share = sparsity(kind, {"final_sparsity": value}, "final_sparsity")
        yield _rising(modifier, curve, share, names_in(params))


def _rising(modifier: Modifier, curve: str, final: float, targets: list[str]) -> Call:
    kind, fields, notes, options = modifier.kind, modifier.fields, [], []
    mask = fields.get("mask_type", fields.get("mask_structure"))
    if kind == "StructuredPruningModifier":
        mask = mask or "filter"
        notes.append("ow.shrink(model, sample) removes what is zero then")
        if fields.get("param_groups"):
            notes.append("param_groups are not translated: each layer ranks its own; ow.shrink removes what may go")
    pattern, final, remarks = pattern_of(mask, final)
    notes += remarks
    begin = max(0.0, number(kind, fields, "start_epoch", "start", default=0.0))
    end = number(kind, fields, "end_epoch", "end")
    every = number(kind, fields, "update_frequency", "update", default=-1.0)
    first = fields.get("init_sparsity", 0.0)
    if first == "__FROM_PARAM__":
        first = 0.0
        options.append("keep_zeros=True")
        notes.append("the zeros that are there stay, and the schedule begins at 0, below them")
    first = sparsity(kind, {"init_sparsity": first}, "init_sparsity")
    if end <= begin:
        schedule = expression("OneShot", f"{final:g}", at=steps(begin))
    else:
        named = {"begin": steps(begin), "end": steps(end), "every": steps(every, least=1)}
        if first:
            named["initial"] = f"{first:g}"
        schedule = expression(_CURVES[curve], f"{final:g}", **named)
    arguments: dict[str, str] = {}
    whole = kind.startswith("Global") or fields.get("global_sparsity") or fields.get("apply_globally")
    if whole and pattern is None:
        arguments["allocation"] = "ow.GlobalRanking()"
    elif whole:
        notes.append("a ranking of all layers together is left out, as the pattern gives every layer one sparsity")
    if pattern:
        arguments["pattern"] = pattern
    technique = _GRADUAL[kind]
    if technique == "GradualMagnitude":
        arguments["hidden"] = '"lost"'  # there a weight under the mask is 0, and never comes back
    else:
        notes.append("a weight under the mask keeps its value and may come back; there it was 0 and could not")
    if fields.get("leave_enabled", True) is False:
        notes.append("leave_enabled: False is not translated: masks stay until finalize()")
    call = expression(technique, schedule, **arguments)
    return Call(call, selection(targets), options=tuple(options), notes=tuple(notes))


def constant(modifier: Modifier) -> Iterator[Call | Left]:
    """Zeros that stay."""
    targets = names_in(modifier.fields.get("params", modifier.fields.get("targets")))
    call = expression("GradualMagnitude", "ow.Constant(0.0)")
    yield Call(call, selection(targets), options=("keep_zeros=True",))


def alternating(modifier: Modifier) -> Iterator[Call | Left]:
    """AC/DC: a dense phase first, a sparse one at the end."""
    kind, fields = modifier.kind, modifier.fields
    final = sparsity(kind, fields, "compression_sparsity")
    begin, end = (number(kind, fields, name) for name in ("start_epoch", "end_epoch"))
    length = number(kind, fields, "update_frequency")
    if length <= 0:
        raise ValueError(f"{kind} has update_frequency: {length:g}, and a phase must last; write its epochs")
    begin = max(0.0, begin)
    last = math.ceil((end - begin) / length) - 1  # the number of the last phase, of which the odd ones are sparse
    last -= last % 2 == 0
    if last < 1:
        yield Left("its epochs hold no sparse phase after a dense one; lengthen them")
        return
    pattern, final, notes = pattern_of(fields.get("mask_type"), final)
    first, final_phase = begin + length, begin + last * length
    if last == 1:
        schedule = expression("OneShot", f"{final:g}", at=steps(first))
    else:
        phases = {"begin": first, "end": final_phase, "sparse": length, "dense": length}
        schedule = expression("Phases", f"{final:g}", **{name: steps(value) for name, value in phases.items()})
    arguments = {} if fields.get("global_sparsity", True) and not pattern else {"allocation": "ow.Uniform()"}
    arguments |= {"pattern": pattern} if pattern else {}
    targets = names_in(fields.get("params"))
    if fields.get("momentum_buffer_reset", True) is False:
        notes = [
            *notes,
            "momentum begins anew when weights are released; momentum_buffer_reset: False is not translated",
        ]
    yield Call(expression("ACDC", schedule, **arguments), selection(targets), notes=tuple(notes))


def rigl(modifier: Modifier) -> Iterator[Call | Left]:
    """RigL, sparse from the first step."""
    kind, fields = modifier.kind, modifier.fields
    final = sparsity(kind, fields, "sparsity", "final_sparsity")
    every, stop = number(kind, fields, "update_frequency"), number(kind, fields, "end_epoch")
    schedule = expression("Constant", f"{final:g}", every=steps(every, least=1), stop=steps(stop))
    named = {}
    if str(fields.get("sparsity_strategy", "erdos_renyi_kernel")).startswith("erdos_renyi"):
        named["allocation"] = "ow.ERK()"
    named["fraction"] = f"{number(kind, fields, 'init_update_fraction', default=0.3):g}"
    note = "sparse from the first step, as in the paper; there the sparsity rose to its value by a cosine"
    yield Call(expression("RigL", schedule, **named), selection(names_in(fields.get("params"))), notes=(note,))


def top_kast(modifier: Modifier) -> Iterator[Call | Left]:
    """Top-KAST."""
    kind, fields = modifier.kind, modifier.fields
    every = number(kind, fields, "update_frequency", default=-1.0)
    decay = number(kind, fields, "active_weight_decay", default=1e-4)
    technique = expression(
        "TopKAST",
        f"ow.Constant({decay:g})",
        sparsity=f"{sparsity(kind, fields, 'forward_sparsity'):g}",
        backward_sparsity=f"{sparsity(kind, fields, 'backward_sparsity'):g}",
        every=steps(every, least=1),
    )
    notes = ["optimizer.step() adds the penalty, in the place of weight decay; the bench decays by the paper's 1/D"]
    if fields.get("global_sparsity", True):
        notes.append("each tensor has the sparsity; a ranking of all layers together is not translated")
    if str(fields.get("mask_type", "unstructured")) != "unstructured":
        notes.append(f"mask_type: {fields['mask_type']} is not translated: its zeros are unstructured")
    attach = "optimizer, penalty_gradient=True"
    yield Call(technique, selection(names_in(fields.get("params"))), attach=attach, notes=tuple(notes))


def _second_order(modifier: Modifier) -> Iterator[Call | Left]:
    yield Left("its schedule has gradients sampled at every update; ow.OBS prunes once, and again with keep_zeros=True")


def _layers(modifier: Modifier) -> Iterator[Call | Left]:
    yield Left("it takes whole layers out of the model, which is no sparsity; put nn.Identity() in their places")


TRANSLATIONS = {
    **dict.fromkeys(_GRADUAL, gradual),
    "ConstantPruningModifier": constant,
    "ACDCPruningModifier": alternating,
    "RigLPruningModifier": rigl,
    "TopKASTPruningModifier": top_kast,
    "OBSPruningModifier": _second_order,
    "MFACPruningModifier": _second_order,
    "MFACGlobalPruningModifier": _second_order,
    "LayerPruningModifier": _layers,
}
"""By the modifier's class."""
