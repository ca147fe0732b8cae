"""What a short fine-tuning with zeros kept gives back to models that were pruned once, by all weights or by LoRA.

LeNet-300-100 is pruned by magnitude and trained on MNIST for 600 steps of 100 images; MiniLM-L6-v2 for 60 steps of 32
captions towards its own dense embeddings. Scores are test accuracy and the mean cosine to the dense embeddings of
held-out captions. LoRA (rank 8 on all matrices of the encoder) needs peft.

Run: OPENWORK_DATA=data OPENWORK_WHEELS=wheels taskset -c 1 python benchmarks/fine_tuning.py
"""

import argparse
import copy
import statistics
from typing import Any

import torch
from pretrained import Trained, lenet, minilm

import openwork as ow
from openwork.study.models.lenet import LeNet300100


def whole(trained: Trained, model: Any, steps: int, seed: int) -> Any:
    """The model after fine-tuning all its weights with AdamW; its zeros are kept."""
    fixed = ow.GradualMagnitude(ow.Constant(0.0))
    sparsifier = ow.sparsify(model, fixed, select=trained.select, keep_zeros=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4 if steps > 100 else 1e-4, weight_decay=0.01)
    sparsifier.attach(optimizer)
    trained.train(model, optimizer, steps, seed)
    return sparsifier.finalize()


def lora(trained: Trained, model: Any, steps: int, seed: int) -> Any:
    """The model after fine-tuning LoRA adapters through its zeros, merged."""
    import peft

    from openwork.integrations.peft import keep_zeros

    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=r"encoder.*(query|key|value|dense)"))
    keep_zeros(adapted)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.01)
    trained.train(adapted, optimizer, steps, seed)
    return adapted.merge_and_unload()


def main() -> None:
    """Prints a row for each model, sparsity and way to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["LeNet-300-100", "MiniLM-L6-v2"], help="which of them")
    parser.add_argument("--ways", nargs="+", default=["whole"], choices=["whole", "lora"], help="how to train")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, medians (lowest to highest) of {arguments.seeds} seeds")
    print("| model | zeros | by | dense | pruned | fine-tuned | zeros lost |")
    for name in arguments.models:
        small = name == "LeNet-300-100"
        trained = lenet(LeNet300100) if small else minilm()
        dense = trained.score(trained.model)
        techniques = {
            "2:4": ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4)),
            **{f"{s:.0%}": ow.GradualMagnitude(ow.OneShot(s)) for s in ((0.9, 0.95, 0.98) if small else (0.7,))},
        }
        for label, technique in techniques.items():
            pruned = copy.deepcopy(trained.model)
            ow.prune(pruned, technique, select=trained.select)
            before, zeros = trained.score(pruned), {k: p == 0 for k, p in pruned.named_parameters()}
            for way in arguments.ways:
                scores, lost = [], 0
                for seed in range(arguments.seeds):
                    steps = 600 if small else 60
                    tuned = {"whole": whole, "lora": lora}[way](trained, copy.deepcopy(pruned), steps, seed)
                    scores.append(trained.score(tuned))
                    lost += sum(int((p[zeros[k]] != 0).sum()) for k, p in tuned.named_parameters() if p.dim() > 1)
                print(
                    f"| {name} | {label} | {way} | {dense:.4f} | {before:.4f} | {statistics.median(scores):.4f} "
                    f"({min(scores):.4f} to {max(scores):.4f}) | {lost} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
