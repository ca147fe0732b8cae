"""L0's gates on a CUDA device: beside a CPU, compiled, and in CUDA graphs."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.kernels import gate_sums, gates
from openwork.noise import key, keyed
from tests.helpers import mean

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)


def model(device=CUDA, technique=None, layout=torch.contiguous_format):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 33), nn.ReLU(), nn.Linear(33, 3)
    ).to(device, memory_format=layout)
    return made, ow.sparsify(made, technique or ow.L0(ow.Constant(1e-3), dropout=0.4))


def by_key(step, device):
    return keyed(torch.tensor(key(7, step), device=device))


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (1023,), (33, 65), (2, 3, 5, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gates_and_gradients_are_those_of_a_cpu(shape, dtype):
    weight, log_alpha, gradient = (torch.randn(shape, dtype=torch.float64) * scale for scale in (1, 4, 1))
    found = {}
    for device in ("cpu", "cuda"):
        kind = torch.float64 if device == "cpu" else dtype
        leaves = [each.to(device, kind, copy=True).requires_grad_() for each in (weight, log_alpha)]
        with by_key(0, device):
            output = gates.gated(*leaves)
        found[device] = [output, *torch.autograd.grad(output, leaves, gradient.to(device, kind))]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for theirs, ours in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=tolerance, atol=tolerance)


def test_rows_of_an_embedding_are_those_of_a_cpu():
    weight, log_alpha, gradient = torch.randn(7, 5), 4 * torch.randn(7, 5), torch.randn(3, 4, 5)
    ids = torch.randint(7, (3, 4))
    found = {}
    for device in ("cpu", "cuda"):
        leaves = [each.to(device, copy=True).requires_grad_() for each in (weight, log_alpha)]
        with by_key(0, device):
            output = gates.gated_rows(nn.functional.embedding, ids.to(device), *leaves)
        found[device] = [each.cpu() for each in (output, *torch.autograd.grad(output, leaves, gradient.to(device)))]
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=2e-5, atol=2e-5)


def test_channels_last_strided_and_unaligned_weights_are_taken():
    whole = torch.randn(6, 5, 3, 3, device=CUDA)
    flat = torch.randn(1001, device=CUDA)
    for weight in (whole.contiguous(memory_format=torch.channels_last), whole[::2], whole.transpose(0, 1), flat[1:]):
        leaves = [weight.detach().requires_grad_(), (2 * weight).detach().requires_grad_()]
        straight = [each.detach().contiguous().requires_grad_() for each in leaves]
        results = []
        for pair in (leaves, straight):
            with by_key(0, CUDA):
                output = gates.gated(*pair)
            cost = gate_sums.open_cost(torch.tensor([0.5, 0.2], device=CUDA), [pair[1]], [pair[0]])
            results.append([output, cost, *torch.autograd.grad(output.sum() + cost, pair)])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("compiled", "decay", "layout"),
    [
        (False, 0.0, torch.contiguous_format),
        (False, 0.1, torch.channels_last),
        (True, 0.1, torch.channels_last),
    ],
    ids=str,
)
def test_training_is_that_of_a_cpu(compiled, decay, layout):
    technique = ow.L0(ow.Constant(1e-3), dropout=0.4, weight_decay=decay)
    images, labels = torch.randn(4, 16, 3, 6, 6), torch.randint(3, (4, 16))
    trained = {}
    for device in ("cpu", "cuda"):
        made, sparsifier = model(device, technique, layout)
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        sparsifier.attach(optimizer)

        def loss(x, y, made=made, sparsifier=sparsifier):
            return nn.functional.cross_entropy(made(x), y) + sparsifier.penalty()

        function = torch.compile(loss) if compiled and device == "cuda" else loss
        for step in range(4):
            with by_key(step, device):
                function(images[step].to(device, memory_format=layout), labels[step].to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained[device] = {name: value.cpu() for name, value in made.state_dict().items()}
    torch.testing.assert_close(trained["cuda"], trained["cpu"], rtol=2e-3, atol=2e-4)


def test_the_penalty_of_all_weights_is_the_sum_of_each():
    _, sparsifier = model("cpu", ow.L0(ow.Constant(0.3), weight_decay=0.2))
    cpu = sparsifier.penalty()
    _, on_gpu = model(CUDA, ow.L0(ow.Constant(0.3), weight_decay=0.2))
    penalty = on_gpu.penalty()
    torch.testing.assert_close(penalty.cpu(), cpu, rtol=1e-5, atol=0)
    penalty.backward(), cpu.backward()
    for ours, theirs in zip(on_gpu._mechanism.distributions, sparsifier._mechanism.distributions, strict=True):
        torch.testing.assert_close(ours.log_alpha.grad.cpu(), theirs.log_alpha.grad)


def test_without_a_key_gates_open_as_often_as_the_theory_says():
    n, log_alpha = 4_000_000, -1.0
    torch.manual_seed(0)
    for function in (gates.gated, torch.compile(gates.gated)):
        first, second = (function(torch.ones(n, device=CUDA), torch.full((n,), log_alpha, device=CUDA)) for _ in "ab")
        p = 1 / (1 + torch.tensor(-log_alpha - 1.598597).double().exp().item())
        spread = 6 * (p * (1 - p) / n) ** 0.5
        assert (first != 0).double().mean().item() == pytest.approx(p, abs=spread)
        both = ((first != 0) & (second != 0)).double().mean().item()  # draws are independent
        assert both == pytest.approx(p * p, abs=6 * (p * p * (1 - p * p) / n) ** 0.5)


def test_a_seed_gives_the_same_gates_and_checkpointing_draws_them_again():
    from torch.utils.checkpoint import checkpoint

    made, _ = model()
    x = torch.randn(4, 3, 6, 6, device=CUDA)
    gradients = []
    for again in (False, True):
        torch.manual_seed(3)
        made.zero_grad()
        (checkpoint(made, x, use_reentrant=False) if again else made(x)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in made.parameters()])
    torch.testing.assert_close(*gradients)


def test_each_replay_of_a_captured_step_draws_other_gates():
    made, sparsifier = model()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.0, capturable=True)
    sparsifier.attach(optimizer)
    x, y = torch.randn(8, 3, 6, 6, device=CUDA), torch.randint(3, (8,), device=CUDA)
    gradients = torch.empty_like(mean(made[3]))

    def step():
        optimizer.zero_grad()
        (nn.functional.cross_entropy(made(x), y) + sparsifier.penalty()).backward()
        gradients.copy_(mean(made[3]).grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    seen = []
    for _ in range(3):
        graph.replay()
        seen.append(gradients.clone())
        assert (seen[-1] == 0).any()  # a closed gate lets no gradient through
    assert not torch.equal(seen[0] == 0, seen[1] == 0)
    assert not torch.equal(seen[1] == 0, seen[2] == 0)
    torch.manual_seed(5)
    graph.replay()
    first = gradients.clone()
    torch.manual_seed(5)
    graph.replay()
    assert torch.equal(first == 0, gradients == 0)  # and a seed gives the same ones
    torch.testing.assert_close(first, gradients)


def test_compiled_steps_in_cuda_graphs_draw_other_gates():
    made, sparsifier = model()
    x = torch.randn(8, 3, 6, 6, device=CUDA)

    def loss():
        return made(x).square().sum() + sparsifier.penalty()

    compiled = torch.compile(loss, mode="reduce-overhead", fullgraph=True)
    seen = []
    for _ in range(6):
        torch.compiler.cudagraph_mark_step_begin()
        made.zero_grad()
        compiled().backward()
        seen.append(mean(made[3]).grad.clone())
    assert len({tuple((each == 0).flatten().tolist()) for each in seen}) == 6


def test_the_whole_step_waits_for_nothing():
    made, sparsifier = model()
    x = torch.randn(4, 3, 6, 6, device=CUDA)
    (made(x).sum() + sparsifier.penalty()).backward()  # makes the table of addresses
    torch.cuda.set_sync_debug_mode("error")
    try:
        (made(x).sum() + sparsifier.penalty()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("technique", [ow.L0, ow.VariationalDropout], ids=lambda kind: kind.__name__)
def test_a_compiled_penalty_in_cuda_graphs_stays_right(technique):
    made, sparsifier = model(technique=technique(ow.Constant(0.3)))
    learned = list(sparsifier._mechanism.parameters().values())
    compiled = torch.compile(lambda: sparsifier.penalty(), mode="reduce-overhead", fullgraph=True)
    for _ in range(6):
        torch.compiler.cudagraph_mark_step_begin()
        penalty = compiled()
        penalty.backward()
        found = [penalty.detach().clone(), *(each.grad.clone() for each in learned)]
        made.zero_grad()
        expected = sparsifier.penalty()
        expected.backward()
        torch.testing.assert_close(found, [expected.detach(), *(each.grad for each in learned)])
        made.zero_grad()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(0.9)
        torch.randn(1_000_000, device=CUDA).sin_()  # writes to memory that was given back
