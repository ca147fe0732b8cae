"""The published figures of ResNet-50 and the Transformer that the large half has seeds for, beside openwork's."""

from statistics import fmean

from large_rows import at_level
from large_study import BOTH, EXTENDED, LONG, SHORT, VD, Scores, at, families, layer_names, layer_zeros, less, rows
from large_tables import verdict
from played import points
from seeds import markdown, mean

from openwork.study.experiments.cifar10_resnet import SPARSITIES


def reproduced() -> str:
    """They, each with its n and interval."""
    lines = [_dropout(), _extended(), _layers(), _random(), _transformer()]
    heads = ("", "published, one run each", "n", "openwork; ± is half of the 95 % interval", "what one can say")
    return markdown(heads, lines)


def _dropout() -> tuple[str, ...]:
    said, texts, longer = [], [], []
    for level in (0.95, 0.98):
        ours, theirs = at(LONG, VD, level), at(LONG, "magnitude", level)
        said.append(f"{_mean(ours)} beside {_mean(theirs)} at {100 * level:g} %")
        if difference := less(ours, theirs):
            texts.append(f"{points(difference)} at {100 * level:g} %")
            longer.append(difference.mean > 0)
    order = "the same order of the means" if all(longer) else "**another order** of the means"
    return (
        "ResNet-50: variational dropout beside uniform magnitude pruning (Gale et al., figure 3)",
        "71.93 beside 70.59 at 95 %, 66.73 beside 57.90 at 98 %",
        "3",
        f"{'; '.join(said)}; 30 epochs, JPEG copy of CIFAR-10",
        f"{order}; the differences, {' and '.join(texts)}, are no planned comparison",
    )


def _extended() -> tuple[str, ...]:
    longer, dropout, uniform = at(LONG, EXTENDED, 0.95), at(LONG, VD, 0.95), at(SHORT, "magnitude", 0.95)
    reached = "" if at(SHORT, VD, 0.95) else "; in 20 epochs variational dropout does not reach 95 %"
    above = "above" if fmean(longer.values()) > fmean(dropout.values()) else "**below**"
    return (
        "— extended magnitude pruning with 1.5 × the steps beside variational dropout and uniform (figure 5)",
        "72.71 beside 71.93 and 70.59 at 95 %; 69.26 at 96.5 %, where variational dropout has 70.50 between its rows, "
        "and 69.69 even at 97.2 %",
        "3",
        f"{_mean(longer)} beside {_mean(dropout)} and {_mean(uniform)} at 95 %; 30 epochs, but uniform 20",
        f"with as many epochs extended pruning has a mean {above} that of variational dropout{reached}",
    )


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
    said = [
        f"{_mean(at(SHORT, 'random', level))} beside {_mean(at(SHORT, 'magnitude', level))} at {100 * level:g} %"
        for level in SPARSITIES
    ]
    found = {one.level: verdict(one) for one in families()["ResNet-50"] if one.label == "random less magnitude"}
    lower = [f"{100 * level:g} %" for level, mark in found.items() if mark == "▼"]
    return (
        "— random beside magnitude pruning",
        "74.59 beside 76.53 at 50 %, 70.21 beside 75.58 at 80 %",
        "3",
        f"{'; '.join(said)}; 20 epochs",
        f"lower is shown at {' and '.join(lower) or 'no level'}, nothing at the others",
    )


def _transformer() -> tuple[str, ...]:
    lost = less(at(BOTH, "dense", 0.0), at(BOTH, "magnitude", 0.8))
    assert lost
    return (
        "Transformer: BLEU that magnitude pruning loses up to 80 % (figure 1)",
        "27.29 − 24.65 = 2.64",
        str(lost.n),
        f"{points(lost)}, on 5 % of the corpus",
        "smaller, on other data" if (lost.interval() or (0.0, 9.0))[1] < 2.64 else "not told apart",
    )


def _mean(found: Scores) -> str:
    return mean(tuple(found.values())) if found else "–"


TABLES = {"large, reproduced": reproduced}
