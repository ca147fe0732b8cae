"""A report as text for a terminal and as Markdown."""

import re
from collections.abc import Sequence

from openwork.inspect.counts import Counts, LayerCounts
from openwork.inspect.not_finite import not_finite_line
from openwork.inspect.size import Size
from openwork.words import count, printable

WIDTH = 120
_FOLDED = 40  # more layers than this are shown by kind: names that differ only in numbers share a row
_PREFIXES = ("", "k", "M", "G", "T", "P")


def short(count: float, unit: str = "") -> str:
    """A count with three digits, before its prefix and ``unit``: 1,234,567 is "1.23 M"."""
    power = 0
    while count >= 999.5 and power < len(_PREFIXES) - 1:
        count, power = count / 1000, power + 1
    text = f"{count:.0f}" if power == 0 or count >= 99.95 else f"{count:.1f}" if count >= 9.995 else f"{count:.2f}"
    return f"{text} {_PREFIXES[power]}{unit}".strip()


def text_table(report: Counts) -> str:
    """The counts as text, at most 120 characters wide if the numbers allow.

    In a deep model, layers of one shape whose names differ only in numbers share a row.
    """
    fold = len(report.layers) > _FOLDED
    groups = _by_kind(report.layers) if fold else [(layer.name, [layer]) for layer in report.layers]
    for exact, details in ((True, True), (False, True), (False, False)):
        header, rows = _cells(report, groups, exact=exact, details=details)
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        room = WIDTH - sum(widths[1:]) - 2 * len(widths[1:])
        if widths[0] <= room:
            break
    widths[0] = min(widths[0], max(room, 24))
    lines = [*_summary(report)]
    if fold:
        lines.append(
            f"{len(report.layers)} weights in {count(len(rows) - 2, 'kind')}; to_markdown() and to_dict() have each"
        )
    rule = "-" * (sum(widths) + 2 * len(widths[1:]))
    for number, row in enumerate((header, *rows)):
        if number in (1, len(rows) - 1):
            lines.append(rule)
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{elided(row[0], widths[0]):{widths[0]}}", *cells]).rstrip())
    return "\n".join(map(printable, lines))


def markdown_table(report: Counts) -> str:
    """The counts in Markdown, with a row for each layer."""
    header, rows = _cells(report, [(layer.name, [layer]) for layer in report.layers], exact=True, details=True)
    lines = [f"* {line}" for line in _summary(report)]
    lines += ["", _markdown_row(header), "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(map(printable, lines + [_markdown_row(row) for row in rows]))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary(report: Counts) -> list[str]:
    size = report.size
    lines = [
        f"{count(report.parameters, 'parameter')}, {count(report.zeros, 'zero')}, "
        f"{report.accidental:,} of them accidental",
        f"{short(size.dense, 'B')} dense, {short(size.bitmask, 'B')} as bit masks and non-zero values, "
        f"{short(size.entropy, 'B')} with masks at their entropy",
    ]
    if report.not_finite:
        lines.append(not_finite_line(report.not_finite))
    if report.flops:
        lines.append(
            f"{report.flops.dense:,} FLOPs for the example, {report.flops.sparse:,} without zero weights (simulated; a "
            "multiply-add is 2)"
        )
        if report.flops.other:
            others = ", ".join(f"{name} {short(count)}" for name, count in report.flops.other.items())
            lines.append(f"of these without a weight: {others}")
        if report.flops.uncounted:
            lines.append(f"NOT in these FLOPs: {', '.join(f'{n} ({o})' for n, o in report.flops.uncounted.items())}")
    if report.skipped:
        for reason in dict.fromkeys(report.skipped.values()):
            names = [name for name, why in report.skipped.items() if why == reason]
            lines.append(f"not counted ({reason}): {', '.join(names) if len(names) < 4 else f'{len(names)} tensors'}")
    return [*lines, *report.notes]


def _cells(
    report: Counts, groups: Sequence[tuple[str, Sequence[LayerCounts]]], *, exact: bool, details: bool
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows: one for each group, then both totals.

    exact: counts with all digits. details: with a column of accidental zeros, where there are any.
    """
    layers = report.layers
    wide = any(len(group) > 1 for _, group in groups)
    dead = any(layer.dead_outputs or layer.dead_inputs for layer in layers)
    patterns = any(layer.pattern for layer in layers)
    accidental = details and any(layer.accidental for layer in layers)

    def number(count: int) -> str:
        return f"{count:,}" if exact else short(count)

    def row(name: str, group: Sequence[LayerCounts], shape: str) -> list[str]:
        weights, nonzero = sum(la.weights for la in group), sum(la.nonzero for la in group)
        sparsity = (weights - nonzero) / weights if weights else 0.0
        size = sum((la.size for la in group), Size())
        cells = [printable(name), shape, number(weights), number(nonzero), f"{sparsity:.2%}"]
        if wide:
            lowest, highest = min(la.sparsity for la in group), max(la.sparsity for la in group)
            cells.append(f"{100 * lowest:.1f}-{highest:.1%}" if lowest < highest else "")
        if accidental:
            cells.append(number(sum(la.accidental for la in group)))
        if dead:
            outputs, inputs = sum(la.dead_outputs or 0 for la in group), sum(la.dead_inputs or 0 for la in group)
            cells.append(f"{number(outputs)}/{number(inputs)}")
        if patterns:
            found = {la.pattern for la in group}
            cells.append("/".join(sorted(found)) if len(found) == 1 else "mixed")
        cells += _sizes(size)
        if report.flops:
            cells += [short(sum(la.flops[i] for la in group if la.flops)) for i in (0, 1)]
        return cells

    header = ["weight", "shape", "weights", "non-zero", "sparsity"]
    header += ["range"] if wide else []
    header += ["accidental"] if accidental else []
    header += ["dead out/in"] if dead else []
    header += ["pattern"] if patterns else []
    header += ["dense", "bit mask"]
    header += ["FLOPs", "sparse"] if report.flops else []
    rows = [row(name, group, "x".join(map(str, group[0].shape))) for name, group in groups]
    selected = row("selected weights", layers, "") if layers else ["selected weights", "", *[""] * (len(header) - 2)]
    everything = ["all parameters", "", number(report.parameters), number(report.parameters - report.zeros)]
    everything.append(f"{report.sparsity_all:.2%}")
    everything += [""] * (wide + dead + patterns)
    if accidental:
        everything.insert(5 + wide, number(report.accidental))
    everything += _sizes(report.size)
    if report.flops:
        everything += [short(report.flops.dense), short(report.flops.sparse)]
    if patterns and layers:
        selected[header.index("pattern")] = ""
    return header, [*rows, selected, everything]


def _sizes(size: Size) -> list[str]:
    return [short(size.dense, "B"), short(size.bitmask, "B")]


def _by_kind(layers: Sequence[LayerCounts]) -> list[tuple[str, list[LayerCounts]]]:
    """Layers of one shape whose names differ in numbers alone, under a name with * for the numbers."""
    kinds: dict[tuple[str, tuple[int, ...]], list[LayerCounts]] = {}
    for layer in layers:
        kinds.setdefault((re.sub(r"\d+", "*", layer.name), layer.shape), []).append(layer)
    return [(f"{name} x{len(group)}" if len(group) > 1 else group[0].name, group) for (name, _), group in kinds.items()]


def elided(name: str, width: int) -> str:
    """The name, without its middle where it is too long: both ends tell layers apart.

    Args:
        name: The name.
        width: The most characters it may have.
    """
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return name[: width - 1 - tail] + "…" + name[-tail:]
