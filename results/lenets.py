"""The tables of the LeNets on MNIST."""

from recipes import by_layer, recipe, recipes
from seeds import Row, Seeds, find, layers, markdown, mean, one_more, paper, place

N = 60_000  # training images


def vd(net: str, factor: float, rate: float | None = None, threshold: float | None = None) -> Seeds:
    """Variational dropout with tuned settings on a LeNet."""
    fields = {"final": factor / N, "train_clip": True, "peak_learning_rate": rate}
    return find("mnist", net, "VariationalDropout", **fields, threshold=threshold)


def schedule(net: str, threshold: float | None = None) -> Seeds:
    """Variational dropout with SparseVD's schedule on a LeNet."""
    return find("mnist", net, "VariationalDropout", final=1 / N, train_clip=None, threshold=threshold)


def compared(found: Seeds, by: str, published: tuple[float, float] | None) -> Row:
    """The cells of variational dropout on MNIST: n, sparsity, error, where one more run would lie, published."""
    text = "" if published is None else f"{published[0]:.2f} %, {published[1]:.2f} % ({by})"
    if published is not None:
        text += f": {place(published[1], found.errors)}"
    return (str(found.n), f"{found.sparsity:.2f} %", f"{mean(found.errors)} %", f"{one_more(found.errors)} %", text)


def in_one_seed(published: str, *found: Seeds, digits: int = 1) -> Row:
    """The cells of one row for several settings of one seed each."""
    sparsities = ", ".join(f"{one.sparsity:.{digits}f}" for one in found)
    errors = ", ".join(f"{one.errors[0]:.2f}" for one in found)
    assert {one.n for one in found} == {1}
    return ("1", f"{sparsities} %", f"{errors} %", "–", published)


def singles() -> list[Row]:
    """What has one seed: techniques of which the study has no runs on LeNet-5-Caffe."""
    net, levels = "LeNet-5-Caffe", (0.9, 0.98, 0.99)
    grouped = [find("mnist", net, "GroupL0", final=weight / N) for weight in (0.1, 0.3, 1.0)]
    pruned = [find("mnist", net, "GradualMagnitude", final=level, allocation="ERK") for level in levels]
    random = [find("mnist", net, "RandomPruning", final=level) for level in levels]
    sizes = "0.9 and 1.0 % (Louizos et al.; sizes, not sparsity)"
    others = {
        "PruneRetrain": ("Han 2015, prune and retrain", "92 % (12×), 0.77 %"),
        "DynamicSurgery": ("dynamic network surgery", "99.1 % (111×), 0.91 %"),
        "SoftWeightSharing": ("soft weight sharing", "0.97 % (200×, with coding)"),
    }
    lines = [
        ("group L0, λ = 0.1, 0.3, 1 over N", *in_one_seed(sizes, *grouped)),
        ("magnitude, Erdős–Rényi", *in_one_seed("", *pruned, digits=0)),
        ("random", *in_one_seed("", *random, digits=0)),
        *((text, *in_one_seed(known, find("mnist", net, name), digits=2)) for name, (text, known) in others.items()),
    ]
    return [(f"one seed: {name}", *cells) for name, *cells in lines]


def mnist(net: str) -> str:
    """One LeNet, dense, with variational dropout and with what has one seed."""
    small = net == "LeNet-300-100"
    dense = find("mnist", net, "dense")
    known = [(1.58, "Gale"), (1.64, "Molchanov")] if small else [(0.80, "Molchanov")]
    text = "; ".join(f"{error:.2f} % ({by} et al.): {place(error, dense.errors)}" for error, by in known)
    lines = [("dense", *compared(dense, "", None)[:-1], text)]
    for threshold, by in ((3.0, "Molchanov"), (3.0, "Gale"), (2.0, "Gale"), *([(0.1, "Gale")] if small else [])):
        label = f"SparseVD's schedule, threshold {threshold:g}"
        cells = compared(schedule(net, threshold), f"{by} et al.", paper(net, by, threshold))
        lines.append(("— the same runs" if lines[-1][0] == label else label, *cells))
    if small:
        for threshold in (3.0, 2.0, 0.0, -0.25):
            name = "tuned settings, 0.9 of the KL" if threshold == 3 else "—"
            text = f"{name}, threshold {threshold:g}".replace("-", "−").replace("—,", "—")
            by = ("Gale et al.", paper(net, "Gale", 2.0)) if threshold == 2 else ("", None)
            lines.append((text, *compared(vd(net, 0.9, 2e-3, threshold), *by)))
        lines += [
            (f"— {factor} of the KL, threshold 3", *compared(vd(net, factor, 2e-3), "", None)) for factor in (0.8, 0.7)
        ]
    else:
        lines.append(("tuned settings, all of the KL, threshold 3", *compared(vd(net, 1.0), "", None)))
        lines.append(("— 0.7 of the KL, rate 2e-3, threshold 3", *compared(vd(net, 0.7, 2e-3), "", None)))
        lines += singles()
    heads = ("", "n", "sparsity", "error", "one more run (95 %)", "published: sparsity, error")
    return markdown(heads, lines)


def versus(claim: str, found: Seeds, published: tuple[float, float]) -> Row:
    """A row of the reproductions: openwork's setting beside one published run."""
    sparser = apart(found.sparsity - published[0], "sparser", "less sparse", "as sparse")
    worse = apart(sum(found.errors) / found.n - published[1], "higher", "lower", "as high")
    words = f"{sparser}: {place(published[0], found.sparsities)}; error {worse}: {place(published[1], found.errors)}"
    ours = f"{found.sparsity:.2f} %, {mean(found.errors)} %"
    interval = f"{one_more(found.sparsities)} %, {one_more(found.errors)} %"
    return (claim, f"{published[0]:.2f} %, {published[1]:.2f} %", str(found.n), ours, interval, words)


def apart(difference: float, more: str, less: str, same: str) -> str:
    """A difference in words; ``same`` where two digits show none."""
    return f"{abs(difference):.2f} points {more if difference > 0 else less}" if abs(difference) >= 0.005 else same


def reproduced() -> str:
    """Variational dropout on MNIST beside each published run."""
    lines = []
    for net in ("LeNet-300-100", "LeNet-5-Caffe"):
        at = [("Molchanov", 3.0), ("Gale", 3.0), ("Gale", 2.0), *([("Gale", 0.1)] if net == "LeNet-300-100" else [])]
        for by, threshold in at:
            claim = f"{net}, {by} et al., threshold {threshold:g}"
            target = paper(net, by, threshold)
            lines.append(versus(claim, schedule(net, threshold), target))
            if recipes(net, ("True", "True"), threshold):
                lines.append(versus("— SparseVD's recipe", recipe(net, threshold), target))
            tuned = vd(net, 0.9, 2e-3, threshold) if net == "LeNet-300-100" else vd(net, 1.0, None, threshold)
            lines.append(versus("— tuned settings", tuned, target))
    heads = (
        "",
        "published: sparsity, error",
        "n",
        "openwork",
        "one more run (95 %)",
        "openwork's mean is …: the published run is",
    )
    return markdown(heads, lines)


def layered() -> str:
    """The sparsity of single layers beside SparseVD's table."""
    lines = []
    for net, published in (("LeNet-300-100", "98.9, 97.2, 62.0 %"), ("LeNet-5-Caffe", "67, 98, 99.8, 95 %")):
        tuned = vd(net, 0.9, 2e-3) if net == "LeNet-300-100" else vd(net, 1.0)
        cells = [", ".join(f"{v:.1f}" for v in layers("mnist", one).values()) for one in (schedule(net), tuned)]
        names = ", ".join(name.removesuffix(".weight") for name in layers("mnist", tuned))
        runs = recipes(net, ("True", "True"))
        whole = f"{by_layer(runs, ', ')} %" if runs else "not run yet"
        n = ", ".join(map(str, (tuned.n, *([len(runs)] if runs else []), tuned.n)))
        lines.append((f"{net} ({names})", published, n, f"{cells[0]} %", whole, f"{cells[1]} %"))
    heads = ("sparsity of layers", "published", "n", "SparseVD's schedule", "SparseVD's recipe", "tuned settings")
    return markdown(heads, lines)
