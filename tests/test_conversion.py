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

def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(4, 4)
    model, x = nn.Sequential(layer, nn.ReLU(), layer), torch.ones(2, 4)
    before = model(x)
    assert convert(model)[0] is model[2] and type(model[2]) is AnalogLinear and torch.equal(model(x), before)

def test_frozen_stays_frozen():
    model = convert(nn.Sequential(nn.Linear(4, 3).requires_grad_(False)), resistive=ConstantStep(dw_min=.01))
    assert not any(p.requires_grad for p in model.parameters())

def test_many_chips_at_once():
    "One call for many chips gives what each gives by itself"
    encoder, tokens = convert(TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)), hardware=Hardware(mismatch=.1)), torch.randint(1, 50, (4, 9), generator=stream(1))
    states = [{k: v.clone() for k, v in draw(encoder, generator=stream(k)).state_dict().items()} for k in range(3)]
    alone = torch.stack([torch.func.functional_call(encoder, s, (tokens,)) for s in states])
    together = torch.vmap(lambda s: torch.func.functional_call(encoder, s, (tokens,)))({k: torch.stack([s[k] for s in states]) for k in states[0]})
    torch.testing.assert_close(together, alone)

def test_converters_are_left_as_they_were_when_the_data_is_bad():
    model = convert(nn.Sequential(nn.Linear(2, 2)))
    fit_converters(model, lambda: model(torch.ones(1, 2)), 6)
    before = model[0].hardware
    with pytest.raises(ConfigError, match='NaN or infinite'): fit_converters(model, lambda: model(torch.full((1, 2), torch.nan)), 8)
    assert model[0].hardware==before

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
    (lambda: convert(nn.Sequential(nn.Linear(2, 2)), exclude='0'), 'allowed: a list'), (lambda: convert(nn.Linear(2, 2), exclude=['nonsense']), "exclude names 'nonsense'"), (lambda: fit_converters(nn.Linear(2, 2), lambda: None, 8), 'no analog layers'), (lambda: AnalogConv1d(2, 2, 0), 'kernel_size is 0'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 2, 2)), 'L at least 3'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 3, 5)), 'expected (B, 2, L)'),
    (lambda: fit_converters(convert(nn.Sequential(nn.Linear(2, 2))), lambda: None, 8), "did not use layer '0'"), (lambda: fit_converters(convert(nn.Linear(2, 2)), lambda: None, 8), 'did not use')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError)) as e: call()
    assert words in str(e.value)

def test_nothing_changes_when_a_layer_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(4, 4, 3, groups=2))
    with pytest.raises(ConfigError): convert(model)
    assert type(model[0]) is nn.Linear
