"""The callback in real trainings by Hugging Face's Trainer."""

import pytest
import torch
import transformers

import openwork as ow
from openwork.integrations.transformers import SparsifyCallback

RAMP = ow.Cubic(0.75, begin=2, end=8, every=2)
IDS = torch.randint(20, (32, 6), generator=torch.Generator().manual_seed(0))
TEXTS = [{"input_ids": ids, "labels": ids} for ids in IDS]
SENTENCES = [{"input_ids": ids, "labels": ids[0] % 2} for ids in IDS]


def gpt2(seed=0):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 20, "n_positions": 6, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def bert(seed=0):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 8}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    )


# GPT-2's Linear is a Conv1D with the weight transposed, and its softmax is tied to the embedding.
CASES = {
    "frozen": (gpt2, TEXTS, ow.GradualMagnitude(RAMP)),
    "trained": (gpt2, TEXTS, ow.GradualMagnitude(RAMP, hidden="trained")),
    "RigL": (gpt2, TEXTS, ow.RigL(ow.Constant(0.75, every=2, stop=10))),
    "Movement": (gpt2, TEXTS, ow.Movement(RAMP)),
    "VariationalDropout": (gpt2, TEXTS, ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-5.0)),
    "VariationalDropout of BERT": (bert, SENTENCES, ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-5.0)),
    "L0": (bert, SENTENCES, ow.L0(ow.Constant(1e-2), dropout=0.9)),
}


def trainer_of(model, sparsifier, data, folder, **settings):
    arguments = {
        "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 4,
        "report_to": "none",
        "save_strategy": "steps", "save_steps": 4, "disable_tqdm": True, "use_cpu": True, **settings,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(output_dir=str(folder), **arguments)
    return transformers.Trainer(
        model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[SparsifyCallback(sparsifier)]
    )


@pytest.mark.filterwarnings("ignore:.* keeps no weight")  # as variational dropout leaves them after 12 steps
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(case, tmp_path):
    make, data, technique = CASES[case]
    whole = make()
    sparsifier = ow.sparsify(whole, technique)
    trainer = trainer_of(whole, sparsifier, data, tmp_path)
    trainer.train()
    assert sparsifier.steps == 12
    logged = [row["sparsity"] for row in trainer.state.log_history if "loss" in row]
    assert logged[-1] == pytest.approx(sparsifier.sparsity())
    assert logged[-1] == 0.75 or "GradualMagnitude" not in repr(technique)

    model = make(seed=5)
    resumed = ow.sparsify(model, technique)
    trainer_of(model, resumed, data, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.steps == 12
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    types = {type(module) for module in sparsifier.finalize().modules()}
    assert types == {type(module) for module in make().modules()}


def test_accumulation_clipping_and_a_second_training(tmp_path):
    model = gpt2()
    sparsifier = ow.sparsify(model, CASES["frozen"][2])
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "save_strategy": "no", "max_steps": 5}
    trainer = trainer_of(model, sparsifier, TEXTS, tmp_path, **settings)
    trainer.train()
    trainer.train()
    assert (sparsifier.steps, sparsifier.sparsity()) == (10, 0.75)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.save_model(str(tmp_path / "saved"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    plain = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    for weight in sparsifier.weights:
        assert torch.equal(plain.get_parameter(weight.name), weight.parameter)
        assert int((weight.parameter == 0).sum()) == 0.75 * weight.parameter.numel()


def test_the_best_models_state_comes_with_its_weights(tmp_path):
    model = gpt2()
    sparsifier = ow.sparsify(model, CASES["frozen"][2], select=ow.weights_of(transformers.pytorch_utils.Conv1D))
    settings = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True, "greater_is_better": True}
    trainer = trainer_of(model, sparsifier, TEXTS, tmp_path, **settings)
    trainer.train()  # the largest loss is the "best", at step 4
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert sparsifier.steps == 4
    zeros = sum(int((weight.parameter == 0).sum()) for weight in sparsifier.weights)
    assert zeros == sum(int((~mask).sum()) for mask in sparsifier.masks().values())
    assert zeros / sum(weight.parameter.numel() for weight in sparsifier.weights) == sparsifier.sparsity() < 0.75


def test_a_checkpoint_without_its_state_is_refused(tmp_path):
    def resume():
        model = gpt2(seed=5)
        trainer = trainer_of(model, ow.sparsify(model, CASES["frozen"][2]), TEXTS, tmp_path)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

    model = gpt2()
    sparsifier = ow.sparsify(model, CASES["frozen"][2])
    trainer_of(model, sparsifier, TEXTS, tmp_path, max_steps=8).train()
    state = tmp_path / "checkpoint-4" / "sparsifier.pt"
    state.write_bytes((tmp_path / "checkpoint-8" / "sparsifier.pt").read_bytes())
    with pytest.raises(ValueError, match=r"are not those of the weights that the Trainer has loaded"):
        resume()
    state.unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4 holds no sparsifier.pt; resume from"):
        resume()


def test_a_state_that_cannot_be_written_leaves_the_old_one_alone(tmp_path, monkeypatch):
    model = gpt2()
    trainer = trainer_of(model, ow.sparsify(model, CASES["frozen"][2]), TEXTS, tmp_path)
    folder = tmp_path / "checkpoint-0"
    folder.mkdir()
    (folder / "sparsifier.pt").write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=rf"No space left on device: '{folder}/sparsifier.pt'$"):
        trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("sparsifier.pt", "old")]


@pytest.mark.parametrize("make", [gpt2, bert])
def test_fine_tuning_keeps_the_zeros_of_a_pruned_model(make, tmp_path):
    model = make()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4)))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() > 1}
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Constant(0.0)), keep_zeros=True)
    settings = {"weight_decay": 0.1, "gradient_accumulation_steps": 2, "max_steps": 4, "save_strategy": "no"}
    trainer_of(model, sparsifier, TEXTS if make is gpt2 else SENTENCES, tmp_path, **settings).train()
    sparsifier.finalize().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for name, weight in before.items():
        if name in dict(again.named_parameters()):
            now = again.get_parameter(name)
            assert torch.equal(now == 0, weight == 0), name
            assert torch.equal(now, model.get_parameter(name))
    assert any(not torch.equal(again.get_parameter(name), weight) for name, weight in before.items())
