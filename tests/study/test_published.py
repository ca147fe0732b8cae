"""The published tables and rows; where the release's rows lie beside the project, the README is pinned by them."""

import csv
from pathlib import Path

import pytest

from openwork.study.published.overlay import BANDS, bands, overlay
from openwork.study.published.rows import TABLES, checkpoints, of, read, relabelled, table

ROWS = Path(__file__).parents[3] / "shared" / "published"
needs_rows = pytest.mark.skipif(not ROWS.is_dir(), reason="the published rows are not beside the project")


@pytest.fixture(scope="module")
def rows():
    return read(ROWS)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_every_table_ships_with_its_source():
    for name in TABLES:
        lines = table(name)
        assert lines
        assert all(line["source"] for line in lines), name
    with pytest.raises(ValueError, match="no published table 'checkpoint'; there are baselines, checkpoints"):
        table("checkpoint")


def test_the_readme_lists_49_models():
    listed = checkpoints()
    assert len(listed) == 49
    (l0,) = [r for r in of(listed, "transformer", "l0_regularization") if r.sparsity == 0.5]
    assert (l0.score, l0.settings) == (
        26.72,
        {
            "coefficient": 2.89e-7,
            "schedule": "cubic",
            "start": 1e5,
            "duration": 2e5,
            "regularization": "label_smoothing",
        },
    )


def test_the_release_s_pruning_files_are_read(tmp_path):
    written(
        tmp_path, "transformer_magnitude_pruning.csv",
        "Tensor2Tensor HParams,Moses BLEU,Sparsity,begin_pruning_step,end_pruning_step,pruning_frequency,"
        "regularization,threshold_decay\nsparse_transformer,26.33,0.5,100000,400000,10000,dropout+label smoothing,0\n",
    )  # fmt: skip
    (result,) = read(tmp_path)
    assert (result.model, result.technique, result.sparsity, result.score) == (
        *("transformer", "magnitude_pruning"), *(0.5, 26.33),
    )  # fmt: skip
    assert result.text == "begin=100000, end=400000, frequency=10000, regularization=dropout+label_smoothing"
    assert result.printed == ""


def test_each_threshold_of_variational_dropout_is_a_result(tmp_path):
    written(
        tmp_path, "transformer_variational_dropout.csv",
        "Tensor2Tensor Hparams,dkl_weight,dkl_weight_fn,dkl_weight_start,dkl_weight_diff,regularization,"
        "MOSES BLEU:0.0,Sparsity:0.0,MOSES BLEU:0.5,Sparsity:0.5\nx,2.22e-07,constant,0,1,none,0.2,0.99,13.5,0.98\n",
    )  # fmt: skip
    found = read(tmp_path)
    assert [(r.sparsity, r.score, r.settings["threshold"]) for r in found] == [(0.99, 0.2, 0.0), (0.98, 13.5, 0.5)]


def test_repetitions_in_columns_become_results(tmp_path):
    written(
        tmp_path, "rn50_scratch_lr_scaled.csv",
        "sparsity,time multiplier,init method,begin,end,freq,label smoothing,Run 1,Run 2\n"
        "0.5,1,baseline,40000,100000,2000,0.1,74.566,74.622\n",
    )  # fmt: skip
    written(tmp_path, "rn50_scratch_lr_constant_decay.csv", "sparsity,time multiplier,,accuracy\n0.5,2,sparse,72.502\n")
    single, first, second = read(tmp_path)
    assert [first.score, second.score] == [74.566, 74.622]
    assert (single.technique, single.settings["init"]) == ("scratch_lr_constant_decay", "sparse")


def test_exchanged_headings_of_resnet_l0_are_repaired_and_kept(tmp_path):
    written(
        tmp_path, "rn50_l0_regularization.csv",
        "initial_log_alpha,l0_norm_weight,label_smoothing,weight_decay,global_sparsity,accuracy\n"
        "2.197,0.0003,0.0001111,0.1,0.5,0.01\n2.197,0.0003,0,0,0,0.40504\n",
    )  # fmt: skip
    first, second = read(tmp_path)
    assert (first.settings["label_smoothing"], first.settings["weight_decay"]) == (0.1, 0.0001111)
    assert "label_smoothing=0.0001111, weight_decay=0.1" in first.printed
    assert second.score == pytest.approx(40.504)  # fractions become %


def test_labels_of_the_l0_block_are_dealt_out_again(tmp_path):
    head = "MOSES BLEU,Sparsity,l0_norm_weight,l0_norm_weight_fn,dkl_weight_start,dkl_weight_diff,regularization\n"
    lines = "25.58,0.68,2.22e-07,linear,100000,100000,none\n26,0.6,2.89e-07,linear,100000,100000,none\n"
    inside, outside = read(written(tmp_path, "transformer_l0_regularization.csv", head + lines))
    # second of the linear labels: the second result, and results go through the schedules first
    assert (inside.settings["schedule"], inside.settings["start"]) == ("cubic", 0.0)
    assert inside.printed.startswith("coefficient=2.22e-07, schedule=linear, start=100000")
    assert (outside.settings["schedule"], outside.printed) == ("linear", "")


@pytest.mark.parametrize("duration", [100_000, 200_000, 300_000, 400_000])
def test_dealing_out_labels_loses_none(duration):
    labels = [
        {"coefficient": c, "schedule": s, "start": float(t), "duration": float(duration)}
        for c in (2.22e-8, 8.89e-8, 1.56e-7, 2.22e-7)
        for s in ("linear", "cubic")
        for t in range(0, 500_001 - duration, 100_000)
    ]
    dealt = [tuple(relabelled(label).items()) for label in labels]
    assert sorted(dealt) == sorted(tuple(label.items()) for label in labels)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no published rows under .*state_of_sparsity/results"):
        read(tmp_path)
    written(tmp_path, "rn50_magnitude_pruning.csv", "Sparsity,begin,accuracy\n0.5,0,76\n0.5,0,none\n")
    with pytest.raises(ValueError, match=r"rn50_magnitude_pruning.csv, line 3: cannot be read as results"):
        read(tmp_path)
    written(tmp_path, "rn50_magnitude_pruning.csv", "")
    with pytest.raises(ValueError, match="is empty; get it again"):
        read(tmp_path)


def test_points_of_the_papers_have_our_names_and_units():
    points = overlay("LeNet-300-100, MNIST")
    assert {(p.technique, p.sparsity, p.score) for p in points} >= {("VariationalDropout", 0.9752, 0.9842)}
    (han,) = [p for p in points if p.technique == "PruneRetrain"]
    assert (han.sparsity, han.score) == pytest.approx((11 / 12, 0.9841))  # 12 times fewer weights, 1.59 % errors
    assert len(overlay("Transformer, WMT14 En-De")) == 28
    assert len(overlay("ResNet-50, ImageNet")) == 21
    assert overlay("LeNet-300-100, digits 8x8") == []


def test_bands_have_mean_and_extremes():
    assert {band.name for model in ("transformer", "resnet50") for band in bands(model)} == set(BANDS)
    (lottery,) = [b for b in bands("transformer") if (b.name, b.sparsity) == ("lottery ticket", 0.6)]
    assert (lottery.mean, lottery.lowest, lottery.highest, lottery.n) == (22.538, 15.17, 24.3, 25)


@needs_rows
def test_the_rows_are_all_there(rows):
    counts = {
        ("transformer", "magnitude_pruning"): 504, ("transformer", "random_pruning"): 630,
        ("resnet50", "magnitude_pruning"): 236, ("resnet50", "random_pruning"): 288,
        ("resnet50", "variational_dropout"): 161, ("transformer", "lottery_ticket"): 175,
    }  # fmt: skip
    assert {key: len(of(rows, *key)) for key in counts} == counts


PRUNED = [model for model in checkpoints() if model.technique in ("magnitude_pruning", "random_pruning")]


@needs_rows
@pytest.mark.parametrize("model", PRUNED, ids=lambda model: f"{model.model}-{model.technique}-{model.sparsity}")
def test_the_readme_s_pruned_models_are_the_best_rows(rows, model):
    best = max(
        (r for r in of(rows, model.model, model.technique) if r.sparsity == model.sparsity), key=lambda r: r.score
    )
    assert best.settings == model.settings
    # 72.218 is listed as 72.2, 58.084 as 58.04
    slack = {72.2: 0.019, 58.04: 0.045, 43.99: 0.0061}.get(model.score, 0.00501)
    assert best.score == pytest.approx(model.score, abs=slack)


@needs_rows
def test_our_dealing_of_labels_is_the_one_that_was_inferred_row_by_row(rows):
    path = ROWS / "transformer_l0_regularization_candidates.csv"
    with path.open(newline="") as file:
        inferred = list(csv.DictReader(file))
    names = {"coefficient": "l0_norm_weight", "schedule": "schedule", "start": "start"}
    for line, result in zip(inferred, of(rows, "transformer", "l0_regularization"), strict=True):
        corrected = [line[f"{name}_corrected_inferred"] for name in names.values()]
        assert [str(result.settings["schedule"]), result.settings["start"]] == [corrected[1], float(corrected[2])]
        assert result.settings["coefficient"] == pytest.approx(float(corrected[0]))
        assert bool(result.printed) == (line["label_permutation_suspected"] == "yes")


@needs_rows
def test_the_shipped_means_are_those_of_the_rows(rows):
    scratch = [r for r in of(rows, "transformer", "lottery_ticket") if r.sparsity == 0.6]
    (line,) = [b for b in bands("transformer") if (b.name, b.sparsity) == ("lottery ticket", 0.6)]
    assert sum(r.score for r in scratch) / 25 == pytest.approx(line.mean, abs=0.0005)
