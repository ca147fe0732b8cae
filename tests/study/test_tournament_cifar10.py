"""The runs of results/cifar10-tournament/PLAN.md, and its script, which trains a tiny contest."""

import csv
from collections import Counter
from dataclasses import replace

import pytest

import openwork as ow
from openwork.study.experiments import tournament_cifar10 as tournament
from openwork.study.experiments.tournament_cifar10 import AIMS, EPOCHS, PILOTS, TICKET, aimed, contest
from openwork.study.fleet import memory
from openwork.study.runs.run import with_prerequisites
from openwork.study.runs.unfinished import unfinished_schedules
from openwork.study.tasks import cifar10
from openwork.study.tasks.cifar10 import Cifar10SmallResNet
from tests.study.study_script import script
from tests.study.test_fleet_networks import compare, splits

FACTORS = {name: tuple(float(n) for n in range(1, 9)) for name in PILOTS}
HEAD = "technique,level,setting\n"
WHOLE = contest(factors=FACTORS)
run = script("cifar10-tournament")


@pytest.fixture
def chosen(tmp_path):
    """A file of choices: each technique's last setting, at two levels."""
    lines = [
        f'"{name}",{level},{len(entrant.settings) - 1}\n'
        for name, entrant in WHOLE.entrants.items()
        for level in ((0.0,) if name == "dense" else (0.9, 0.98))
    ]
    (tmp_path / "chosen.csv").write_text(HEAD + "".join(lines), encoding="utf-8")
    return tmp_path / "chosen.csv"


def total(run):
    """The steps of a network, with those of what it starts from."""
    return run.steps + sum(total(each) for each in run.prerequisites)


def test_every_technique_has_eight_tuning_runs_and_all_differ():
    runs = WHOLE.trials()
    assert set(Counter(name for name, _, _ in runs).values()) == {8}
    assert len({run.id for run in runs.values()}) == 8 * len(WHOLE.entrants)
    assert Counter((name, level) for name, level, _ in runs if level) == dict.fromkeys(
        ((name, level) for name, entrant in WHOLE.entrants.items() if entrant.told for level in (0.9, 0.98)), 4
    )


def test_every_network_has_the_same_steps_but_tickets_which_are_trained_twice(chosen):
    runs = [*WHOLE.trials().items(), *WHOLE.finals(chosen).items()]
    assert {total(run) for key, run in runs if key[0] != TICKET} == {EPOCHS * 195}
    tickets = [run for key, run in runs if key[0] == TICKET]
    assert {total(run) for run in tickets} == {2 * EPOCHS * 195}
    assert {run.first_weights.steps for run in tickets} == {round(0.02 * EPOCHS * 195), round(0.1 * EPOCHS * 195)}
    # The learning rates go on where the first steps end.
    for run in tickets:
        done = run.first_weights.steps / (EPOCHS * 195)
        assert run.task.learning_rate(0) == pytest.approx(run.kept_zeros.task.learning_rate(done))
    assert unfinished_schedules(with_prerequisites(run for _, run in runs)) == []


def test_tuning_never_reads_the_test_set_and_final_runs_train_on_all_images(chosen):
    tuning = with_prerequisites([*WHOLE.trials().values(), *tournament.pilots().values()])
    assert {(run.task.held_out, run.task.judged_on) for run in tuning} == {(5_000, "validation")}
    final = with_prerequisites(WHOLE.finals(chosen).values())
    assert {(run.task.held_out, run.task.judged_on) for run in final} == {(0, "test")}
    assert not {run.seed for run in final} & {run.seed for run in tuning}


def test_a_technique_that_is_told_its_sparsity_ends_with_it_and_the_stem_stays_dense():
    for (name, level, _), run in WHOLE.trials().items():
        sparse = run.kept_zeros or run
        assert run.select == ow.excluding("stem.weight") or name == "dense"
        if level:
            technique = sparse.technique
            asked = technique.sparsity if name == "Top-KAST" else technique.schedule(sparse.steps)
            assert asked == level, name


def test_a_tickets_mask_is_that_of_a_tuning_run_of_magnitude_pruning_so_that_it_is_trained_once():
    trials = WHOLE.trials()
    ids = {run.id for (name, *_), run in trials.items() if name == "magnitude, global ranking"}
    masks = {run.kept_zeros.id for (name, *_), run in trials.items() if name == TICKET}
    assert masks < ids
    assert len(masks) == 4


def test_pilots_say_which_factors_give_the_sparsities_aimed_at():
    # Of 1 and 0.1 of the weights, 0.316 lies in the middle of the logarithms.
    assert aimed({1.0: 0.0, 100.0: 0.9}, (1 - 0.1**0.5,)) == (10.0,)
    assert aimed({1.0: 0.8, 10.0: 0.9, 100.0: 0.85}, (0.5, 0.6, 0.9, 0.95, 0.98)) == (1 / 9, 1 / 3, 10, 30, 90)
    found = aimed({0.1: 0.3, 1.0: 0.7, 10.0: 0.95, 100.0: 1.0})
    assert sorted(found) == list(found)
    assert len(set(found)) == len(AIMS)


def test_tuning_runs_of_learned_sparsities_wait_for_the_pilots(tmp_path):
    def of_l0():
        every = [key for part, piece in run.pieces(tmp_path) if part == "A" for key in piece.runs()]
        return [key for key in every if key[0] == "L0"]

    assert of_l0() == []
    rows = run.Rows(tmp_path / "pilots.csv", run.PILOT, (*run.MEASURED, *run.COST))
    rows.add(
        {
            ("L0", factor, 1001): {"sparsity": "" if factor > 500 else 0.3 * n}
            for n, factor in enumerate(PILOTS["L0"], 1)
        }
    )
    run.write_factors(tmp_path)
    assert len(of_l0()) == 8
    assert list(run.factors(tmp_path)) == ["L0"]


def test_the_pieces_are_in_the_order_of_the_plan(tmp_path):
    letters = [letter for letter, _ in run.pieces(tmp_path)]
    assert letters == sorted(letters, key="PABC".index)


def small(_=None, factors=PILOTS):
    """A few techniques on a thin network, one level, for four steps."""
    names = ("dense", "magnitude, global ranking", TICKET, "L0")
    found = tournament.entrants(8, PILOTS | factors)
    few = {name: replace(found[name], options=found[name].options[:8], rates=found[name].rates[:1]) for name in names}
    task = Cifar10SmallResNet(depth=8, channels=2, batch_size=8)
    return tournament.Cifar10Contest(task, 8, 32, 8, 4, (0.8,), (0.8,), (0, 3), few)


@pytest.mark.parametrize("name", [name for name in WHOLE.entrants if name not in (TICKET, "movement")])
def test_every_technique_in_a_fleet_is_the_technique_alone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: splits(3, 32, 32))
    monkeypatch.setattr(memory, "FULL", 0)
    whole = replace(small(), entrants=tournament.entrants(8, PILOTS))
    runs = [whole.run(name, 0, 0.5, seed, whole.task) for seed in range(2)]
    if name == "SynFlow":
        runs = [replace(run, technique=replace(run.technique, rounds=2)) for run in runs]
    compare(runs, tmp_path, steps=8, rtol=0.02)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_tiny_tournament_is_piloted_tuned_and_played_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    images = splits(3, 32, 32)
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: images)
    for module in (run, tournament):
        monkeypatch.setattr(module, "contest", small)
        monkeypatch.setattr(module, "PILOTS", {"L0": PILOTS["L0"]})
    call = [str(tmp_path / "rows"), "--runs", str(tmp_path / "runs"), "--rate", "400"]
    run.main([*call, "--parts", "PA", "--seconds", "1.5"])  # begins no piece that would take longer
    run.main([*call, "--parts", "PAB"])
    run.main(call)
    assert "0 left" in capsys.readouterr().out
    tuned, final = (table(tmp_path / "rows" / f"{name}.csv") for name in ("tuning", "tournament"))
    assert Counter(row["technique"] for row in tuned) == {
        "dense": 1, "magnitude, global ranking": 2, TICKET: 2, "L0": 8,
    }  # fmt: skip
    assert {row["status"] for row in tuned + final} == {"finished"}
    told = [row for row in final if row["technique"] not in ("dense", "L0")]
    assert len(told) == 4
    assert all(float(row["sparsity"]) == pytest.approx(0.8, abs=0.01) for row in told)
    assert {row["seed"] for row in final} == {"0", "3"}
    assert len({row["id"] for row in final}) == len(final)


def test_the_speed_of_fleets_is_measured_and_written_nowhere(tmp_path, monkeypatch, capsys):
    images = splits(3, 32, 32)
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: images)
    whole = small()
    kinds = ("dense", "RigL, Erdős–Rényi", "variational dropout", "L0")
    trials = {(name, 0.0, 0): whole.trials()["dense", 0.0, 0] for name in kinds}
    monkeypatch.setattr(run, "contest", lambda *_: type("Fake", (), {"trials": lambda _: trials})())
    run.measure(run.torch.device("cpu"), members=2, steps=1)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 7
    assert said[2].startswith("0 dense: 2 runs, 4 lanes: ")


@pytest.mark.parametrize("value", ["0", "-3", "nan", "2.5", "x", ""])
@pytest.mark.parametrize("name", ["--epochs", "--members"])
def test_epochs_and_members_are_whole_numbers_from_one_on(name, value, tmp_path, capsys):
    refused(tmp_path, capsys, name, value, f"argument {name}: it must be a whole number and at least 1, got {value}\n")


@pytest.mark.parametrize("value", ["0", "-0.5", "nan", "inf", "x"])
def test_the_rate_is_a_number_above_zero(value, tmp_path, capsys):
    refused(tmp_path, capsys, "--rate", value, f"argument --rate: it must be a number above 0, got {value}\n")


def refused(folder, capsys, name, value, sentence):
    """Checks that the script refuses an argument before it makes a folder."""
    with pytest.raises(SystemExit) as ended:
        run.main([str(folder / "rows"), "--runs", str(folder / "runs"), f"{name}={value}"])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not list(folder.iterdir())
