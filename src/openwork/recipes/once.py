"""One-shot modifiers: llm-compressor's, and those of SparseML's last releases."""

from collections.abc import Iterator
from dataclasses import replace

from openwork.recipes.call import Call, Left, expression, names_in, number, selection, sparsity
from openwork.recipes.patterns import pattern_of
from openwork.recipes.read import Modifier


def wanda(modifier: Modifier) -> Iterator[Call | Left]:
    """Wanda."""
    yield from _pruned(modifier, "Wanda", {}, [])


def sparse_gpt(modifier: Modifier) -> Iterator[Call | Left]:
    """SparseGPT."""
    kind, fields = modifier.kind, modifier.fields
    named = {
        "damping": f"{number(kind, fields, 'dampening_frac', 'percdamp', default=0.01):g}",
        "block": f"{number(kind, fields, 'block_size', default=128):g}",
    }
    notes = ["quantize is not translated: openwork does not quantise"] if fields.get("quantize") else []
    for part in _pruned(modifier, "SparseGPT", named, notes):
        if isinstance(part, Call) and fields.get("preserve_sparsity_mask"):
            part = replace(part, options=("keep_zeros=True",))
        yield part


def _pruned(modifier: Modifier, technique: str, named: dict[str, str], notes: list[str]) -> Iterator[Call | Left]:
    kind, fields = modifier.kind, modifier.fields
    if isinstance(fields.get("sparsity"), list | dict):
        yield Left("a sparsity for each layer in turn is not translated; name layers with PerLayer as allocation")
        return
    structured = fields.get("mask_structure", "0:0") != "0:0"
    share = sparsity(kind, fields, "sparsity", "final_sparsity", default=0.5 if structured else None)
    pattern, final, remarks = pattern_of(fields.get("mask_structure"), share)
    if final == 0:
        yield Left("its sparsity is 0, so that it prunes nothing; write the fraction of zeros")
        return
    if pattern:
        named = {"pattern": pattern, **named}
    profile = str(fields.get("sparsity_profile") or "").lower()
    if profile == "owl" and not pattern:
        outliers, spread = number(kind, fields, "owl_m"), number(kind, fields, "owl_lmbda")
        named = {"allocation": f"ow.OWL({outliers:g}, {spread:g})", **named}
    elif profile and profile != "owl":
        remarks = [*remarks, f"sparsity_profile: {profile} is left out; of the profiles only owl is translated"]
    elif profile:
        remarks = [*remarks, f"sparsity_profile: {profile} is left out, as n:m gives every layer one sparsity"]
    if fields.get("sequential_targets"):
        remarks = [*remarks, "sequential_targets: ow.prune finds the blocks; blocks=[...] names them otherwise"]
    select = selection(names_in(fields.get("targets", "Linear")), names_in(fields.get("ignore")))
    call = expression(technique, f"ow.OneShot({final:g})", **named)
    yield Call(call, select, once=True, notes=(*notes, *remarks))


TRANSLATIONS = {"WandaPruningModifier": wanda, "SparseGPTModifier": sparse_gpt}
"""By the modifier's class."""
