"Conversion: the same outputs, names, ties and gradients; what is refused"
from copy import deepcopy

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from analognn.conversion import convert, fit_converters
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep
from analognn.nn import AnalogConv1d, AnalogLinear, analog_layers, draw
from analognn.nonideal import Hardware
from analognn.tcn import TCNBlock, TCNEncoder

@given(B=st.integers(1, 3), C=st.integers(1, 4), H=st.integers(1, 5), K=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 3), dilation=st.integers(1, 3), bias=st.booleans(), extra=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_converted_convolution_is_pytorchs(B, C, H, K, stride, padding, dilation, bias, extra):
    conv, x = nn.Conv1d(C, H, K, stride, padding, dilation, bias=bias).double(), torch.randn(B, C, (K-1)*dilation+1+extra, dtype=torch.float64, requires_grad=True)
    analog = convert(deepcopy(conv))
    y, z = conv(x), analog(x)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(*(torch.autograd.grad(v.square().sum(), x) for v in (y, z)))

def test_parameters_stay_and_ties_hold():
    model = nn.ModuleDict(dict(a=nn.Linear(5, 5), b=nn.Linear(5, 5, bias=False)))
    model.b.weight = model.a.weight
    optimizer_knows, rng = model.a.weight, torch.get_rng_state()
    convert(model)
    assert model.a.weight is model.b.weight is optimizer_knows and model.b.bias is None
    assert torch.equal(torch.get_rng_state(), rng)

def test_encoder_on_hardware():
    encoder, tokens = TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)), torch.randint(0, 50, (4, 9), generator=stream(1))
    analog = convert(deepcopy(encoder))
    torch.testing.assert_close(analog(tokens), encoder(tokens))
    assert list(analog_layers(analog))==['blocks.0.conv.linear', 'blocks.0.out', 'blocks.1.conv.linear', 'blocks.1.out', 'projection']
    noisy = convert(deepcopy(encoder), hardware=Hardware(mismatch=.1))
    chips = [draw(noisy, generator=stream(k))(tokens) for k in range(2)]
    assert not torch.equal(*chips) and torch.nn.functional.cosine_similarity(chips[0], encoder(tokens)).mean()>.9

def test_a_converted_block_learns():
    block = convert(TCNBlock(3, 4, 3, 2, generator=stream(0)))
    block(torch.randn(2, 6, 3)).square().sum().backward()
    assert block.conv.linear.weight.grad.abs().sum()>0 and block.out.weight.grad.abs().sum()>0

def test_resistive_layers():
    model = convert(nn.Sequential(nn.Linear(4, 3)), resistive=ConstantStep(dw_min=.01))
    assert hasattr(model[0], 'tile') and model(torch.ones(2, 4)).shape==(2, 3)

def test_exclude_takes_what_is_inside():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    convert(model, exclude=['0'])
    assert type(model[0][0]) is nn.Linear and type(model[1]) is AnalogLinear

@pytest.mark.parametrize('call, words', [(lambda: convert(nn.ReLU()), 'nothing to convert'), (lambda: convert(convert(nn.Sequential(nn.Linear(2, 2)))), 'analog already'), (lambda: convert(nn.Sequential(nn.Linear(2, 2, device='meta'))), "'meta'"),
    (lambda: convert(nn.Conv1d(4, 4, 3, groups=2)), 'one group'), (lambda: convert(nn.Conv1d(4, 4, 3, padding='same')), 'zeros as padding'), (lambda: convert(nn.Sequential(nn.Linear(2, 2)), exclude=['1']), "exclude names '1'"),
    (lambda: AnalogConv1d(2, 2, 0), 'kernel_size is 0'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 2, 2)), 'L at least 3'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 3, 5)), 'expected (B, 2, L)'),
    (lambda: fit_converters(convert(nn.Sequential(nn.Linear(2, 2))), lambda: None, 8), "did not use layer '0'"), (lambda: fit_converters(convert(nn.Linear(2, 2)), lambda: None, 8), 'did not use')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError)) as e: call()
    assert words in str(e.value)

def test_nothing_changes_when_a_layer_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(4, 4, 3, groups=2))
    with pytest.raises(ConfigError): convert(model)
    assert type(model[0]) is nn.Linear
