"""The published figures of ResNet-50 and the Transformer that the large half has seeds for, beside openwork's."""

from collections.abc import Iterator, Mapping
from statistics import fmean

from answer_rows import decision
from large_failures import l0_said
from large_layers import kinds, layer_names, layer_zeros
from large_rows import SEEDS, at_level
from large_study import (
    BOTH,
    EXTENDED,
    KEPT,
    LONG,
    SHORT,
    VD,
    Scores,
    at,
    families,
    less,
    of_masks,
    rows,
    sparser,
)
from large_tables import counts, not_run, verdict
from played import listed, points, probability
from seeds import best, markdown, mean, published_masks

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.experiments.cifar10_resnet import SPARSITIES

UNLIKE = {
    VD: "it has no binary dropout, magnitude has; one of its coefficients was added after figures on the test set",
    "L0": "it has no binary dropout, magnitude has",
}


def reproduced() -> str:
    """They, each with its n and interval."""
    if not (at_level(rows(), LONG, VD, 0.95) and at(BOTH, "magnitude", 0.8)):
        return not_run("BCF")
    heads = (
        "",
        "published: one run each, or between two, if nothing else is said",
        "n",
        "openwork; ± is half of the 95 % interval",
        "what one can say",
    )
    resnet = _dropout(), _extended(), _layers(), _random(), *_masks("ResNet-50"), _l0()
    return markdown(heads, [*resnet, _transformer(), *_learned(), *_kinds(), *_masks(BOTH)])


def _dropout() -> tuple[str, ...]:
    found = {level: (at(LONG, VD, level), at(LONG, "magnitude", level)) for level in (0.95, 0.98)}
    more = {level: difference for level, pair in found.items() if (difference := less(*pair))}
    order = "the same order of the means" if all(one.mean > 0 for one in more.values()) else "**another order**"
    texts = [f"{points(one)} at {100 * level:g} %" for level, one in more.items()]
    return (
        "ResNet-50: variational dropout beside uniform magnitude pruning (Gale et al., figure 3)",
        "71.93 beside 70.59 at 95 %, 66.73 beside 57.90 at 98 %",
        *_beside(found, f"30 epochs, JPEG copy of CIFAR-10{_unequal()}"),
        f"{order}; the differences, {' and '.join(texts)}, are no planned comparison",
    )


def _extended() -> tuple[str, ...]:
    own = [at(LONG, EXTENDED, 0.95), at(LONG, VD, 0.95), at(SHORT, "magnitude", 0.95)]
    reached = "" if at(SHORT, VD, 0.95) else "; in 20 epochs variational dropout does not reach 95 %"
    label = f"{VD} less extended, 30 epochs"
    (one,) = (one for one in families()["layout"] if (one.label, one.level) == (label, 0.95))
    assert one.difference
    return (
        "— extended magnitude pruning with 1.5 × the steps beside variational dropout and uniform (figure 5)",
        "72.71 beside 71.93 and 70.59 at 95 %; 69.26 at 96.5 %, where variational dropout has 70.50 between its rows, "
        "and 69.69 even at 97.2 %",
        counts(own),
        f"{_mean(own[0])} beside {_mean(own[1])} and {_mean(own[2])} at 95 %; 30 epochs, but uniform 20{_unequal()}",
        f"{one.label}: {points(one.difference)}, p {probability(one.p)}, {decision(one)}{reached}",
    )


def _unequal() -> str:
    """The sparsity of the runs of variational dropout that have more than their level."""
    found = {level: sparser(LONG, [VD], level).get(VD) for level in (0.95, 0.98)}
    texts = [f"{100 * zeros:.1f} % zeros for {100 * level:g} %" for level, zeros in found.items() if zeros]
    return f"; variational dropout has {listed(texts)}" if texts else ""


def _layers() -> tuple[str, ...]:
    cell = at_level(rows(), LONG, VD, 0.95)
    zeros = dict(zip(layer_names("cifar10-resnet50"), layer_zeros(cell), strict=True))
    first = zeros["conv1.weight"]
    densest = "the same" if first == min(zeros.values()) else "**another layer is denser**"
    return (
        "— where variational dropout keeps weights (figure 4)",
        "first convolution the densest, `fc` at 80 %",
        str(len(cell)),
        f"at 95 %: first convolution at {first:.0f} %, `fc` at {zeros['fc.weight']:.0f} %",
        f"{densest}, by the means of the layers",
    )


def _random() -> tuple[str, ...]:
    own = {level: (at(SHORT, "random", level), at(SHORT, "magnitude", level)) for level in SPARSITIES}
    found = {one.level: verdict(one) for one in families()["ResNet-50"] if one.label == "random less magnitude"}
    lower = [f"{100 * level:g} %" for level, mark in found.items() if mark == "▼"]
    return (
        "— random beside magnitude pruning",
        "74.59 beside 76.53 at 50 %, 70.21 beside 75.58 at 80 %",
        *_beside(own, "20 epochs"),
        f"lower is shown at {' and '.join(lower) or 'no level'}, nothing at the others",
    )


def _l0() -> tuple[str, ...]:
    dense = at(SHORT, "dense", 0.0)
    return (
        "— L0 (appendix E)",
        "no useful sparse network in 324 settings",
        "3",
        f"{l0_said()}; dense {_mean(dense)}",
        "settings with 98 % zeros and more train, with new statistics, none with 50, 80 or 90 % was found",
    )


def _transformer() -> tuple[str, ...]:
    dense, pruned = at(BOTH, "dense", 0.0), at(BOTH, "magnitude", 0.8)
    lost = less(dense, pruned)
    assert lost
    return (
        "Transformer: BLEU that magnitude pruning loses up to 80 % (figure 1)",
        "27.29 − 24.65 = 2.64",
        str(lost.n),
        f"{_mean(dense)} less {_mean(pruned)} = {points(lost)}, on 5 % of the corpus; seed 0 is an older run",
        f"a {'smaller' if lost.mean < 2.64 else 'larger'} mean, on other data; no planned comparison",
    )


def _learned() -> Iterator[tuple[str, ...]]:
    """Variational dropout and L0 beside magnitude pruning, at the levels whose order the paper's text tells."""
    for name, key, side, levels in (
        (VD, "variational_dropout", "below", (0.5, 0.8, 0.9, 0.95, 0.98)),
        ("L0", "l0_regularization", "above", (0.5, 0.6, 0.7, 0.98)),
    ):
        theirs = [abs(best("transformer", key, s) - best("transformer", "magnitude_pruning", s)) for s in levels]
        said = listed([f"{one:.2f}" for one in theirs])
        every = {one.level: one for one in families()[BOTH] if one.label == f"{name} less magnitude"}
        found = [one for level in levels if (one := every[level]).difference]
        if not found:
            continue
        texts = [f"{points(one.difference)} at {_place(name, one.level)}" for one in found if one.difference]
        lower = [f"{100 * one.level:g} %" for one in found if verdict(one) == "▼"]
        verb = "lower" if side == "below" else "**not seen here**: lower"
        yield (
            f"— {name} beside it (figure 1)",
            f"{side} it by {said} at {listed([f'{100 * level:g}' for level in levels])} %",
            counts(at(BOTH, name, level) for level in levels),
            "; ".join(texts),
            f"{f'{verb} is shown at {listed(lower)}' if lower else 'nothing is shown'}; {UNLIKE[name]}",
        )


def _kinds() -> Iterator[tuple[str, ...]]:
    """Which layers of the Transformer variational dropout and L0 empty."""
    found: dict[str, dict[str, float]] = {}
    for each in kinds():
        found.setdefault(each["technique"], {})[each["kind"]] = each["sparsity"]
    if not found:
        return
    texts = [
        f"{name}: {', '.join(f'{kind} {zeros:.0f}' for kind, zeros in own.items())} %" for name, own in found.items()
    ]
    sparse, kept = ("queries", "values"), ("embedding", "outputs of attention", "feed-forward")
    wrong = {
        name: [one for one in kept if own[one] > min(own[other] for other in sparse)] for name, own in found.items()
    }
    said = [
        f"**not seen here**: {name} removes more of {listed(own)} than of one of these two"
        for name, own in wrong.items()
        if own
    ]
    yield (
        "— where variational dropout and L0 keep weights (figure 2)",
        "more of the embedding, the feed-forward layers and the outputs of attention, fewer of queries and values",
        str(SEEDS),
        f"zeros of models with as many of them in all: {'; '.join(texts)}",
        "; ".join(said) or "the same",
    )


def _masks(network: str) -> Iterator[tuple[str, ...]]:
    """What keeps the zeros of magnitude pruning, beside it."""
    module, model = (large_transformer, "transformer") if network == BOTH else (large_resnet50, "resnet50")
    levels = sorted(module.MASK_LEVELS)
    own = {level: {kind: of_masks(network, kind, level) for kind in ("magnitude", *KEPT)} for level in levels}
    if not all(all(found.values()) for found in own.values()):
        return
    said, ours = [], []
    for level in levels:
        ranked = sorted(own[level], key=lambda kind: fmean(own[level][kind].values()), reverse=True)
        ours.append(f"{100 * level:g} %: {', '.join(f'{kind} {_mean(own[level][kind])}' for kind in ranked)}")
        theirs = published_masks(model, level)
        ranked = sorted(own[level], key=lambda kind: theirs[kind], reverse=True)
        said.append(f"{100 * level:g} %: {', '.join(f'{kind} {theirs[kind]:.2f}' for kind in ranked)}")
    shown = []
    for kind in ("lottery ticket", "scratch-e", "scratch-b"):
        found = [one for one in families()[f"{network}, masks"] if one.label == f"{kind} less magnitude"]
        at_these = {mark: [f"{100 * one.level:g} %" for one in found if verdict(one) == mark] for mark in ("▼", "▲")}
        words = [
            f"{word} is shown at {listed(at_these[mark])}"
            for mark, word in (("▼", "lower"), ("▲", "**not seen here**: higher"))
            if at_these[mark]
        ]
        shown.append(f"{kind} less magnitude: {'; '.join(words) or 'nothing is shown'}")
    length = f"{large_transformer.MASK_STEPS:,} steps" if network == BOTH else f"{large_resnet50.SHORT} epochs"
    yield (
        "— tickets and scratch beside magnitude pruning (figure 6)",
        f"magnitude the best of many runs, of the others means of {25 if network == BOTH else 9}; {'; '.join(said)}",
        f"{counts(found for each in own.values() for found in each.values())} masks",
        f"{'; '.join(ours)}; trainings of {length}, scratch-b of twice as many",
        "; ".join(shown),
    )


def _place(name: str, level: float) -> str:
    """A level, and the sparsity of the runs that have more than it."""
    more = "".join(f", with {100 * zeros:.1f} % zeros" for zeros in sparser(BOTH, [name], level).values())
    return f"{100 * level:g} %{more}"


def _beside(found: Mapping[float, tuple[Scores, Scores]], how: str) -> tuple[str, str]:
    """The n of two techniques at some levels, and their means."""
    said = [f"{_mean(ours)} beside {_mean(theirs)} at {100 * level:g} %" for level, (ours, theirs) in found.items()]
    return counts(own for pair in found.values() for own in pair), f"{'; '.join(said)}; {how}"


def _mean(found: Scores) -> str:
    return mean(tuple(found.values())) if found else "–"


TABLES = {"large, reproduced": reproduced}
