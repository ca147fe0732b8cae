"""LoRA through the zeros of a sparse model: trained, merged and taken back."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow

peft = pytest.importorskip("peft", reason="peft is not installed")
transformers = pytest.importorskip("transformers")
from openwork.integrations.peft import keep_zeros  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks transformers
X = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 8)

    def forward(self, x):
        return self.fc2(self.fc1(x).tanh())


def adapted(net=None, *, keep=True, pattern=None, targets=("fc1", "fc2"), **settings):
    torch.manual_seed(0)
    net = net or Net()
    pattern = {} if pattern is None else {"pattern": pattern}
    ow.prune(net, ow.GradualMagnitude(ow.OneShot(0.5), **pattern))
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **settings)
    model = peft.get_peft_model(net, config)
    if keep:
        keep_zeros(model)
    return model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("base_layer.weight")}


def train(model, steps=5, x=X):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("pattern", [None, ow.NM(2, 4), ow.Rows()])
def test_merging_keeps_every_zero_and_computes_what_was_trained(pattern, safe):
    model = adapted(pattern=pattern)
    before = weights(model)
    train(model)
    trained = model(X)
    merged = model.merge_and_unload(safe_merge=safe)
    torch.testing.assert_close(merged(X), trained, rtol=1e-4, atol=1e-5)
    for name, weight in before.items():
        now = merged.get_parameter(name.removeprefix("base_model.model.").replace(".base_layer", ""))
        assert torch.equal(now == 0, weight == 0)
        assert not torch.equal(now, weight)
    assert type(merged.fc1) is nn.Linear


def test_without_it_lora_fills_the_zeros():
    model = adapted(keep=False)
    assert int((model.merge_and_unload().fc1.weight == 0).sum()) == 0


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("adapters", [1, 2])
def test_unmerging_gives_the_weights_back_bit_for_bit(adapters, safe):
    model = adapted()
    if adapters == 2:
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["fc1"], init_lora_weights=False))
        keep_zeros(model)
        model.base_model.set_adapter(["default", "second"])
    before, expected = weights(model), model(X)
    for _ in range(3):
        model.merge_adapter(safe_merge=safe)
        assert all(torch.equal(now == 0, before[name] == 0) for name, now in weights(model).items())
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        assert all(torch.equal(now, before[name]) for name, now in weights(model).items())
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_merges_through_zeros_and_back(dtype):
    model = adapted().to(dtype)
    before = weights(model)
    model(X.to(dtype)).sum().backward()
    model.merge_adapter()
    assert all(torch.equal(now == 0, before[name] == 0) for name, now in weights(model).items())
    model.unmerge_adapter()
    assert all(torch.equal(now, before[name]) for name, now in weights(model).items())


def test_weights_that_transformers_stores_inputs_first_keep_their_zeros():
    sizes = {"vocab_size": 20, "n_positions": 6, "n_embd": 8, "n_layer": 1, "n_head": 2}
    net = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    ow.prune(net, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4)), select="transformer.h")
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    model = peft.get_peft_model(net, config).eval()
    names = keep_zeros(model)
    assert [name.split(".h.0.")[1] for name in names] == ["attn.c_attn.base_layer.weight", "mlp.c_fc.base_layer.weight"]
    ids, before = torch.arange(6)[None], weights(model)
    expected = model(input_ids=ids).logits
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(now == 0, before[name] == 0) for name, now in weights(model).items())


def test_an_adapter_from_a_file_keeps_zeros_once_told_again(tmp_path):
    model = adapted()
    train(model)
    expected, dense = model(X), weights(model)
    model.save_pretrained(tmp_path)
    net = copy.deepcopy(model.unload())
    again = peft.PeftModel.from_pretrained(net, tmp_path)
    assert keep_zeros(again)
    torch.testing.assert_close(again(X), expected)
    again.merge_adapter()
    assert all(torch.equal(now == 0, dense[name] == 0) for name, now in weights(again).items())


def test_dropout_and_a_disabled_adapter_work():
    model = adapted(lora_dropout=0.5)
    model.train()
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))
    with model.disable_adapter():
        plain = model(X)
    torch.testing.assert_close(plain, model.unload()(X))


def test_layers_without_zeros_are_left_to_peft():
    torch.manual_seed(0)
    net = Net()
    ow.prune(net, ow.GradualMagnitude(ow.OneShot(0.5)), select="fc1")
    model = peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["fc1", "fc2"]))
    assert keep_zeros(model) == ["base_model.model.fc1.base_layer.weight"]
    assert keep_zeros(model) == ["base_model.model.fc1.base_layer.weight"]  # once more changes nothing


def test_an_adapter_that_was_added_afterwards_is_not_merged_below():
    model = adapted()
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["fc1"], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"\['second'\] were added after keep_zeros .*; call unmerge_adapter"):
        model.merge_adapter(["second", "default"])
    with pytest.warns(UserWarning, match="Already unmerged"):  # of fc2, to which the error came before
        model.unmerge_adapter()
    assert len(keep_zeros(model)) == 2
    model.merge_adapter(["second", "default"])
    assert int((model.base_model.model.fc1.base_layer.weight == 0).sum()) == 192


def refused(match, model):
    with pytest.raises(ValueError, match=match) as raised:
        keep_zeros(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("later", ["add_adapter", "add_weighted_adapter"])
def test_an_adapter_that_is_made_later_keeps_zeros_once_told_again(later):
    model = adapted()
    before = [weight == 0 for weight in weights(model).values()]
    if later == "add_adapter":
        model.add_adapter("later", model.peft_config["default"])
    else:
        model.add_adapter("other", model.peft_config["default"])
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "later", combination_type="linear")
    keep_zeros(model)
    model.set_adapter("later")
    computed = model(X)
    model.merge_adapter()
    assert all(torch.equal(weight == 0, zeros) for weight, zeros in zip(weights(model).values(), before, strict=True))
    torch.testing.assert_close(model(X), computed)


def test_what_cannot_keep_zeros_is_refused_in_one_sentence():
    refused("none of the 0 LoRA layers has a weight with zeros; prune the model first", Net())
    refused("none of the 2 LoRA layers", peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["fc1", "fc2"])))
    refused("kind DoraLinearVariant, .*turn the variant off", adapted(keep=False, use_dora=True))
    conv = nn.Sequential(nn.Conv2d(4, 4, 1))
    refused("LoRA layer of the kind Conv2d, .*leave it out of target_modules", adapted(conv, keep=False, targets=["0"]))
    merged = adapted(keep=False)
    with torch.no_grad():
        merged.base_model.model.fc1.lora_B["default"].weight.zero_()  # so that zeros are still there
    merged.merge_adapter()
    refused("fc1 is merged, which has filled its zeros; call unmerge_adapter", merged)


def test_an_adapter_that_is_made_anew_under_its_name_keeps_zeros():
    model = adapted()
    zeros = {name: weight == 0 for name, weight in weights(model).items()}
    model.base_model.inject_adapter(model.base_model.model, "default")  # which sets each layer's adapter up again
    train(model)
    computed = model(X)
    model.merge_adapter()
    torch.testing.assert_close(model(X), computed, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(weight == 0, zeros[name]) for name, weight in weights(model).items())


@pytest.mark.skipif(not hasattr(peft, "convert_to_lora"), reason="this release of PEFT does not convert adapters")
def test_an_adapter_is_not_converted_to_one_that_fills_the_zeros():
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        peft.convert_to_lora(adapted(), rank=2)
