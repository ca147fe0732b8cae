"""What is saved comes back, the same to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import openwork as ow
from openwork.formats.sparse import positions, symbols
from openwork.formats.sparse.dtypes import DTYPES
from openwork.formats.sparse.packed import pack, unpack
from tests.helpers import conv_net


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, dtype and shape included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.contiguous().reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8))


def of_words(words: np.ndarray, name: str) -> torch.Tensor:
    """A tensor of a dtype whose memory is these words."""
    return torch.from_numpy(words.view(np.uint8).copy()).view(DTYPES[name].torch)


def through_pack(tensor: torch.Tensor) -> torch.Tensor:
    packed, frames = pack(tensor)
    return unpack(packed, np.frombuffer(frames, np.uint8))


@st.composite
def words(draw, word):
    """Words of every bit pattern, with long and short runs of zeros, -0.0, NaN payloads, infinities and denormals."""
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 3000))
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (count, word), dtype=np.uint8).view(f"u{word}").reshape(-1)
    top = np.array(1, found.dtype) << np.array(8 * word - 1, found.dtype)
    if draw(st.booleans()):  # exponents that are close together
        found = found >> np.array(draw(st.integers(0, 8 * word - 1)), found.dtype)
    found[rng.random(count) < draw(st.sampled_from([0, 0.1, 0.5, 0.95, 0.999, 1]))] = 0
    found[rng.random(count) < draw(st.sampled_from([0, 0, 0.01, 0.5]))] = top  # -0.0
    if draw(st.booleans()):
        found[rng.random(count) < 0.01] = np.iinfo(found.dtype).max  # a NaN
    return found


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_bits_of_any_dtype_come_back(name, data):
    if name == "BOOL":
        tensor = of_words(data.draw(words(1)) & 1, name)
    else:
        found = data.draw(words(DTYPES[name].word))
        tensor = of_words(found[: len(found) // DTYPES[name].words * DTYPES[name].words], name)
    assert same(through_pack(tensor), tensor)


SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 5e-324, 1e-45, 6e-8, 1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_special_values_come_back(dtype, tmp_path):
    tensor = torch.tensor(SPECIAL, dtype=torch.float64).repeat(200).to(dtype)
    ow.save({"x": tensor}, tmp_path / "x.safetensors")
    assert same(ow.load(tmp_path / "x.safetensors")["x"], tensor)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 1, 1), (7, 1000), (131072,), (131073,), (2, 3, 500)])
@pytest.mark.parametrize("name", ["F32", "BF16", "BOOL", "I64", "C64", "F8_E4M3"])
def test_every_shape_comes_back(shape, name, tmp_path):
    torch.manual_seed(0)
    tensor = (torch.randn(shape) * (torch.rand(shape) < 0.1)).to(DTYPES[name].torch)
    ow.save({"x": tensor, "y": tensor.clone()}, tmp_path / "x.safetensors")
    found = ow.load(tmp_path / "x.safetensors")
    assert same(found["x"], tensor)
    assert same(found["y"], tensor)


def test_tensors_that_are_not_contiguous_come_back():
    base = torch.arange(6000.0).reshape(60, 100)
    views = {"t": base.t(), "step": base[::3, ::7], "row": base[1].expand(50, 100), "part": base[10:50]}
    views |= {"conj": torch.complex(base, base).conj(), "neg": torch.complex(base, base).conj().imag}
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        ow.save(views, f"{folder}/x.safetensors")
        found = ow.load(f"{folder}/x.safetensors")
        for name, tensor in views.items():
            assert same(found[name], tensor.resolve_conj().resolve_neg()), name


def test_a_model_saved_and_loaded_is_the_same_model(tmp_path):
    model = conv_net()
    saved = ow.save(model, tmp_path / "x.safetensors")
    other = conv_net()
    other.load_state_dict(ow.load(saved.path))
    assert all(same(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_sparsifier_is_saved_finalized_with_its_technique_and_sparsities(tmp_path):
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    ow.save(sparsifier, tmp_path / "x.safetensors", metadata={"run": "3f2a"})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = file.metadata()
    assert about["technique"].startswith("GradualMagnitude(schedule=OneShot(")
    assert (about["sparsity"], about["run"], about["format"]) == ('{"0.weight": 0.9, "2.weight": 0.9}', "3f2a", "pt")
    assert ow.load(tmp_path / "x.safetensors")["0.weight"].count_nonzero() == 1000
    assert set(ow.load(tmp_path / "x.safetensors")) == set(sparsifier.finalize().state_dict())


def test_tied_tensors_are_there_once_and_one_again_after_loading(tmp_path):
    shared = torch.randn(100, 100)
    state = {"head.weight": shared, "embedding.weight": shared, "copy": shared.clone(), "half": shared[:50]}
    saved = ow.save(state, tmp_path / "x.safetensors")
    assert saved.dense_bytes == 100_000
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["copy.packed", "half.packed", "head.weight.packed"]
    found = ow.load(tmp_path / "x.safetensors")
    assert found["head.weight"] is found["embedding.weight"]
    assert found["copy"] is not found["head.weight"]
    assert all(same(found[name], state[name]) for name in state)
    assert ow.load(tmp_path / "x.safetensors", names=["embedding.weight"]).keys() == {"embedding.weight"}
    layers = ow.report(tmp_path / "x.safetensors").layers
    assert ("embedding.weight", ("head.weight",)) in [(layer.name, layer.also) for layer in layers]


def test_views_of_one_memory_with_other_values_are_not_tied(tmp_path):
    memory, numbers = torch.randn(3000), torch.randn(40, 40, dtype=torch.complex64)
    state = {
        "imaginary": numbers.imag,
        "negative": numbers.conj().imag,  # torch's lazy minus: the memory is that of "imaginary"
        "numbers": numbers,
        "conjugate": numbers.conj(),
        "first": memory[:2000],
        "last": memory[1000:],
        "bits": memory.view(torch.int32),
        "square": memory[:2500].view(50, 50),
        "transposed": memory[:2500].view(50, 50).t(),
    }
    ow.save(state, tmp_path / "x.safetensors")
    found = ow.load(tmp_path / "x.safetensors")
    for name, tensor in state.items():
        assert same(found[name], tensor.resolve_conj().resolve_neg()), name


def test_small_tensors_and_noise_stay_as_they_are(tmp_path):
    torch.manual_seed(0)
    state = {
        "bias": torch.zeros(64),
        "ids": torch.arange(1000),
        "noise": torch.randint(0, 256, (1000,), dtype=torch.uint8),
        "half": torch.randn(1000) * (torch.rand(1000) < 0.5),
        "few": torch.randn(1000) * (torch.rand(1000) < 0.05),
        "weight": torch.randn(1000),
    }
    saved = ow.save(state, tmp_path / "x.safetensors")
    codes = {"bias": "dense", "ids": "all", "noise": "dense", "half": "bits", "few": "gaps", "weight": "all"}
    assert saved.codes == codes
    assert saved.counts() == {"dense": 2, "all": 2, "bits": 1, "gaps": 1}
    assert saved.file_bytes == (tmp_path / "x.safetensors").stat().st_size
    plain = load_file(tmp_path / "x.safetensors")  # by the plain library
    assert plain["bias"].equal(state["bias"])
    assert plain["few.packed"].dtype == torch.uint8


def test_names_that_clash_are_no_problem(tmp_path):
    weight = torch.zeros(1000)
    names = ["w", "w.packed", "w.packed.packed", "openwork", "format"]
    state = {name: weight + i for i, name in enumerate(names)}
    saved = ow.save(state, tmp_path / "x.safetensors")
    assert saved.codes["w"] == saved.codes["w.packed"] == "dense"
    assert saved.codes["w.packed.packed"] == "all"
    found = ow.load(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    assert all(same(found[name], state[name]) for name in state)


def test_a_file_without_packed_tensors_is_plain_safetensors_and_needs_no_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    ow.save({"bias": torch.ones(3), "flag": torch.tensor(True)}, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert ow.load(tmp_path / "x.safetensors")["bias"].tolist() == [1, 1, 1]
    with pytest.raises(ImportError, match=r'packed tensors need zstandard: pip install "openwork\[files\]"'):
        ow.save({"w": torch.zeros(1000)}, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


def test_threads_change_no_byte(tmp_path):
    torch.manual_seed(0)
    state = {f"layer{i}": torch.randn(40, 50) * (torch.rand(40, 50) < i / 20) for i in range(20)}
    for threads in (1, 2, 7):
        ow.save(state, tmp_path / f"{threads}.safetensors", threads=threads)
        found = ow.load(tmp_path / "1.safetensors", threads=threads)
        assert all(same(found[name], state[name]) for name in state)
    assert len({(tmp_path / f"{threads}.safetensors").read_bytes() for threads in (1, 2, 7)}) == 1


@pytest.mark.parametrize("gaps", [[0], [254], [255], [256], [509, 510, 511], [0, 255, 0], [1000, 3], [255] * 9])
def test_gaps_of_any_length_come_back(gaps):
    mask = np.zeros(sum(gaps) + len(gaps) + 300, np.bool_)
    mask[np.cumsum(np.array(gaps) + 1) - 1] = True
    code = np.frombuffer(positions.GAPS.encode(mask), np.uint8)
    found = np.concatenate([*positions.GAPS.decode(code, len(gaps), len(mask))])
    assert found.tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("kind", symbols.SYMBOLS)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
@pytest.mark.parametrize("count", [0, 1, 7, 40_000])
def test_every_code_of_symbols_gives_them_back(kind, share, count):
    rng = np.random.default_rng(0)
    found = np.where(rng.random(count) < share, rng.integers(0, 256, count), 120).astype(np.uint8)
    frames = [np.frombuffer(part, np.uint8) for part in symbols.SYMBOLS[kind].encode(found)]
    assert symbols.SYMBOLS[kind].decode(*frames, count).tolist() == found.tolist()
