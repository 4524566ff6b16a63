"The ladder: wires, time, devices' weights, and whether its levels agree"
import math

import pytest
import torch
from torch import nn

from analognn.compounds import rule_preset
from analognn.core import ConfigError, EngineMissing, ShapeError, stream
from analognn.mapping import closed_form, network_circuit, output_voltages
from analognn.nn import MLP, draw, seed_, with_hardware
from analognn.nodal import solve
from analognn.nonideal import Hardware, noise_gain
from analognn.spice import solve_ngspice
from analognn.timedomain import transient
from analognn.validate import as_ordinary, behind_wires, every_level, ladder, settle_steps, wired_circuit, with_poles

errors = dict(mismatch=.02, offset=.003, gain=1e4, v_max=2.5)

def network(sizes=(5, 6, 3), **hardware):
    "A small network on a chip"
    return seed_(draw(MLP(list(sizes), hardware=Hardware(**hardware), generator=stream(0, 'init')).double(), generator=stream(0, 'chip')), stream(0, 'noise'))

def inputs(n=7, n_in=5): return torch.randn(n, n_in, generator=stream(0, 'x'), dtype=torch.float64)

@pytest.mark.parametrize('sizes', [(5, 6, 3), (3, 7), (6, 4, 5)])
def test_drawn_wires_are_the_effective_matrix(sizes):
    net, x = network(sizes, mismatch=.02), inputs(1, sizes[0])
    drawn = output_voltages(solve(wired_circuit(net, x[0], .02)))
    assert (drawn-closed_form(behind_wires(net, .02), x)).abs().max()<1e-12
    assert (drawn-closed_form(net, x)).abs().max()>1e-3

def test_thin_wires_are_no_wires():
    net, x = network(**errors), inputs()
    assert (closed_form(behind_wires(net, 1e-9), x)-closed_form(net, x)).abs().max()<1e-7

def test_lines_without_cells_are_left_out():
    net = network(mismatch=.02)
    with torch.no_grad(): net[0].weight[1] = net[0].weight[1].abs(); net[0].weight[:, 2] = 0.
    x = inputs(1)
    assert (output_voltages(solve(wired_circuit(net, x[0], .02)))-closed_form(behind_wires(net, .02), x)).abs().max()<1e-12

def test_wires_keep_activations():
    net = nn.Sequential(network()[0], nn.Tanh(), network()[2])
    assert [type(m) for m in behind_wires(net, .01)][1] is nn.Tanh

@pytest.mark.parametrize('saturation', ['hard', 'knee'])
@pytest.mark.parametrize('gain', [1e4, math.inf])
def test_poles_change_nothing_at_rest(saturation, gain):
    ckt = network_circuit(network(**{**errors, 'gain': gain, 'saturation': saturation}), inputs())
    rested = output_voltages(solve(ckt))
    assert (output_voltages(solve(with_poles(ckt)))-rested).abs().max()<1e-7

@pytest.mark.parametrize('gbw', [0., -1., math.inf, math.nan])
def test_gbw_is_checked(gbw):
    with pytest.raises(ConfigError, match='gbw'): with_poles(network_circuit(network(**errors), inputs()), gbw)

def test_time_constant_is_that_of_the_loop():
    net = network((4, 1), gain=1e6)
    x = inputs(1, 4)
    ckt, tau = with_poles(network_circuit(net, x[0]), 1e6), noise_gain(net[0].weight, net[0].bias, 1.).item()/(2*math.pi*1e6)
    assert (output_voltages(transient(ckt, 20*tau, tau/20))[-1]-closed_form(net, x)).abs().max()<1e-9

def test_settling(ngspice):
    net, x = network(**errors), inputs(4)
    s = settle_steps(net, x)
    assert (s.y-closed_form(net, x)).abs().max()<1e-8
    assert s.seconds.shape==(4,) and (0<s.seconds).all() and (s.seconds<s.hold/2).all()
    faster = settle_steps(net, x, gbw=1e7)
    assert (faster.seconds*10/s.seconds-1).abs().max()<.1
    loose = settle_steps(net, x, tol=.1)
    assert (loose.seconds<s.seconds).all()

def test_settling_wants_rows(ngspice):
    with pytest.raises(ShapeError, match='at least one vector'): settle_steps(network(**errors), inputs()[0])

def test_every_level(ngspice):
    net, x = network(**errors), inputs()
    l = ladder(net, x, levels=every_level, engine='ngspice')
    assert list(l.volts)==['float', 'all errors', 'analog', 'closed form', 'nodal', 'crossbar', 'ngspice', 'transient']
    pairs = {(r['a'], r['b']): r['max_error'] for r in l.between()}
    assert pairs['nodal', 'ngspice']<1e-9 and pairs['ngspice', 'transient']<1e-8 and pairs['nodal', 'crossbar']>1e-6
    assert len(l.info['settling'])==len(x) and l.engines['crossbar']=='formula'
    assert len(l.against_float())==8

def test_crossbar_stands_beside():
    l = ladder(network(**errors), inputs(), levels=('float', 'closed form', 'crossbar', 'nodal'), engine='nodal')
    assert [(r['a'], r['b']) for r in l.between()]==[('nodal', 'crossbar'), ('float', 'closed form'), ('closed form', 'nodal')]

def test_without_ngspice(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    l = ladder(network(**errors), inputs(2), levels=every_level)
    assert list(l.volts)==['float', 'all errors', 'analog', 'closed form', 'nodal', 'crossbar'] and 'not installed' in l.note
    with pytest.raises(EngineMissing): ladder(network(**errors), inputs(2), levels=('nodal', 'transient'), engine='ngspice')

def test_weights_of_devices_go_to_ngspice(ngspice):
    model = MLP([4, 6, 3], resistive=rule_preset('TTv2', 'EcRam'), generator=stream(0, 'init'))
    ordinary = as_ordinary(model)
    assert torch.equal(ordinary[0].weight, model[0].weight) and not hasattr(ordinary[0], 'tile') and hasattr(model[0], 'tile')
    on_chip = draw(with_hardware(model, Hardware(**errors)), generator=stream(0, 'chip'))
    x = inputs(5, 4)
    l = ladder(on_chip, x, engine='ngspice')
    assert (l.volts['nodal']-l.volts['ngspice']).abs().max()<1e-9 and (l.volts['analog']-l.volts['closed form']).abs().max()<1e-12
    assert (output_voltages(solve_ngspice(network_circuit(on_chip, x)))-l.volts['ngspice']).abs().max()<1e-6      # its weights are of single precision
    assert torch.equal(as_ordinary(model[0]).weight, model[0].weight)
