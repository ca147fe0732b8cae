import itertools
import math
import random

import pytest
import torch

from openwork.study.evaluation.beam import beam_search
from openwork.study.models.incremental import Incremental
from openwork.study.models.transformer import Transformer, padded


def translator(vocabulary=12, seed=0, **settings):
    torch.manual_seed(seed)
    model = Transformer(vocabulary, width=32, hidden=48, heads=4, layers=2, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # sharper: a random model's beginnings are all alike
    return model


def sentences(count, longest=8):
    chance = random.Random(0)
    return [[chance.randrange(2, 12) for _ in range(chance.randrange(1, longest))] + [1] for _ in range(count)]


def limits(sources, extra):
    return torch.tensor([len(source) + extra for source in sources])


def found(model, sources, *, extra=12, beam=4, alpha=0.6):
    return beam_search(Incremental(model).begin(padded(sources), beam), limits(sources, extra), beam=beam, alpha=alpha)


def next_log_p(model, source, prefix):
    with torch.no_grad():
        return torch.log_softmax(model(padded([source]), padded([[*prefix, 2]]))[-1], -1).tolist()


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def plain_search(model, source, *, extra=12, beam=4, alpha=0.6):
    """One sentence, no cache, lists: the slow twin of `beam_search`."""
    limit, alive, best = len(source) + extra, [(0.0, [])], (-math.inf, None)
    for length in range(1, limit + 1):
        grown = [(p + q, [*ids, n]) for p, ids in alive for n, q in enumerate(next_log_p(model, source, ids))]
        grown = sorted(grown, reverse=True)[: 2 * beam]
        ended = [(p / penalty(length, alpha), ids[:-1]) for p, ids in grown if ids[-1] == 1]
        best = max([best, *ended], key=lambda scored: scored[0])
        alive = [(p, ids) for p, ids in grown if ids[-1] != 1][:beam]
        if best[0] > alive[0][0] / penalty(limit, alpha):
            break
    return best if best[1] is not None else (alive[0][0] / penalty(limit, alpha), alive[0][1])


@pytest.mark.parametrize(("beam", "alpha", "split_heads"), [(4, 0.6, False), (1, 0.6, True), (3, 0.0, False)])
def test_the_search_is_its_plain_twin(beam, alpha, split_heads):
    model, sources = translator(split_heads=split_heads), sentences(12)
    ids, scores = found(model, sources, beam=beam, alpha=alpha)
    plain = [plain_search(model, source, beam=beam, alpha=alpha) for source in sources]
    assert ids == [each for _, each in plain]
    assert scores == pytest.approx([score for score, _ in plain], abs=1e-4)
    assert len({len(each) for each in ids}) > 3  # some end at once, some not within the limit


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_that_holds_everything_finds_the_best_translation_there_is(seed):
    model, source = translator(vocabulary=4, seed=seed), [2, 3, 1]
    ids, scores = found(model, [source], extra=1, beam=64)  # at most 4 tokens of 4
    all_scores = {}
    for length in range(4):
        for prefix in itertools.product((0, 2, 3), repeat=length):
            steps = [next_log_p(model, source, prefix[:n])[token] for n, token in enumerate((*prefix, 1))]
            all_scores[prefix] = sum(steps) / penalty(length + 1, 0.6)
    assert len(all_scores) == 1 + 3 + 9 + 27
    best = max(all_scores, key=all_scores.get)
    assert (tuple(ids[0]), scores[0]) == (best, pytest.approx(all_scores[best], abs=1e-4))


def test_the_batch_size_does_not_matter():
    model, sources = translator(), sentences(20)
    whole = found(model, sources)[0]
    for size in (1, 7):
        parts = [found(model, sources[begin : begin + size])[0] for begin in range(0, 20, size)]
        assert [ids for part in parts for ids in part] == whole
    order = list(range(20))
    random.Random(1).shuffle(order)
    assert found(model, [sources[i] for i in order])[0] == [whole[i] for i in order]


def test_a_cache_that_grows_forgets_nothing():
    model = translator()
    prefixes = Incremental(model).begin(padded([[3, 4, 1]]), 1)
    ids = [2 + n % 9 for n in range(70)]  # more than the 64 places that a cache begins with
    step = prefixes.step()
    for token in ids:
        step = prefixes.step(torch.tensor([[token]]), torch.tensor([[0]]))
    with torch.no_grad():
        expected = model(padded([[3, 4, 1]]), padded([[*ids, 2]]))[-1]
    torch.testing.assert_close(step[0, 0], expected)


@pytest.mark.gpu
def test_a_gpu_translates_as_a_cpu():
    model, sources = translator(), sentences(20)
    expected = found(model, sources)[0]
    prefixes = Incremental(model.cuda()).begin(padded(sources).cuda(), 4)
    assert beam_search(prefixes, limits(sources, 12).cuda())[0] == expected


def test_nothing_that_ends_gives_the_best_beginning():
    model = translator()
    with torch.no_grad():
        model.embedding.weight[1] = 0  # the end is never the best: its logit is 0
        model.embedding.weight[7] += 50 * model.decoder_norm.weight  # and 7 nearly always is
    ids, _ = found(model, [[3, 1], [4, 5, 1]], extra=2, beam=2)
    assert [len(each) for each in ids] == [4, 5]


def test_wrong_use_is_refused():
    model = translator()
    with pytest.raises(ValueError, match="beam must be at least 1"):
        beam_search(Incremental(model).begin(padded([[1]]), 1), torch.tensor([3]), beam=0)
    with pytest.raises(ValueError, match=r"call model\.eval"):
        Incremental(model.train())
