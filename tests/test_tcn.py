"Temporal convolutions: columns, the convolution, the block's own backward, the encoder"
from copy import deepcopy

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn.utils import prune

from analognn.core import ConfigError, ShapeError, stream
from analognn.tcn import (TCNBlock, TCNEncoder, causal_conv1d, col2im, hash_words, im2col, loop_col2im, loop_im2col, masked_mean, plain_causal_conv1d)

sizes = dict(B=st.integers(1, 3), L=st.integers(1, 12), C=st.integers(1, 5), K=st.integers(1, 5), d=st.integers(1, 8))

def numbers(*shape, dtype=torch.float64): return torch.randn(shape, generator=stream(0, 'tcn', *shape), dtype=dtype, requires_grad=True)

@given(**sizes)
@settings(max_examples=60, deadline=None)
def test_columns(B, L, C, K, d):
    "Fast as with loops; col2im is the transpose"
    x, cols = numbers(B, L, C).detach(), numbers(B, L, C*K).detach()
    assert torch.equal(im2col(x, K, d), loop_im2col(x, K, d))
    torch.testing.assert_close(col2im(cols, K, d), loop_col2im(cols, K, d))
    torch.testing.assert_close((im2col(x, K, d)*cols).sum(), (x*col2im(cols, K, d)).sum())

@given(**sizes, H=st.integers(1, 5), biased=st.booleans())
@settings(max_examples=60, deadline=None)
def test_convolution_is_pytorchs(B, L, C, K, d, H, biased):
    x, w, b = numbers(B, L, C), numbers(H, C, K), numbers(H)
    inputs, gy = (x, w, b) if biased else (x, w), numbers(B, L, H).detach()
    ours, theirs = [f(x, w, b if biased else None, dilation=d) for f in (causal_conv1d, plain_causal_conv1d)]
    for a, e in zip((ours, *torch.autograd.grad(ours, inputs, gy)), (theirs, *torch.autograd.grad(theirs, inputs, gy))): torch.testing.assert_close(a, e)

@given(**sizes, H=st.integers(1, 5), gelu=st.sampled_from(['tanh', 'none']), remember=st.sampled_from(['less', 'more']), conv=st.sampled_from(['plain', 'im2col', 'shifted']), masked=st.booleans())
@settings(max_examples=80, deadline=None)
def test_block_by_hand_is_autograds(B, L, C, K, d, H, gelu, remember, conv, masked):
    block = TCNBlock(C, H, K, d, gelu=gelu, remember=remember, conv=conv, generator=stream(1)).double()
    mask = (torch.rand(B, L, generator=stream(2))>.4).double() if masked else None
    x, gy = numbers(B, L, C), numbers(B, L, C).detach()
    results = []
    for explicit in (True, False):
        block.explicit = explicit
        y = block(x, mask)
        results.append((y, *torch.autograd.grad(y, [x, *block.parameters()], gy)))
    for a, e in zip(*results): torch.testing.assert_close(a, e, atol=1e-9, rtol=1e-7)

@pytest.mark.parametrize('conv', ['plain', 'im2col', 'shifted'])
def test_the_compiler_takes_the_block_whole(conv):
    "No graph break, same values and gradients"
    block, x, mask, gy = TCNBlock(8, 12, 3, 2, conv=conv, generator=stream(0)), numbers(2, 10, 8, dtype=torch.float32), torch.ones(2, 10), numbers(2, 10, 8, dtype=torch.float32).detach()
    torch._dynamo.reset()
    results = [(y := f(x, mask), *torch.autograd.grad(y, [x, *block.parameters()], gy)) for f in (block, torch.compile(block, fullgraph=True))]
    for a, b in zip(*results): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

def test_the_compiler_takes_convolution_and_encoder_whole():
    torch._dynamo.reset()
    x, w, b = numbers(2, 9, 3, dtype=torch.float32), numbers(4, 3, 3, dtype=torch.float32), numbers(4, dtype=torch.float32)
    f = torch.compile(lambda *a: causal_conv1d(*a, 2), fullgraph=True)
    for a, e in zip(torch.autograd.grad(f(x, w, b).square().sum(), (x, w, b)), torch.autograd.grad(causal_conv1d(x, w, b, 2).square().sum(), (x, w, b))): torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)
    encoder, tokens = TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)), torch.randint(0, 50, (3, 9), generator=stream(1))
    torch.testing.assert_close(torch.compile(encoder, fullgraph=True)(tokens), encoder(tokens))

@given(**sizes, H=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_half_precision_is_added_up_in_single(B, L, C, K, d, H):
    "bfloat16: as near to double precision as its own rounding allows, however many taps"
    exact = [t.detach().bfloat16().double().requires_grad_() for t in (numbers(B, L, C), numbers(H, C, K), numbers(H))]
    coarse = [t.detach().bfloat16().requires_grad_() for t in exact]
    gy = numbers(B, L, H).detach().bfloat16()
    (y, *gs), (e, *es) = [(y := causal_conv1d(*ts, d), *torch.autograd.grad(y, ts, g)) for ts, g in ((coarse, gy), (exact, gy.double()))]
    assert y.dtype==torch.bfloat16
    for a, b, scale in zip((y, *gs), (e, *es), (C*K, H*K, B*L, B*L)): torch.testing.assert_close(a.double(), b, atol=2**-7*(1+scale**.5), rtol=2**-6)

@pytest.mark.parametrize('explicit', [True, False])
def test_autocast(explicit):
    "Products in bfloat16, the residual and the parameters' gradients as they were; a whole encoder"
    block, x = TCNBlock(8, 12, 3, 2, explicit=explicit, generator=stream(0)), numbers(2, 10, 8, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16): y = block(x)
    torch.testing.assert_close(y, block(x), atol=.02, rtol=.02)
    assert y.dtype==torch.float32 and not torch.equal(y, block(x))
    encoder, tokens = TCNEncoder(50, 8, 5, 3, (1, 2), 6, explicit=explicit, generator=stream(0)), torch.randint(0, 50, (3, 9), generator=stream(1))
    with torch.autocast('cpu', dtype=torch.bfloat16): y = encoder(tokens)
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), encoder(tokens), atol=.05, rtol=.05)
    assert encoder.blocks[0].conv.weight.grad.dtype==torch.float32

@pytest.mark.parametrize('conv', ['plain', 'im2col', 'shifted'])
def test_no_samples(conv):
    block = TCNBlock(3, 4, 2, conv=conv)
    block(torch.zeros(0, 5, 3)).sum().backward()
    assert (block.conv.weight.grad==0).all()

def test_pruned_weights_and_another_epsilon():
    "The block asks its parts for their weights by name"
    block, x = TCNBlock(3, 4, 2, generator=stream(0)), numbers(2, 5, 3, dtype=torch.float32)
    prune.l1_unstructured(block.conv, 'weight', .5)
    block.norm.eps = .1
    y = block(x)
    block.explicit = False
    torch.testing.assert_close(y, block(x))

def test_without_numba_it_is_the_same(monkeypatch):
    block, x, gy = TCNBlock(16, 24, 3, 2, generator=stream(0)), numbers(2, 30, 16, dtype=torch.float32), numbers(2, 30, 16, dtype=torch.float32).detach()
    first = [(y := block(x)), *torch.autograd.grad(y, [x, *block.parameters()], gy)]
    monkeypatch.setattr('analognn.tcn.kernels', None)
    for a, b in zip(first, [(y := block(x)), *torch.autograd.grad(y, [x, *block.parameters()], gy)]): torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)

@pytest.mark.parametrize('remember', ['less', 'more'])
def test_the_graph_can_be_used_again(remember):
    block, x = TCNBlock(8, 12, 3, remember=remember, generator=stream(0)), numbers(2, 10, 8, dtype=torch.float32)
    y = block(x).square().sum()
    for a, b in zip(*(torch.autograd.grad(y, [x, *block.parameters()], retain_graph=True) for _ in range(2))): assert torch.equal(a, b)

def test_causal():
    "What comes later changes nothing before"
    block, x = TCNBlock(4, 6, 3, 2, generator=stream(0)), torch.randn(2, 9, 4)
    other = x.clone()
    other[:, 5:] += 1
    assert torch.equal(block(x)[:, :5], block(other)[:, :5]) and not torch.equal(block(x)[:, 5:], block(other)[:, 5:])

def test_remembers_less():
    "The input, the inner sum, and little else"
    kept = {}
    for remember in ('less', 'more'):
        block, sizes = TCNBlock(64, 128, 5, 4, remember=remember), {}
        def note(t):
            sizes[t.untyped_storage().data_ptr()] = t.numel()
            return t
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): block(torch.randn(4, 100, 64, requires_grad=True))
        kept[remember] = sum(sizes.values())-sum(p.numel() for p in block.parameters())
    values = 4*100
    assert kept['less']<=values*(64+128+3) and kept['more']>=values*(64+128+64+128)

def test_empty_rows_pass_nothing_on():
    x, mask = numbers(2, 3, 4), torch.tensor([[1., 0, 1], [0, 0, 0]])
    masked_mean(x, mask).sum().backward()
    assert (x.grad[1]==0).all() and torch.allclose(x.grad[0].sum(0), torch.ones(4, dtype=torch.float64))

def test_token_and_text_mode_agree_and_learn_alike():
    texts, encoders = ['one two three', 'Four, five!', ''], [TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)) for _ in range(2)]
    outputs = [encoders[0](texts), encoders[1](*hash_words(texts, vocab_size=50))]
    for e, y in zip(encoders, outputs): y.pow(2).sum().backward()
    assert torch.equal(*outputs)
    for a, b in zip(*(e.parameters() for e in encoders)): assert torch.equal(a.grad, b.grad)

def test_padding_and_batch_do_not_matter():
    encoder, texts = TCNEncoder(500, 16, 7, 5, (1, 2, 4), 24, generator=stream(0)), ['a b c', 'a rather longer sentence than the first one']
    torch.testing.assert_close(encoder(texts)[0], encoder(texts[:1])[0], atol=1e-6, rtol=1e-5)

def test_words_hash_the_same_everywhere():
    assert hash_words(['Hello, world'])[0].tolist()==hash_words(['hello ,  WORLD'])[0].tolist()==[[hash_words([w])[0].item() for w in ('hello', ',', 'world')]]
    assert hash_words(['a b c d'], max_length=2)[0].shape==(1, 2) and hash_words([])[0].shape==(0, 1)

def test_copies_and_saves():
    block = TCNBlock(3, 4, 2)
    twin = deepcopy(block)
    assert torch.equal(twin(torch.ones(1, 4, 3)), block(torch.ones(1, 4, 3)))
    assert list(block.state_dict())==['norm.weight', 'norm.bias', 'conv.weight', 'conv.bias', 'out.weight', 'out.bias']

@pytest.mark.parametrize('call, words', [(lambda: TCNBlock(0, 4), 'dim is 0'), (lambda: TCNBlock(3, 4, gelu='erf'), "unknown gelu 'erf'"), (lambda: TCNBlock(3, 4, conv='fast'), "unknown conv 'fast'"), (lambda: TCNEncoder(9).freeze_but(5), 'n_blocks is 5; allowed: 0 to 4'),
    (lambda: TCNBlock(3, 4)(torch.zeros(2, 0, 3)), 'L at least 1'), (lambda: TCNBlock(3, 4)(torch.zeros(2, 5, 4)), 'expected (B, L, 3)'), (lambda: TCNBlock(3, 4)(torch.zeros(2, 5, 3), torch.ones(2, 4)), 'mask is (2, 4)'),
    (lambda: TCNEncoder(9)(torch.full((1, 3), 9)), 'allowed: 0 to 8'), (lambda: hash_words(['a'], vocab_size=1), 'vocab_size is 1'), (lambda: TCNEncoder(9)('hello'), 'allowed: a tensor (B, L), or a list of strings'), (lambda: TCNEncoder(9)([[1, 2]]), 'a list of strings'), (lambda: TCNEncoder(9)(torch.ones(1, 2)), 'whole numbers'),
    (lambda: TCNEncoder(9)(['a'], torch.ones(1, 1)), 'only with tokens')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError)) as e: call()
    assert words in str(e.value)
