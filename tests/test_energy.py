"Energy: physics against nodal analysis, scaling, intervals, and what is refused"
import math

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from analognn.circuit import Circuit
from analognn.core import CircuitError, ConfigError, ShapeError, stream
from analognn.energy import (Constant, Span, analog_terms, as_span, charging_energy, class_b_power, digital_mac, dissipation, draw_constants, energy_constants, energy_nodes, energy_report, energy_sensitivity, energy_terms, layer_activity,
                             layer_energy, logic_energy, metered, metered_power, network_activity, network_energy, published_chips, rail_power, resistor_power, with_class_b)
from analognn.mapping import linear_circuit
from analognn.nn import MLP
from analognn.nodal import solve
from analognn.nonideal import Hardware
from analognn.spice import solve_ngspice
from analognn.tile import coupled_tile
from analognn.timedomain import transient

high_gain = Hardware(gain=1e6)      # transistors stand inside the loop, which needs a finite gain
few, some = settings(max_examples=10, deadline=None), settings(max_examples=40, deadline=None)
seeds, nodes, bits = st.integers(0, 10**6), st.sampled_from(energy_nodes), st.integers(1, 12)

def some_layer(seed):
    g = stream(seed, 'layer')
    n_out, n_in = torch.randint(1, 6, (2,), generator=g).tolist()
    return torch.randn(n_out, n_in, generator=g, dtype=torch.float64), torch.randn(n_out, generator=g, dtype=torch.float64), torch.randn(4, n_in, generator=g, dtype=torch.float64)

@some
@given(seeds, st.sampled_from([1e3, 1e4, 1e6]))
def test_resistors_agree_with_nodal_analysis(seed, r_ref):
    w, b, x = some_layer(seed)
    measured = metered_power(solve(metered(linear_circuit(w, b, x, r_ref=r_ref))))
    assert torch.allclose(measured, resistor_power(w, b, x, r_ref=r_ref), rtol=1e-9, atol=0)

@few
@given(seeds)
def test_rails_agree_with_nodal_analysis(seed):
    w, b, x = some_layer(seed)
    x = x[:2]
    measured = rail_power(solve(with_class_b(linear_circuit(w, b, x, hardware=high_gain), 30.)))
    assert torch.allclose(measured, class_b_power(w, b, x, 30.), rtol=.1, atol=0)

def test_agrees_with_ngspice(ngspice):
    w, b, x = some_layer(1)
    assert torch.allclose(metered_power(solve_ngspice(metered(linear_circuit(w, b, x)))), resistor_power(w, b, x), rtol=1e-6, atol=0)
    assert torch.allclose(rail_power(solve_ngspice(with_class_b(linear_circuit(w, b, x, hardware=high_gain), 30.))), class_b_power(w, b, x, 30.), rtol=.1, atol=0)

@some
@given(seeds, st.floats(.01, 100.))
def test_heat_is_quadratic_and_rails_linear_in_the_inputs(seed, s):
    w, _, x = some_layer(seed)
    assert torch.allclose(resistor_power(w, None, s*x), s**2*resistor_power(w, None, x))
    assert torch.allclose(class_b_power(w, None, s*x, 1e4), s*class_b_power(w, None, x, 1e4))
    assert (class_b_power(w, None, x, 50.)>=resistor_power(w, None, x)).all()

@some
@given(seeds, st.floats(.01, 100.))
def test_activity_does_not_depend_on_units(seed, s):
    w, _, x = some_layer(seed)
    a, b = layer_activity(w, None, x), layer_activity(w/s, None, s*s*x)
    assert all(math.isclose(p, q, rel_tol=1e-9) for p, q in zip(a, b))

@few
@given(seeds, nodes, bits, st.sampled_from(['ends', 'each']))
def test_interval_holds_the_central_value(seed, node, bits, converters):
    model = MLP([3, 5, 2], generator=stream(seed, 'init')).double()
    x = torch.randn(6, 3, generator=stream(seed, 'x'), dtype=torch.float64)
    r = network_energy(model, x, node, bits, converters=converters, n=200, generator=stream(seed, 'constants'))
    for s in (r.energy, r.latency, r.gain, r.gain_memory): assert 0<s.low<=s.value<=s.high<math.inf
    assert math.isclose(r.table.joules.sum(), r.energy.value, rel_tol=1e-12) and (r.table.joules>=0).all() and r.macs==25
    assert set(r.table.term)==set(energy_terms) and r.gain_memory.value>r.gain.value
    again = network_energy(model, x, node, bits, converters=converters, n=200, generator=stream(seed, 'constants'))
    assert again.energy==r.energy and again.table.equals(r.table)

def test_more_bits_and_converters_cost_more():
    w, b, x = some_layer(3)
    a = [layer_activity(w, b, x)]*2
    value = lambda **kw: energy_report(a, generator=stream(0), n=10, **kw).energy.value
    assert value(bits=4)<value(bits=6)<value(bits=8) and value(converters='ends')<value(converters='each')

def test_layer_alone_is_a_network_of_one():
    w, b, x = some_layer(4)
    layer = nn.Linear(*reversed(w.shape)).double()
    with torch.no_grad(): layer.weight.copy_(w); layer.bias.copy_(b)
    assert layer_energy(w, b, x, generator=stream(0), n=10).energy==network_energy(layer, x, generator=stream(0), n=10).energy

def test_draws_are_centred_and_designs_are_still():
    d = draw_constants(energy_constants(45), 4000, generator=stream(0))
    for k, c in energy_constants(45).items():
        assert d[k][0]==c.value and d[k].min()>=c.low*(1-1e-12) and d[k].max()<=c.high*(1+1e-12)
        if c.kind=='design': assert (d[k]==c.value).all()
        elif c.low<c.value<c.high: assert abs((d[k][1:]<c.value).mean()-.5)<.05

def test_nodes_and_figures():
    c = {k: v.value for k, v in energy_constants(45).items()}
    assert [round(e, 6) for e in (digital_mac(c)*1e12, digital_mac(c, memory=True)*1e12)]==[.3, 2.8]
    each = [digital_mac({k: v.value for k, v in energy_constants(n).items()}, n) for n in energy_nodes]
    assert each==sorted(each, reverse=True)
    assert charging_energy(1e-12, 1., 1.)==1e-12 and math.isclose(logic_energy(32, .9)/logic_energy(65, 1.3), .1755, rel_tol=1e-3)
    t = published_chips()
    assert (t.low<=t.high).all() and t.source.str.len().min()>10
    assert as_span([2., 1., 3.]).value==2. and Span(1., 0., 2.).high==2.

def test_sensitivity_starts_from_the_total():
    a = network_activity(MLP([3, 5, 2], generator=stream(0, 'init')), torch.rand(6, 3, generator=stream(0)))
    rows = energy_sensitivity(a, 45, 8)
    c = {k: v.value for k, v in energy_constants(45).items()}
    total = sum(sum(analog_terms(o, c, 45, 8, k==0, k==1).values()) for k, o in enumerate(a))
    assert all(math.isclose(v, total, rel_tol=1e-12) for v in rows.value) and {'design', 'assumption'}==set(rows.kind)

w, b, x = some_layer(5)
@pytest.mark.parametrize('call, error, words', [
    (lambda: resistor_power(w, b, x, r_ref=0.), ConfigError, 'r_ref is 0.0'),
    (lambda: resistor_power(w[0], b, x), ShapeError, 'weight has shape'),
    (lambda: resistor_power(w, torch.ones(99), x), ShapeError, 'bias has shape'),
    (lambda: resistor_power(w, b, torch.ones(99)), ShapeError, 'x has shape'),
    (lambda: resistor_power(w, b, x*math.nan), ConfigError, 'x holds NaN'),
    (lambda: class_b_power(w, b, x, .01), ConfigError, 'v_rail is 0.01'),
    (lambda: with_class_b(linear_circuit(w, b, x), -1.), ConfigError, 'v_rail is -1.0'),
    (lambda: layer_activity(w, b, x, fill=0.), ConfigError, 'fill is 0.0'),
    (lambda: logic_energy(28, 1.), ConfigError, 'node is 28'),
    (lambda: energy_constants('45'), ConfigError, "node is '45'"),
    (lambda: layer_energy(w, b, x, 28, generator=stream(0)), ConfigError, 'node is 28'),
    (lambda: layer_energy(w, b, x, bits=0, generator=stream(0)), ConfigError, 'bits is 0'),
    (lambda: layer_energy(w, b, x, digital_bits=99, generator=stream(0)), ConfigError, 'bits is 99'),
    (lambda: layer_energy(w, b, x, converters='some', generator=stream(0)), ConfigError, 'some'),
    (lambda: layer_energy(w, b, x, n=1, generator=stream(0)), ConfigError, 'n is 1'),
    (lambda: energy_report([], generator=stream(0)), ConfigError, 'activities is empty'),
    (lambda: draw_constants(dict(a=Constant(1., 2., 3., 'J', 'published', 'none')), generator=stream(0)), ConfigError, 'a is Constant'),
    (lambda: network_activity(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), torch.ones(2)), ConfigError, 'followed by sigmoid')])
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words): call()

def test_dissipation_closes_and_refuses_what_it_does_not_know():
    ckt = coupled_tile()
    sol = transient(ckt, 40e-9, 2e-11)
    parts = dissipation(ckt, sol)
    assert set(parts)=={c.label for c in ckt}
    delivered = -parts['Vdd'].item()
    assert delivered>1e-12 and abs(sum(v.item() for v in parts.values()))<1e-4*delivered
    assert all(v.item()>=-1e-18 for k, v in parts.items() if k[0] in 'RM')
    diode = Circuit('d').V('a', 'a', '0', 1.).R('1', 'a', 'b', 1e3).D('1', 'b', '0')
    with pytest.raises(CircuitError, match='D1 is a Diode; allowed'): dissipation(diode, transient(diode, 1e-9, 1e-10))

def test_dissipation_has_chips():
    ckt = coupled_tile(rleak=torch.tensor([[8e6], [4e6]], dtype=torch.float64))
    parts = dissipation(ckt, transient(ckt, 10e-9, 2e-11))
    assert parts['Rleak_0'].shape==(2,) and parts['Rleak_0'][1]>parts['Rleak_0'][0]

def test_dissipation_counts_junctions():
    ckt = Circuit('forward bulk').V('dd', 'd', '0', -.65).V('g', 'g', '0', 1.5).nmos('1', 'd', 'g', '0', '0', 1e-6, kp=1e-4, vto=.4).R('s', 'd', '0', 1e4)
    parts = {k: v.item() for k, v in dissipation(ckt, transient(ckt, 1e-9, 1e-11)).items()}
    assert abs(sum(parts.values()))<1e-6*-parts['Vdd'] and parts['M1']>5e-13
