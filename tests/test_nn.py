"Layers: a chip survives everything that a module survives"
import copy, io, subprocess, sys
import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.core import ShapeError, stream
from analognn.nn import MLP, AnalogLinear, chip, draw, program, seed_, with_hardware
from analognn.nonideal import Converter, Hardware, quantize

hw = Hardware(dac=Converter(6, 2.), adc=Converter(6, 2.), mismatch=.02, offset=.003, write_noise=.01, weight_noise=.02, read_noise=.01, activation_noise=.01, gain=1e4, v_max=2.)
make = lambda seed=0: seed_(draw(MLP([5, 4, 3], hardware=hw, generator=stream(seed, 'init')), generator=stream(seed, 'chip')), stream(seed, 'noise'))
x = torch.randn(6, 5, generator=stream(0, 'x'))

def test_saved_and_loaded_it_goes_on_with_the_same_noise():
    model = make(); model(x)
    buffer = io.BytesIO(); torch.save(model.state_dict(), buffer); buffer.seek(0)
    other = make(1); other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(model(x), other(x)) and torch.equal(model(x), other(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))

def test_the_same_bits_in_another_process():
    code = 'from tests.test_nn import make, x; print(make()(x).double().sum().item().hex())'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()
    assert said==make()(x).double().sum().item().hex()

def test_program_rewrites_only_the_weights():
    model = make(); before = copy.deepcopy(model.state_dict())
    after = program(model, generator=stream(1)).state_dict()
    changed = {k.split('.')[1] for k in before if not torch.equal(before[k], after[k])}
    assert changed=={'weight_error', 'bias_error'}

def test_dtype_moves_along():
    model = make().double()
    assert model(x.double()).dtype==torch.float64
    assert all(c.weight.dtype==torch.float64 for c in chip(model).values())

@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_without_errors_it_is_linear(seed):
    layer, z = MLP([4, 3], generator=stream(seed))[0], torch.randn(2, 4, generator=stream(seed, 'x'))
    assert torch.equal(layer(z), torch.nn.functional.linear(z, layer.weight, layer.bias))

@given(st.integers(2, 16), st.floats(.1, 10), st.floats(-20, 20))
@settings(deadline=None)
def test_quantizer(bits, v_range, v):
    q = quantize(torch.tensor(v, dtype=torch.float64), bits, v_range)
    assert abs(q-max(-v_range, min(v_range, v)))<=v_range/(2**(bits-1)-1)/2*(1+1e-9)
    torch.testing.assert_close(quantize(q, bits, v_range), q)

def test_layers_without_bias_and_wrong_inputs():
    layer = AnalogLinear(3, 2, bias=False, hardware=Hardware(mismatch=.1, offset=.01))
    assert draw(layer, generator=stream(0))(torch.ones(3)).shape==(2,)
    assert chip(layer)[''].bias is None
    with pytest.raises(ShapeError, match='takes 3'): layer(torch.ones(4))

def test_gradients():
    layer = draw(with_hardware(MLP([3, 2], generator=stream(0)), Hardware(mismatch=.1, offset=.01, gain=100., v_max=5., saturation='knee')).double(), generator=stream(0))
    params = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    f = lambda w, b: torch.func.functional_call(layer, {'0.weight': w, '0.bias': b}, torch.ones(1, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(f, params)
