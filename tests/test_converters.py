"Converters: steps, ranges, tables of codes, and the sine test"
import math

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.converters import CodeTable, Converter, draw_table, ideal_table, linearity, quantize, sine_test
from analognn.core import ConfigError, stream
from analognn.nn import AnalogLinear
from analognn.nonideal import Hardware

@given(bits=st.integers(1, 10), low=st.floats(-5, 0), width=st.floats(.1, 9), dnl=st.sampled_from([0., .2, 1.]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_codes_grow_with_the_input(bits, low, width, dnl, seed):
    table = draw_table(bits, low, low+width, dnl=dnl, generator=stream(seed))
    t = table.transitions()                       # an unlucky draw may have some outside of its range
    v = torch.linspace(min(low, t.min())-1, max(low+width, t.max())+1, 500, dtype=torch.float64)
    codes = table.codes(v)
    assert (codes.diff()>=0).all() and codes[0]==0 and codes[-1]==2**bits-1

@given(bits=st.integers(2, 12), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_an_ideal_table_is_the_formula(bits, seed):
    x = 3*torch.rand(200, generator=stream(seed), dtype=torch.float64)-1
    table = ideal_table(bits, 0., 1.)
    for f in (table.adc, table.dac): torch.testing.assert_close(f(x), quantize(x, bits, 1., signed=False), atol=1e-9, rtol=0)
    y = quantize(x, bits, 2.)
    assert (y-x).abs().max()<=1/(2**(bits-1)-1)+1e-9
    torch.testing.assert_close(quantize(y, bits, 2.), y)

def test_gradients_pass_inside_the_range_and_its_ends():
    for f in (Converter(4).adc, ideal_table(4).adc, ideal_table(4).dac):
        x = torch.tensor([-1.5, -1., .1, 1., 1.5], requires_grad=True)
        f(x).sum().backward()
        assert x.grad.tolist()==[0, 1, 1, 1, 0]

def test_the_range_follows():
    x = torch.tensor([[.02, -.01], [.005, .001]])
    assert (Converter(6, math.inf, dynamic=True)(x)-x).abs().max()<.02/31 and (Converter(6, 1.)(x)-x).abs().max()>.004
    assert (Converter(6, math.inf, dynamic=True)(torch.zeros(3))==0).all()

def test_random_widths_have_the_size_asked_for():
    lin = linearity(draw_table(12, dnl=.1, generator=stream(0)))
    assert abs(lin['dnl'].std()/.1-1)<.05 and not lin['missing'] and abs(lin['inl'][0])+abs(lin['inl'][-1])<1e-9
    assert linearity(draw_table(10, dnl=1., generator=stream(0)))['missing']>50

@pytest.mark.parametrize('bits', [3, 8, 14])
def test_the_sine_test_counts_bits(bits): assert abs(sine_test(ideal_table(bits, -2., 3.).adc, -2., 3.)['enob']-bits)<.15

def test_noise_comes_from_the_generator():
    table, x = ideal_table(8, noise=.1), torch.zeros(100)
    assert torch.equal(table.adc(x, stream(0)), table.adc(x, stream(0))) and not torch.equal(table.adc(x, stream(0)), table.adc(x, stream(1))) and table.adc(x).std()<1e-6

def test_tables_in_a_layer():
    table = draw_table(5, -2., 2., dnl=.3, generator=stream(0))
    layer, x = AnalogLinear(4, 3, hardware=Hardware(dac=table, adc=table)), torch.randn(6, 4, generator=stream(1))
    torch.testing.assert_close(layer(x), table.adc(torch.nn.functional.linear(table.dac(x), layer.weight, layer.bias)))
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum()>0

@pytest.mark.parametrize('call, words', [(lambda: Converter(0), 'bits is 0'), (lambda: Converter(33), 'bits is 33'), (lambda: Converter(8, -1.), 'v_range is -1.0'), (lambda: Converter(8, math.inf), 'v_range is inf'), (lambda: CodeTable(2, 1., 0., (0.,)*4), 'low below high'), (lambda: CodeTable(2, 0., 1., (0.,)*3), '4 finite'),
    (lambda: draw_table(4, dnl=-1., generator=stream(0)), 'dnl is -1.0'), (lambda: sine_test(lambda v: v, samples=10, cycles=4), 'common divisor'), (lambda: Hardware(adc=ideal_table(4, noise=.1)), 'activation_noise or read_noise'), (lambda: Hardware(dac=8), 'a Converter or CodeTable')])
def test_bad_input(call, words):
    with pytest.raises(ConfigError) as e: call()
    assert words in str(e.value)
