"""The paper's questions, each with its answer and openwork's, from published and own rows: docs/findings.md.

Where the large half has not been run, what one seed shows stands there, and that nothing is decided.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean, median

import cifar_tournament as residual
import large_study as large
from answer_rows import LENET, answered, at_level, at_levels, percent
from kept import lines_of
from large_failures import l0_said
from large_rows import Found
from large_study import BOTH, VD
from masks import section6_tests
from played import listed, plain
from seeds import RESULTS, Row, best, published_masks
from tournaments import compared, named_tests

from openwork.study.experiments import large_resnet50, large_transformer

HEADS = ("", "the paper, one run each", "openwork", "n", "decided", "what it does not show")
ASKED = (("magnitude", "lottery ticket"), ("lottery ticket", "scratch-e"), ("scratch-b", "scratch-e"))
"""The comparisons of section 6 that the paper makes."""
SMALL = "half the width, on a twentieth of the corpus; nothing of WMT14 as a whole"
UNLIKE = f"magnitude and random pruning have binary dropout, {VD} and L0 have none"
COPY = "a JPEG copy of CIFAR-10, a short training; nothing of ImageNet"
SHORT = "a JPEG copy of CIFAR-10, 8 epochs; nothing of longer trainings"
TWICE = "a ticket is trained twice"
EIGHT = f"{large_resnet50.SHORT} epochs, whose learning rate falls in steps"
JOINT = {
    BOTH: (BOTH, "of as many steps in all"),
    "ResNet-50": (large.SHORT, f"of {large_resnet50.EPOCHS} epochs, whose rate falls in another way,"),
}
"""Joint training beside a ticket and the training that found its mask."""
LOST = {"95 %": 32, "98 %": 53}
"""Settings of magnitude pruning that have no row in the paper's files: its appendix E.2 says that they diverged."""
_MEASURED = RESULTS.parent / "benchmarks" / "measured"
COSTS = tuple(_MEASURED / f"training-{name}.csv" for name in ("h200", "h200-variational", "h200-again"))


def leads() -> str:
    """Which technique leads where."""
    return answered(HEADS, [*_transformer(), *_resnet(), *_resnet20(), *_lenet()])


def _transformer() -> Iterator[Row]:
    for level in (0.5, 0.8, 0.9, 0.95, 0.98):
        keys = ("magnitude_pruning", "variational_dropout", "l0_regularization", "random_pruning")
        old = [best("transformer", key, level) for key in keys]
        said = f"magnitude {old[0]:.2f}, {VD} {old[1]:.2f}, L0 {old[2]:.2f}, random {old[3]:.2f}"
        found = [one for one in large.families()[BOTH] if one.level == level]
        what = f"Transformer, BLEU at {percent(level)}"
        yield _with_means(what, said, BOTH, ("magnitude", VD, "L0", "random"), found, f"{SMALL}; {UNLIKE}")


def _with_means(
    what: str, said: str, experiment: str, names: Sequence[str], found: list[large.Compared], lacks: str
) -> Row:
    """A row of the comparisons of one level, with the means of the techniques and which of them are sparser."""
    level = found[0].level
    means = {name: own for name in names if (own := large.at(experiment, name, level))}
    text = ", ".join(f"{name} {fmean(own.values()):.2f}" for name, own in means.items())
    _, _, differences, *rest = at_level(what, said, found, lacks, large.sparser(experiment, means, level))
    return what, said, f"{text}; {differences}" if text else differences, *rest


def _resnet() -> Iterator[Row]:
    for level in (0.5, 0.8, 0.9, 0.95, 0.98):
        old = [best("resnet50", key, level) for key in ("magnitude_pruning", "variational_dropout", "random_pruning")]
        said = f"magnitude {old[0]:.2f}, {VD} {old[1]:.2f}, random {old[2]:.2f}"
        found = [one for one in large.families()["ResNet-50"] if one.level == level]
        what = f"ResNet-50, accuracy at {percent(level)}"
        yield _with_means(what, said, large.SHORT, ("magnitude", "random", VD), found, COPY)


def _resnet20() -> Iterator[Row]:
    reference = plain(residual.REFERENCE)
    for level in residual.LEVELS:
        if not (found := {key: pair for key, pair in residual.against_reference().items() if key[2] == level}):
            continue
        words = residual.judged(level)
        text = f"better than {reference}: {listed(words['better']) or 'none'}; worse: {len(words['worse'])}"
        decided = f"yes, against {len(words['better']) + len(words['worse'])}"
        if words["not shown"]:
            decided += f"; not against {listed(words['not shown'])}"
        n = " or ".join(map(str, sorted({pair[0].n for pair in found.values()})))
        yield f"ResNet-20, accuracy at {percent(level)}", "not asked", text, n, decided, f"{SHORT}; {TWICE}"


def _resnet20_pairs(*pairs: tuple[str, str], lacks: str = SHORT) -> Iterator[Row]:
    for pair in pairs:
        if levels := residual.named_by_pair().get(pair):
            yield at_levels(pair, levels, network="ResNet-20", lacks=lacks, planned=residual.NAMED_LEVELS)


def _lenet() -> Iterator[Row]:
    for level in compared().levels:
        rest = {word: [plain(one.technique) for one in level.standings if one.verdict.startswith(word)
                       and one.technique != level.reference]
                for word in ("better", "undecided", "as good", "worse")}  # fmt: skip
        text = f"best on validation: {plain(level.reference)}; better than it: {listed(rest['better']) or 'none'}"
        unknown = rest["undecided"] + rest["as good"]
        decided = f"yes, against {len(rest['worse'])} that are worse"
        if unknown:
            decided += f"; not against {listed(unknown)}"
        yield f"LeNet-300-100 at {percent(level.level)}", "not asked", text, "20", decided, LENET


def allocations() -> str:
    """Whether a learned allocation beats one made by hand."""
    lines = []
    longer = best("resnet50", "magnitude_pruning_extended_nonuniform", 0.95)
    for level, extended in ((0.95, f"{longer:.2f}"), (0.98, "–")):  # at 98 % none was published
        uniform, dropout = (best("resnet50", key, level) for key in ("magnitude_pruning", "variational_dropout"))
        said = f"uniform {uniform:.2f}, extended and longer {extended}, {VD} {dropout:.2f}"
        found = [one for one in large.families()["layout"] if one.level == level]
        sparser = large.sparser(large.LONG, [VD], level)  # in 20 epochs it does not reach these levels
        lines.append(at_level(f"ResNet-50, layout and length at {percent(level)}", said, found, COPY, sparser))
    longest = large.families()["98 %"]
    if any(one.difference for one in longest):
        (cell,) = (own for (name, _), own in large.cells(large.rows(), large.LONGEST).items() if name == VD)
        zeros = fmean(large.number(row, "sparsity") for row in cell.values())
        what = "ResNet-50 at 98 %, 40 epochs, settings chosen from four each"
        lacks = f"whether any setting of {VD} has 98 %: none of the four is near; {COPY}"
        lines.append(at_level(what, said, longest, lacks, {VD: zeros}))
    lines += _resnet20_pairs(
        ("variational dropout", residual.UNIFORM),
        (residual.REFERENCE, residual.UNIFORM),
        (residual.RIGL, "RigL, uniform"),
    )
    lines += [at_levels(pair, levels) for pair, levels in named_tests().items()]
    return answered(HEADS, lines)


def kept_masks() -> str:
    """Whether tickets and scratch reach joint training."""
    lines = []
    for network, model, levels in ((BOTH, "transformer", (0.5, 0.8, 0.9)), ("ResNet-50", "resnet50", (0.8, 0.9, 0.95))):
        for level in levels:
            theirs = published_masks(model, level)
            said = (
                f"joint {theirs['magnitude']:.2f}; ticket {theirs['lottery ticket']:.2f}, scratch-e "
                f"{theirs['scratch-e']:.2f}, scratch-b {theirs['scratch-b']:.2f}"
            )
            found = [one for one in large.families()[f"{network}, masks"] if one.level == level]
            what = f"{network} at {percent(level)}"
            short = f"{large_transformer.MASK_STEPS:,} steps; {SMALL}" if network == BOTH else f"{EIGHT}; {COPY}"
            masks = f"masks of gradual magnitude pruning alone, {_replicas(network, level)}{_again(network, level)}"
            lacks = "; ".join((masks, short,
                               _twice(network, level)))  # fmt: skip
            lines.append(at_level(what, said, found, lacks, unit=" masks"))
    rewound = f"{SHORT}; rewound to 2 or 10 % of the steps, and {TWICE}: no joint training as long"
    lines += _resnet20_pairs((residual.TICKET, residual.REFERENCE), lacks=rewound)
    lines += [at_levels(pair, levels, " masks") for pair, levels in section6_tests().items() if pair in ASKED]
    return answered(("", "the paper: joint, the best run; means of 9 or 25 runs", *HEADS[2:]), lines)


def _networks(network: str, level: float) -> list[tuple[str, int, Found]]:
    """The kind, the number of the mask and the row of each network that keeps a mask's zeros at a level."""
    found = large.cells(large.rows(), f"{network}, masks")
    return [
        (kind, seed // 100 - 1, row)
        for (kind, setting), cell in found.items()
        if setting == f"{level:g}" and kind != "magnitude"
        for seed, row in cell.items()
    ]


def _replicas(network: str, level: float) -> str:
    """How many networks of each kind keep a mask's zeros at a level."""
    counts = Counter((kind, mask) for kind, mask, _ in _networks(network, level))
    few, most, planned = min(counts.values(), default=0), max(counts.values(), default=0), large_resnet50.REPLICAS
    there = "" if few == planned else f"{few} of " if few == most else f"{few} to {most} of "
    return f"{there}{planned} planned networks of each kind for a mask"


def _again(network: str, level: float) -> str:
    """How many of them keep the zeros of a repeated training of their mask; "" where none does."""
    masks = large.cells(large.rows(), f"{network}, masks").get(("magnitude", f"{level:g}"), {})
    kept = [(mask, row) for _, mask, row in _networks(network, level)]
    # The commit tells it: each machine that had not the masks of an earlier one ran a commit of its own.
    again = sum(row["commit"] != masks[mask]["commit"] for mask, row in kept if mask in masks)
    return f", {again} of {len(kept)} with the zeros of a repeated training of their mask" if again else ""


def _twice(network: str, level: float) -> str:
    """That a ticket is trained twice, and what joint training of as many steps, or a few more, has."""
    experiment, length = JOINT[network]
    ours, ticket = large.at(experiment, "magnitude", level), large.of_masks(network, "lottery ticket", level)
    if not (ours and ticket):
        return TWICE
    more = fmean(ours.values()) - fmean(ticket.values())
    return f"{TWICE}; magnitude pruning {length} has a mean {abs(more):.2f} {'higher' if more > 0 else 'lower'}"


def time() -> str:
    """What equal training time changes: cost of a step, and what longer training gives."""
    lines = []
    for name, said, unit in (
        ("L0", "magnitude trains 1.24 × faster (Transformer)", "ms a step"),
        ("variational dropout", "magnitude trains 1.65 × faster (Transformer)", "ms a step"),
        ("variational dropout", "more than 2 × the memory (ResNet-50)", "GiB"),
    ):
        ratios = [*_costs(name, unit)]
        what = f"{name}, {'time' if unit.startswith('ms') else 'memory'} of a step beside magnitude pruning"
        if ratios and not any(", openwork" in ratio for ratio in ratios):
            ratios.append("openwork's own step: not measured yet")
        text = "; ".join(ratios) or "not measured yet"
        n = "40 steps" if ratios and unit.startswith("ms") else "1" if ratios else "0"
        apart = ""
        if name == "variational dropout":
            apart = "masks and openwork's variational dropout in two runs, each by the dense steps of its own; "
        lacks = f"another program, another machine; {apart}not what quality a second buys"
        lines.append((what, said, text, n, "measured" if ratios else "not decided yet: not measured", lacks))
    old = [best("resnet50", key, 0.8) for key in ("magnitude_pruning", "magnitude_pruning_extended_nonuniform")]
    said = f"at 80 % from {old[0]:.2f} to {old[1]:.2f}, with 1.5 × the steps and another layout"
    found = [one for one in large.families()["layout"] if one.level == 0.8 and one.label.startswith("30")]
    lines.append(at_level("ResNet-50: 1.5 × the steps", said, found, COPY))
    return answered(HEADS, lines)


def failures() -> str:
    """Whether L0 trains ResNet-50, and whether the first convolution makes training diverge."""
    said = "of 54 settings " + " and ".join(f"{lost} diverge at {level}" for level, lost in LOST.items())
    said += "; none with a dense first layer"
    text = "; ".join(
        f"{name}, rate {rate}: {sum(row['status'] == 'diverged' for row in cell.values())} of {len(cell)} diverge"
        for (name, rate), cell in large.cells(large.rows(), "first convolution").items()
        if len(cell) >= large.SEEDS
    )
    l0_lacks = (
        "that no setting gives 50, 80 or 90 %: with 1,000 times the rate on gates none between 1,500 and "
        "1,600 was tried; which setting is best: four were added for what the others' rows said; SGD, 20 epochs, "
    )
    lacks = (
        "that divergence is rare: 0 of 3 is compatible with a chance of up to 71 % (95 %); the paper's trainings: a "
        "hundredth of the steps, on 1,000 images; accuracies, as these are seen and tested on"
    )
    return answered(HEADS, [
        ("ResNet-50: L0", "no useful sparse network in 324 settings", *_counted(l0_said()), l0_lacks + COPY),
        ("ResNet-50: the first convolution at 98 %", said, *_counted(text), lacks),
    ])  # fmt: skip


def _counted(text: str) -> tuple[str, str, str]:
    """What was found, its n, and whether it was decided."""
    return (text, str(large.SEEDS), "counted") if text else ("–", "0", "not decided yet: not run")


def _costs(name: str, unit: str) -> Iterator[str]:
    """The ratio to masks of each model that was measured: openwork's technique, and written down as in its paper."""
    found = _beside_dense(unit)
    models = dict.fromkeys(variant.rpartition(": ")[0] for variant in found)
    ways = {name: "openwork", f"{name}, fast": "openwork, fast", f"{name}, small": "openwork, small",
            f"naive {name}": "written down naively"}  # fmt: skip
    for model in filter(None, models):
        masks = found.get(f'{model}: masks, hidden="lost"')
        for variant, way in ways.items():
            if masks and (own := found.get(f"{model}: {variant}")):
                yield f"{model}, {way}: {own / masks:.2f} ×"


def _beside_dense(unit: str) -> dict[str, float]:
    """The ratio of each variant to the dense steps of its run; where two runs have it, that of the first."""
    found: dict[str, float] = {}
    for path in COSTS:
        rows = [
            row for row in lines_of(path, ("variant", "unit", "values"), ("variant", "unit")) if row["unit"] == unit
        ]
        middle = {row["variant"]: median(map(float, row["values"].split())) for row in rows}
        for variant, own in middle.items():
            if dense := middle.get(f"{variant.rpartition(': ')[0]}: dense"):
                found.setdefault(variant, own / dense)
    return found


TABLES = {
    "answers, techniques": leads,
    "answers, allocations": allocations,
    "answers, masks": kept_masks,
    "answers, time": time,
    "answers, failures": failures,
}
