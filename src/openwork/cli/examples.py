"""An example or two of each command, for its help and for docs/cli.md; a test parses them all."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "quickstart": (("", "four techniques, 65 runs, a page"), ("--out digits --device cuda", "elsewhere")),
    "run": (
        ("openwork.study.experiments.mnist:variational_dropout", "one run, in openwork-runs"),
        ("mine:runs seed=0,1,2 task.batch_size=64 --name first", "your own, three seeds, with a name"),
    ),
    "sweep": (
        ("openwork.study.experiments.mnist:table --dry-run", "what it would cost"),
        ("mine:runs seed=0,1,2 technique.schedule.final=0.8,0.9,0.95 --fleet", "a grid of 9, trained as one model"),
        ("openwork.study.experiments.mnist:table --ray local", "on all processors"),
    ),
    "list": (("", "all runs of openwork-runs"), ("runs --state failed", "those of another folder that failed")),
    "show": (("3f2a", "by the beginning of its id"), ("runs/first --json", "those with a name, for machines")),
    "results": (("runs others --csv rows.csv", "a row for each run of two folders"),),
    "report": (("runs", "page, pictures and tables in runs/report"), ("before after", "two sweeps, side by side")),
    "pictures": (("3f2a 91c0 --out pictures", "how two runs pruned"),),
    "watch": (
        ("runs --to tensorboard --out tensorboard", "then: tensorboard --logdir tensorboard"),
        ("runs --to wandb --project sparsity --follow", "and what comes, until Ctrl-C"),
    ),
    "eval": (
        ("3f2a --threshold 2 --threshold 0.1", "other thresholds on the same weights"),
        ("resnet50.pth --task openwork.study.experiments.resnet50:dense", "weights from anywhere"),
    ),
    "inspect": (("model.safetensors", "zeros, patterns, bytes"), ("before.pt after.pt --json", "which zeros stayed")),
    "prune": (
        ("MiniLM --technique magnitude --sparsity 0.5 --out MiniLM-50", "the same files, with zeros"),
        ("Llama --technique sparsegpt --pattern 2:4 --calibration text.txt --out Llama-24", "block after block"),
    ),
    "export": (
        ("model.safetensors --to sparse", "a small file"),
        ("3f2a --to onnx --out model.onnx", "the model of a run"),
    ),
    "bench": (
        ("model.safetensors --batch 1 8 64", "dense beside sparse, here"),
        ("model.safetensors --sparsity 0.9", "before you train"),
    ),
    "recipe": (("recipe.yaml num_epochs=20", "as Python"),),
    "import-tf": (("model.ckpt-500000 --model transformer --technique l0 --out x.safetensors", "the paper's"),),
    "translate": (("3f2a --beam 4 < source.en > ours.de", "a sentence a line"),),
    "bleu": (("ours.de references.de", "as sacrebleu, and as the paper"),),
    "doctor": (("--device cuda", "which kernels run, and why not"),),
    "published": (("--rows release/csv --out published", "figures from the paper's rows"),),
}
"""By command: arguments, and what they do."""


def with_examples(name: str, text: str) -> str:
    """The help of a command: its text, and its examples on lines of their own."""
    lines = [(f"openwork {name} {arguments}".rstrip(), remark) for arguments, remark in EXAMPLES[name]]
    shown = "\n".join(f"  {line}\n      {remark}" for line, remark in lines)
    return f"{text}\n\n\b\nExamples:\n{shown}"
