"Templates: the circuit is what its formula says, whatever the errors; drawings draw"
import math

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import templates
from analognn.circuit import Circuit, Resistor, Subcircuit, flattened, from_netlist, one_point
from analognn.converters import Converter
from analognn.core import ConfigError, ShapeError, stream
from analognn.geo_tiles import TiledLinear, tile_plan, tiled_circuit
from analognn.geosparse import GeoSparseLinear, geo_connectivity
from analognn.mapping import linear_circuit, opamp_macro, output_noise, output_voltages
from analognn.nn import draw as draw_chip
from analognn.nodal import solve
from analognn.nonideal import Hardware, summer
from analognn.spice import noise_ngspice
from analognn.templates import crossbar_layer_circuit, crossbar_layer_form, difference_circuit, difference_form

hardwares = st.builds(Hardware, gain=st.sampled_from([1e3, 1e5, math.inf]), v_max=st.sampled_from([1., 5., math.inf]), saturation=st.sampled_from(['hard', 'knee']), v_ref=st.sampled_from([.5, 1.]))

@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), hardwares, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_difference_layer_is_its_formula(seed, n_in, n_out, hardware, with_bias):
    g = stream(seed, 'difference')
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    w, b, x = draw(n_out, n_in), draw(n_out) if with_bias else None, draw(5, n_in)
    w[0, 0] = 0.            # no resistor
    how = dict(offset=.01*draw(n_out, 3), errors=.05*draw(n_out, 4), hardware=hardware)
    ckt = difference_circuit(w, b, x, **how)
    assert torch.allclose(output_voltages(solve(ckt)), difference_form(w, b, x, **how), rtol=0, atol=1e-8)
    one = one_point(ckt, 0)
    assert from_netlist(one.netlist()).netlist()==one.netlist()

def test_a_difference_amplifier_needs_equal_ratios():
    "One volt on both summers: what is left is the common-mode error (R2 R3 / R1 - R4) / (R3 + R4)"
    for errors in ([.02, 0., 0., 0.], [0., .01, -.01, .03]):
        r1, r2, r3, r4 = (1+torch.tensor(errors, dtype=torch.float64))
        y = difference_form(torch.tensor([[1., -1.]]), None, torch.tensor([[1., 1.]]), errors=torch.tensor([errors], dtype=torch.float64))
        expected = (r2*r3/r1-r4)/(r3+r4)
        assert y.item()==pytest.approx(expected.item(), abs=1e-12) and abs(expected)>1e-3

@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.floats(1e-3, 100.))
@settings(max_examples=40, deadline=None)
def test_a_crossbar_layer_is_its_formula(seed, n_in, n_out, r_wire):
    g = stream(seed, 'crossbar')
    w, x = torch.randn(n_out, n_in, generator=g, dtype=torch.float64), torch.randn(3, n_in, generator=g, dtype=torch.float64)
    dac = Converter(5, 2.)
    y = output_voltages(solve(crossbar_layer_circuit(w, x, r_wire, dac)))
    assert torch.allclose(y, crossbar_layer_form(w, x, r_wire, dac), rtol=0, atol=1e-9)
    levels = crossbar_layer_form(w, x, r_wire, dac, Converter(4, 1.))
    assert torch.allclose(levels, Converter(4, 1.).adc(levels), atol=1e-12) and levels.abs().max()<=1.

@pytest.mark.parametrize('shape', [(4,), (2, 2, 3), ()])
def test_shapes(shape):
    for make in (lambda x: crossbar_layer_circuit(torch.ones(2, 3), x, 1.), lambda x: crossbar_layer_form(torch.ones(2, 3), x, 1.), lambda x: difference_circuit(torch.ones(2, 3), None, x), lambda x: difference_form(torch.ones(2, 3), None, x)):
        with pytest.raises(ShapeError, match='x has shape.*allowed'): make(torch.ones(shape))
    with pytest.raises(ShapeError, match=r'\(2, 3\) and \(2, 4\)'): difference_circuit(torch.ones(2, 3), None, torch.ones(3), offset=torch.ones(2))

@pytest.mark.parametrize('shape', [(3,), (1,), (), (2, 1)])
def test_shapes_of_biases(shape):
    for make in (difference_circuit, difference_form, linear_circuit):
        with pytest.raises(ShapeError, match=r'bias has shape.*\(2,\)'): make(torch.ones(2, 3), torch.ones(shape), torch.ones(3))

@pytest.mark.parametrize('shape', [(3,), (2, 3, 1), (), (0, 3), (2, 0)])
def test_shapes_of_weights(shape):
    for make in (lambda w: difference_circuit(w, None, torch.ones(3)), lambda w: difference_form(w, None, torch.ones(3)), lambda w: crossbar_layer_circuit(w, torch.ones(3), 1.), lambda w: crossbar_layer_form(w, torch.ones(3), 1.)):
        with pytest.raises(ShapeError, match='weight has shape'): make(torch.ones(shape))

@pytest.mark.parametrize('name', ['difference', 'crossbar', 'opamp', 'clamp', 'activation'])
def test_drawings(name):
    pytest.importorskip('schemdraw')
    fig = getattr(templates, f'{name}_schematic')()
    (ax,) = fig.axes
    assert len(ax.lines)+len(ax.patches)>10 and not ax.axison

@given(st.integers(0, 10**6), st.sampled_from(['local', 'random', 'hash']), st.integers(1, 5), st.integers(1, 7), st.booleans(), hardwares)
@settings(max_examples=25, deadline=None)
def test_tiles_are_their_layer(seed, kind, k, cols, bias, hardware):
    layer = GeoSparseLinear(16, 16, geo_connectivity((4, 4), k, kind, seed=seed), bias=bias, generator=stream(seed, 'layer'))
    hw = Hardware(mismatch=.05, offset=.01, gain=hardware.gain, v_max=hardware.v_max, saturation=hardware.saturation, v_ref=hardware.v_ref)
    tiles = draw_chip(TiledLinear(layer, tile_plan(layer, 9, cols, (4, 4)), hardware=hw), generator=stream(seed, 'chip')).double()
    x = torch.randn(2, 16, generator=stream(seed, 'x'), dtype=torch.float64)
    ckt = tiled_circuit(tiles, x)
    assert torch.allclose(output_voltages(solve(ckt)), tiles(x).detach(), rtol=0, atol=1e-8)
    weights = [c for c in flattened(ckt) if isinstance(c, Resistor) and '_w' in c.name]
    assert len(weights)==sum(int((t.weight.abs()>=1e-6).sum()) for t in tiles.tiles)<=16*k
    one = one_point(ckt, 0)
    assert from_netlist(one.netlist()).netlist()==one.netlist()

# The op-amp with a pole

@pytest.mark.parametrize('saturation', ['hard', 'knee'])
def test_an_opamp_macro_is_a_summer(saturation):
    x = torch.linspace(-4, 4, 17, dtype=torch.float64)
    amplifier = opamp_macro(Subcircuit('amplifier', 'out', 'plus', 'minus'), 'u', 'out', 'plus', 'minus', gain=1e4, gbw=1e6, offset=.003, noise=1e-8, v_max=2., saturation=saturation)
    ckt = Circuit('c').V('in', 'in', '0', x).R('1', 'in', 'm', 1e4).R('2', 'm', 'o', 2e4).X('1', amplifier, 'o', '0', 'm')
    y = summer(-2*x[:, None], torch.tensor([3.], dtype=torch.float64), .003, 1e4, 2., saturation)[:, 0]
    inside = y.abs()<2.        # a hard rail of the macro is inside the loop: the same output
    assert torch.allclose(solve(ckt)['o'][inside], y[inside], rtol=0, atol=1e-9) and torch.allclose(solve(ckt)['o'], y, rtol=0, atol=1e-8)

@pytest.mark.parametrize('bad', [dict(noise=v) for v in (-1., math.inf, math.nan, 1e-200, 1e200)]+[dict(gain=.5), dict(gbw=0.), dict(saturation='soft')]+[dict(v_max=v, saturation=s) for v in (-1., 0., math.nan) for s in ('hard', 'knee')])
def test_an_opamp_macro_is_asked_for_sensible_things(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))): opamp_macro(Circuit('c'), 'u', 'o', 'p', 'm', **dict(gain=1e5, gbw=1e6) | bad)

@pytest.mark.parametrize('w', [[.5], [2., -1.], [.1, .2, -3.]])
@pytest.mark.parametrize('noise', [0., 4e-9, 1e-7])
def test_noise_of_a_summer(ngspice, w, noise):
    "Each resistor by itself, and the op-amp's times the noise gain"
    ckt = Circuit('c')
    for k, v in enumerate(w): ckt.V(f'{k}', f'i{k}', '0', .1).R(f'{k}', f'i{k}', 'm', 1e4/abs(v))
    opamp_macro(ckt.R('f', 'm', 'o', 1e4), 'u', 'o', '0', 'm', gain=1e7, gbw=1e6, noise=noise)
    S = torch.tensor([1+sum(map(abs, w))], dtype=torch.float64)
    found = noise_ngspice(ckt, 'o', '0', 10., 1e3)
    assert found.density[0].item()==pytest.approx(output_noise(S, 1e4, noise).item(), rel=2e-6)
    assert len(found.frequency)==41 and found.frequency[[0, -1]].tolist()==pytest.approx([10., 1e3])
    assert found.total==pytest.approx(found.density[0].item()*math.sqrt(990), rel=1e-3)

@pytest.mark.parametrize('bad, match', [(dict(output=None), 'output is None'), (dict(output='x'), "unknown node 'x'"), (dict(source='Vin'), "'Vin'"), (dict(source=1), 'source is 1'), (dict(f_low='1'), "f_low is '1'"), (dict(f_high=math.nan), 'f_high nan'), (dict(f_low=1e4), 'f_low is 10000'),
                                        (dict(per_decade=2.5), 'per_decade is 2.5'), (dict(per_decade=0), 'per_decade is 0')])
def test_noise_is_asked_for_sensible_things(bad, match):
    ckt = Circuit('n').V('in', 'a', '0', 1.).R('1', 'a', 'b', 1e3).R('2', 'b', '0', 3e3)
    with pytest.raises(ConfigError, match=match): noise_ngspice(ckt, **dict(output='B', source='IN', f_low=1., f_high=1e3) | bad)
