"Attention and language models: PyTorch's own as reference, caches, perplexity"
import math

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from analognn.attention import AnalogAttention, AnalogBlock, AnalogLM
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep
from analognn.language import language_report, letters, perplexity, split_text, two_trainings
from analognn.nn import analog_layers, draw
from analognn.nonideal import Hardware

@given(B=st.integers(1, 3), L=st.integers(1, 8), heads=st.integers(1, 4), per_head=st.integers(1, 4), causal=st.booleans())
@settings(max_examples=30, deadline=None)
def test_attention_is_pytorchs(B, L, heads, per_head, causal):
    dim = heads*per_head
    ours, theirs, x = AnalogAttention(dim, heads, causal=causal).double(), nn.MultiheadAttention(dim, heads, batch_first=True).double(), torch.randn(B, L, dim, dtype=torch.float64, requires_grad=True)
    ours.load_state_dict({'qkv.weight': theirs.in_proj_weight, 'qkv.bias': theirs.in_proj_bias, 'out.weight': theirs.out_proj.weight, 'out.bias': theirs.out_proj.bias}, strict=False)
    mask = torch.ones(L, L, dtype=torch.bool).triu(1) if causal else None
    a, b = ours(x)[0], theirs(x, x, x, attn_mask=mask)[0]
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (a, b)))

@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_cache_changes_nothing(cuts, seed):
    model, tokens = AnalogLM(9, 8, 2, 2, 16, generator=stream(seed)).double(), torch.randint(0, 9, (2, sum(cuts)), generator=stream(seed, 'tokens'))
    empty = [(torch.zeros(2, 2, 0, 4, dtype=torch.float64),)*2 for _ in model.blocks]
    parts, caches = [], empty
    for part in tokens.split(cuts, 1):
        logits, caches = model(part, caches)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens))

def test_generation_is_reproducible():
    model, start = AnalogLM(9, 8, 2, 1, 16, generator=stream(0)), torch.zeros(1, 1, dtype=torch.int64)
    said = [model.generate(start, 10, generator=stream(s)) for s in (0, 0, 1)]
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])

def test_a_chip_of_a_language_model():
    model, tokens = AnalogLM(9, 8, 2, 2, 16, hardware=Hardware(mismatch=.1), generator=stream(0)), torch.randint(0, 9, (2, 5), generator=stream(1))
    assert len(analog_layers(model))==2*4+1
    assert not torch.equal(*(draw(model, generator=stream(k))(tokens) for k in range(2)))

def test_perplexity_by_hand():
    class Fixed(nn.Module):
        def forward(self, tokens): return torch.tensor([.5, .25, .25]).log().expand(*tokens.shape, 3)
    tokens = torch.tensor([[0, 0, 1, 2], [2, 0, 0, 0]])
    assert perplexity(Fixed(), tokens).mean==pytest.approx(math.exp(-(4*math.log(.5)+2*math.log(.25))/6))
    i = perplexity(Fixed(), tokens)
    assert i.low<=i.mean<=i.high

def test_perplexity_of_hugging_faces_models():
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    tokens = torch.randint(0, 50, (4, 12), generator=stream(0))
    assert perplexity(model, tokens).mean==pytest.approx(math.exp(model(input_ids=tokens, labels=tokens).loss.item()), rel=1e-4)
    assert language_report(model, tokens, rounds=1)['peak_mb']>0

def test_both_rivals_learn():
    sequences, alphabet = letters('the cat sat on the mat and the dog sat on the log. '*60, 16)
    parts = split_text(sequences)
    trained = two_trainings(parts, len(alphabet), 12, 2, .02, dim=16, n_heads=2, n_layers=1, context=16)
    for model in trained.values():
        assert perplexity(model, *parts['test']).mean<.6*len(alphabet)
        assert all(l.hardware==Hardware() for l in analog_layers(model).values())

def test_splits_do_not_overlap():
    parts = split_text(torch.arange(200).view(100, 2))
    seen = [set(x.flatten().tolist()) for x, _ in parts.values()]
    assert [len(s) for s in seen]==[80, 10, 10] and not seen[0]&seen[1] and not seen[1]&seen[2]

@pytest.mark.parametrize('call, words', [(lambda: AnalogAttention(6, 4), 'divides dim'), (lambda: AnalogAttention(6, 0), 'n_heads 0'), (lambda: AnalogAttention(6, 2)(torch.zeros(1, 0, 6)), 'L at least 1'), (lambda: AnalogBlock(6, 2)(torch.zeros(1, 2, 5)), 'normalized_shape'), (lambda: AnalogLM(9, 8, 2, 1, 4)(torch.zeros(1, 5, dtype=torch.int64)), 'L from 1 to 4'),
    (lambda: AnalogLM(9, 8, 2, 1, 4).generate(torch.zeros(1, 3, dtype=torch.int64), 2), '4 together'), (lambda: letters('ab', 5), 'more than 5'), (lambda: perplexity(nn.Identity(), torch.zeros(2, 1)), 'L at least 2')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError, RuntimeError)) as e: call()
    assert words in str(e.value)

@pytest.mark.parametrize('kw', [{}, dict(bias=False), dict(resistive=ConstantStep(dw_min=.01)), dict(hardware=Hardware(read_noise=.1))])
def test_the_same_generator_the_same_model(kw):
    tokens = torch.randint(0, 9, (2, 5), generator=stream(1))
    a, b = (AnalogLM(9, 8, 2, 1, 8, generator=stream(0), **kw)(tokens) for _ in range(2))
    assert torch.equal(a, b)
