"""Writes the tables of README.md, results/, docs/choose.md and docs/reproductions.md again from the committed rows.

A document marks a table with ``<!-- table NAME: results/tables.py -->`` and ``<!-- end -->``; what stands between
them is replaced. Every table has a column ``n``: the number of runs, which differ in their seed alone, behind a figure.

Run: python results/tables.py
"""

import re
from collections.abc import Callable
from pathlib import Path

import answers
import cifar_tournament
import large_failures
import large_reproduced
import large_tables
from caveats import caveats
from choices import TABLES as CHOICES
from findings import findings
from lenets import layered, mnist, reproduced, vd
from masks import section6_comparisons, section6_table
from one_shots import TABLES as ONE_SHOTS
from played import cost_table
from recipes import compression_table, effects_table, recipe_in_short, recipe_table, small_effects_table
from seeds import Seeds, best, find, markdown, mean, rows, seeds
from tournaments import dense_table, every_level, leaders, lenet5_table, named_table, shortly

ROOT = Path(__file__).parents[1]
CIFAR = 50_000  # training images
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
KL_RESNET = (0.003, 0.01, 0.05, 0.3, 2.0)
L0_RESNET = (1_000, 1_300, 1_450, 1_550, 1_700)
L0_TRANSFORMER = (0.4, 0.8, 1.4, 2, 4, 8, 20)


def wide() -> str:
    """WRN-28-10."""
    dense, l0 = (find("cifar10", "WRN-28-10", name) for name in ("dense", "L0"))
    assert l0.sparsity == 0
    curve = [float(row["expected_flops"]) for row in rows("cifar10", "curves") if row["id"] in l0.ids]
    first, last = 100 * curve[0], 100 * curve[-1]
    lines = [
        ("dense", "1", f"{dense.score:.2f} %", "95.45 %"),
        ("L0, λ = 0.0003", "1", f"{l0.score:.2f} %", "95.34 %"),
        ("difference", "1", f"{l0.score - dense.score:+.2f} points".replace("-", "−"), "−0.11 points"),
        ("test-time sparsity of the gated weights", "1", "0 of 16.8 million", "zero"),
        (
            "expected FLOPs of a training forward pass",
            "1",
            f"{first:.1f} % of dense after 5 % of training, {last:.1f} % at the end",
            "“comparable to Louizos et al.” (a figure, no numbers)",
        ),
    ]
    return markdown(("", "n", "JPEG copy", "published (lossless; Gale et al., App. C)"), lines)


def vgg() -> str:
    """The VGG-like network at five widths."""
    lines = []
    for width in (0.25, 0.5, 1, 1.5, 2):
        task = f"VGG-like x {width:g},"
        dense, sparse = find("cifar10", task, "dense"), find("cifar10", task, "VariationalDropout")
        lines.append(
            (f"{width:g}", "1, 1", f"{dense.score:.2f} %", f"{sparse.score:.2f} %", f"{sparse.sparsity:.2f} %")
        )
    return markdown(("width", "n", "dense, binary dropout", "SparseVD", "its sparsity"), lines)


def resnet_pruning() -> str:
    """ResNet-50 on CIFAR-10: pruning."""

    def each(found: Seeds) -> str:
        return ", ".join(f"{score:.1f}" for score in found.scores)

    dense = find("cifar10-resnet50", "ResNet-50", "dense")
    lines = [("0", f"{dense.n}, –, –", each(dense), "", "", "76.69", "", "")]
    between = {0.5: "76.55", 0.8: "75.47", 0.9: "73.96", 0.95: "71.93", 0.98: "66.73"}  # docs/published
    for level, text in between.items():
        names = ("GradualMagnitude", "RandomPruning", "GradualMagnitude, extended")
        found = [find("cifar10-resnet50", "ResNet-50", name, final=level) for name in names]
        published = [f"{best('resnet50', name, level):.2f}" for name in ("magnitude_pruning", "random_pruning")]
        n = ", ".join(str(one.n) for one in found)
        lines.append((f"{100 * level:g} %", n, *map(each, found), *published, text))
    heads = ("sparsity", "n", "magnitude", "random", "magnitude, extended, 1.5 × steps")
    ours = "published on ImageNet, one run chosen of many"
    return markdown((*heads, f"{ours}: magnitude", "random", "variational dropout, between its points"), lines)


def resnet_learned() -> str:
    """ResNet-50 on CIFAR-10: variational dropout and L0."""
    new = {row["id"]: f"{100 * float(row['accuracy']):.1f}" for row in rows("cifar10-resnet50", "recalibrated")}
    lines = []
    for factor, weight in zip(KL_RESNET, L0_RESNET, strict=True):
        a = find("cifar10-resnet50", "ResNet-50", "VariationalDropout", final=factor / CIFAR)
        b = find("cifar10-resnet50", "ResNet-50", "L0", final=weight / CIFAR)
        sparsity = f"{b.sparsity:.4f}" if 0 < b.sparsity < 0.01 else f"{b.sparsity:.2f}"
        cells = (f"{factor:g}", f"{a.sparsity:.1f} %", f"{a.score:.1f}", f"{weight:,}")
        lines.append((*cells, f"{sparsity} %", f"{b.score:.1f}", new[b.ids[0]], f"{a.n}, {b.n}"))
    heads = ("variational dropout: λ · N", "sparsity", "accuracy", "L0: λ · N", "sparsity", "accuracy")
    return markdown((*heads, "with new batch-norm statistics", "n"), lines)


def translation_pruning() -> str:
    """The small Transformer: pruning."""
    dense = find("translation", "Transformer", "dense")
    lines = [("0", "1, –", f"{dense.score:.2f}", "", "27.29", "")]
    for level in LEVELS:
        found = [
            find("translation", "Transformer", name, final=level) for name in ("GradualMagnitude", "RandomPruning")
        ]
        published = [f"{best('transformer', name, level):.2f}" for name in ("magnitude_pruning", "random_pruning")]
        n = ", ".join(str(one.n) for one in found)
        lines.append((f"{100 * level:g} %", n, *(f"{one.score:.2f}" for one in found), *published))
    ours = "published on all of WMT14, tokenised, one run chosen of many"
    return markdown(("sparsity", "n", "magnitude", "random", f"{ours}: magnitude", "random"), lines)


def translation_l0() -> str:
    """The small Transformer: L0."""
    lines = []
    for weight in L0_TRANSFORMER:
        found = [find("translation", "Transformer", name, final=weight / 230_000) for name in ("L0", "L0, dropout")]
        cells = [text for one in found for text in (f"{one.sparsity:.1f} %", f"{one.score:.2f}")]
        lines.append((f"{weight:g}", *cells, "1, 1"))
    return markdown(("L0: λ · N", "sparsity", "BLEU", "with dropout: sparsity", "BLEU", "n"), lines)


def translation_vd() -> str:
    """The small Transformer: variational dropout's frontier, over thresholds chosen on the test set."""
    every = [seeds([row]) for row in rows("translation") if row["name"] == "VariationalDropout"]
    front = [a for a in every if not any(b is not a and b.sparsity >= a.sparsity and b.score >= a.score for b in every)]
    lines = [
        (f"{one.sparsity:.1f} %", f"{one.score:.2f}", one.ids[0].partition("@")[2] or "as trained", "1")
        for one in sorted(front, key=lambda one: one.sparsity)
        if one.score > 1
    ]
    return markdown(("variational dropout: sparsity", "BLEU", "threshold", "n"), lines)


def in_short() -> str:
    """What README says."""
    one, five = vd("LeNet-300-100", 0.9, 2e-3), vd("LeNet-5-Caffe", 1.0)
    dense = [mean(find("mnist", net, "dense").errors) for net in ("LeNet-300-100", "LeNet-5-Caffe")]
    l0, wrn = (find("cifar10", "WRN-28-10", name) for name in ("L0", "dense"))
    lines = [
        *shortly(),
        *cifar_tournament.shortly(),
        *recipe_in_short(),
        (
            "variational dropout, LeNet-300-100 on MNIST; the factor of the KL was chosen on the test set",
            str(one.n),
            f"{one.sparsity:.2f} % sparsity, error {mean(one.errors)} % (dense: {dense[0]} %)",
            "[results/mnist](results/mnist/README.md)",
        ),
        (
            "variational dropout, LeNet-5-Caffe on MNIST, tuned settings",
            str(five.n),
            f"{five.sparsity:.2f} % sparsity, error {mean(five.errors)} % (dense: {dense[1]} %)",
            "[results/mnist](results/mnist/README.md)",
        ),
        (
            "L0, WRN-28-10 on a JPEG copy of CIFAR-10",
            "1",
            f"{l0.score:.2f} % (dense: {wrn.score:.2f} %), no weight zero, expected FLOPs in training down to 91 %",
            "[results/cifar10](results/cifar10/README.md)",
        ),
        *large_tables.shortly(),
    ]
    return markdown(("what", "n", "figure; ± is half of the 95 % interval of the mean", "where"), lines)


def in_one_seed() -> str:
    """The reproductions that have one seed."""
    dense, l0 = (find("cifar10", "WRN-28-10", name) for name in ("dense", "L0"))
    curve = [100 * float(row["expected_flops"]) for row in rows("cifar10", "curves") if row["id"] in l0.ids]
    widths = [f"VGG-like x {width:g}," for width in (0.25, 0.5, 1, 1.5, 2)]
    wide, own = ([find("cifar10", task, name) for task in widths] for name in ("dense", "VariationalDropout"))
    costs = ", ".join(f"{b.score - a.score:+.1f}" for a, b in zip(wide, own, strict=True)).replace("-", "−")
    lines = [
        ("WRN-28-10: L0 less dense (Gale et al., App. C)", "95.34 − 95.45 = −0.11 points", "1",
         f"{l0.score:.2f} − {dense.score:.2f} = {l0.score - dense.score:+.2f} points, JPEG copy",
         "one seed each: both near 0"),
        ("— test-time sparsity", "zero", "1", "zero", "the same"),
        ("— FLOPs in training", "fall (figure 7)", "1", f"from {curve[0]:.1f} to {curve[-1]:.1f} % of dense",
         "fall, too"),
        ("VGG-like: sparsity for k = 0.25 to 2 (Molchanov et al., figure 3)", "grows with the width", "1",
         ", ".join(f"{one.sparsity:.2f}" for one in own) + " %, JPEG copy", "grows, too"),
        ("— accuracy less that of the dense network", "no loss up to k = 2", "1", f"{costs} points, JPEG copy",
         "in one seed **not so** from k = 1 on"),
    ]  # fmt: skip
    return markdown(("", "published, one run each", "n", "openwork", "what one can say"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "in short": in_short,
    "LeNet-300-100": lambda: mnist("LeNet-300-100"),
    "LeNet-5-Caffe": lambda: mnist("LeNet-5-Caffe"),
    "findings": findings,
    "caveats": caveats,
    "recipes": recipe_table,
    "recipes, effects": effects_table,
    "recipes, effects on LeNet-5-Caffe": small_effects_table,
    "SparseVD's table": compression_table,
    "tournament": every_level,
    "tournament, references": leaders,
    "tournament, named pairs": named_table,
    "tournament, dense": dense_table,
    "tournament, LeNet-5-Caffe": lenet5_table,
    "masks": section6_table,
    "masks, comparisons": section6_comparisons,
    "study, cost": cost_table,
    "CIFAR-10 tournament": cifar_tournament.table,
    "CIFAR-10 tournament, named pairs": cifar_tournament.comparisons,
    "CIFAR-10 tournament, level by level": cifar_tournament.levels_in_words,
    "WRN-28-10": wide,
    "VGG-like": vgg,
    "ResNet-50, pruning": resnet_pruning,
    "ResNet-50, learned": resnet_learned,
    "Transformer, pruning": translation_pruning,
    "Transformer, L0": translation_l0,
    "Transformer, variational dropout": translation_vd,
    "reproduced": reproduced,
    "layers": layered,
    "in one seed": in_one_seed,
    **ONE_SHOTS,
    **answers.TABLES,
    **large_tables.TABLES,
    **large_failures.TABLES,
    **large_reproduced.TABLES,
    **CHOICES,
}
STUDIES = ("mnist", "cifar10", "cifar10-resnet50", "cifar10-tournament", "large", "translation", "one-shot")
PAGES = ("README.md", "docs/choose.md", "docs/findings.md", "docs/reproductions.md")
DOCUMENTS = (*PAGES, *(f"results/{study}/README.md" for study in STUDIES))
MARKED = re.compile(r"(<!-- table ([^:]+): results/tables\.py -->\n)(.*?)(<!-- end -->)", re.S)


def written(text: str) -> str:
    """A document with its tables made again."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


def main() -> None:
    """Writes the documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
