"Crossbars with wires: the fast ways are the plain one"
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from analognn.core import AnalogError, CircuitError, ConfigError, ShapeError, stream
from analognn.crossbar import CrossbarLinear, Wires, crossbar_circuit, crossbar_currents, effective_conductance, in_crossbars, nonlinear_currents, plain_crossbar, transistor_cell
from analognn.nodal import mosfet_current, solve
from analognn.spice import solve_ngspice

resistances = st.floats(1e-4, 1.)
arrays = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32)).map(lambda t: torch.rand(t[0], t[1], generator=stream(t[2]), dtype=torch.float64))

@given(arrays, resistances, resistances, st.floats(0, 1), st.floats(0, 1), st.booleans(), st.floats(0, .7))
@settings(max_examples=150, deadline=None)
def test_block_by_block_and_by_iteration_is_node_by_node(g, r_in, r_out, r_driver, r_sense, both, holes):
    g = torch.where(g<holes, 0., g)
    exact, how = plain_crossbar(g, Wires.make(r_in, r_out, r_driver, r_sense, both)), dict(r_driver=r_driver, r_sense=r_sense, both_ends=both)
    torch.testing.assert_close(effective_conductance(g, r_in, r_out, **how), exact, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(crossbar_currents(g, torch.eye(g.shape[1], dtype=torch.float64), r_in, r_out, **how), exact.T, atol=1e-11, rtol=1e-8)

@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_gradients(n_out, n_in, both, seed):
    g = (.1+torch.rand(2, n_out, n_in, generator=stream(seed), dtype=torch.float64)).requires_grad_()
    v = torch.randn(2, n_in, generator=stream(seed, 'v'), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: effective_conductance(g, .1, .2, r_driver=.1, both_ends=both), g)
    assert torch.autograd.gradcheck(lambda g, v: crossbar_currents(g, v, .1, .2, r_sense=.1, both_ends=both), (g[0].detach().requires_grad_(), v), atol=1e-6)

def test_turning_the_array_over_changes_the_roles():
    "Reciprocity: the array seen from its amplifiers is the transposed one"
    g = torch.rand(4, 7, generator=stream(0), dtype=torch.float64)
    there = effective_conductance(g, .1, .2, r_driver=.3, r_sense=.4)
    back = effective_conductance(g.T.flip((0, 1)), .2, .1, r_driver=.4, r_sense=.3)
    torch.testing.assert_close(there, back.flip((0, 1)).T, atol=1e-13, rtol=1e-12)

def test_wires_take_current_and_no_more():
    g = torch.rand(12, 9, generator=stream(0), dtype=torch.float64)
    worse = [effective_conductance(g, r) for r in (1e-3, 1e-2, 1e-1)]
    assert all((b.sum(1)<a.sum(1)).all() for a, b in zip([g, *worse], worse))
    assert (effective_conductance(g, .01, both_ends=True).sum()>worse[1].sum())

@pytest.mark.parametrize('engine', ['nodal', 'ngspice'])
def test_the_circuit(engine, request):
    if engine=='ngspice': request.getfixturevalue('ngspice')
    g, v = 1e-4*torch.rand(5, 6, generator=stream(1), dtype=torch.float64), torch.randn(6, generator=stream(2), dtype=torch.float64)
    sol = (solve if engine=='nodal' else solve_ngspice)(crossbar_circuit(g, v, 5., 8., r_driver=20., r_sense=10.))
    currents = torch.stack([sol.current(f'out{i}')[0] for i in range(5)])
    torch.testing.assert_close(currents, effective_conductance(g, 5., 8., r_driver=20., r_sense=10.)@v, atol=1e-14, rtol=1e-9)

def test_single_precision_and_many_arrays():
    g = torch.rand(2, 3, 5, 4, generator=stream(3))
    together = effective_conductance(g, .01)
    assert together.dtype==torch.float32 and together.shape==g.shape
    torch.testing.assert_close(together[1, 2], effective_conductance(g[1, 2].double(), .01).float())

def test_cells_that_bend_a_little_are_nearly_linear():
    g, v = np.random.default_rng(0).uniform(.1, 1, (4, 5)), np.linspace(-1, 1, 5)
    bent, _ = nonlinear_currents(lambda u: (g*np.sinh(1e-3*u)/1e-3, g*np.cosh(1e-3*u)), v, (4, 5), .01)
    torch.testing.assert_close(torch.from_numpy(bent), effective_conductance(torch.from_numpy(g), .01)@torch.from_numpy(v), atol=1e-6, rtol=1e-5)

def test_diodes_keep_current_from_flowing_back():
    "With a diode in each cell a negative input takes nothing"
    diode = lambda u: (1e-9*np.expm1(np.minimum(u, 2.)/.0517), 1e-9*np.exp(np.minimum(u, 2.)/.0517)/.0517)
    y, drop = nonlinear_currents(diode, np.array([-.5, .6, -.5]), (4, 3), 1.)
    alone, _ = nonlinear_currents(diode, np.array([-.5, .6, 0.]), (4, 3), 1.)
    np.testing.assert_allclose(y, alone, rtol=1e-3)
    assert (y>0).all()

def test_layers_in_crossbars():
    model, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)), torch.randn(3, 6, generator=stream(0))
    nearly, far = in_crossbars(model, r_in=1e-9), in_crossbars(model, r_in=.1)
    torch.testing.assert_close(nearly(x), model(x), atol=1e-5, rtol=1e-4)
    assert (far(x)-model(x)).abs().max()>1e-3 and type(far[1]) is nn.ReLU and far[2].bias is None
    far(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum()>0 for p in far.parameters())

@pytest.mark.parametrize('call, words', [(lambda g: effective_conductance(g, -1.), 'r_in is -1'), (lambda g: effective_conductance(g, 1., 0.), 'r_out is 0'), (lambda g: effective_conductance(g, 1., r_driver=-1.), 'r_driver is -1'), (lambda g: effective_conductance(-g, 1.), 'negative'),
    (lambda g: effective_conductance(g*torch.nan, 1.), 'NaN'), (lambda g: effective_conductance(g[:0], 1.), 'none of them 0'), (lambda g: crossbar_currents(g, torch.ones(2, 9), 1.), 'expected (n_out, n_in)'), (lambda g: nonlinear_currents(lambda u: (u, 0*u+1), np.ones(9), g.shape, 1.), 'expected (4,)'),
    (lambda g: nonlinear_currents(lambda u: (u*np.nan, 0*u+1), np.ones(4), g.shape, 1.), 'cell gave'), (lambda g: in_crossbars(nn.Sequential(nn.ReLU()), r_in=1.), 'no linear layer'), (lambda g: CrossbarLinear(2, 2, r_in=0.), 'r_in is 0')])
def test_bad_input(call, words):
    with pytest.raises(AnalogError) as e: call(torch.rand(3, 4, generator=stream(0), dtype=torch.float64))
    assert words in str(e.value)

@given(st.floats(1e-6, 1e-2), st.floats(.1, 2.), st.floats(1e-5, 1e-2), st.floats(-2., 2.))
@settings(max_examples=150, deadline=None)
def test_transistor_cell_solves_both_equations(g, overdrive, beta, v):
    "The current through the memory cell is the channel's, and rises with the voltage"
    cell = transistor_cell([[g]], overdrive, beta)
    i, di = (a.item() for a in cell(np.array([[v]])))
    u = v-i/g
    v_gs = torch.tensor(overdrive, dtype=torch.float64)
    channel = mosfet_current(v_gs, torch.tensor(u, dtype=torch.float64), torch.tensor(0., dtype=torch.float64), beta, 0., 0., torch.tensor(.6, dtype=torch.float64), 0.).item()
    assert i==pytest.approx(channel, rel=1e-6, abs=1e-9*g) and di>=0 and i*v>=0

@pytest.mark.parametrize('given, said', [((-1e-4, 1., 1e-3), 'g has entries'), ((float('nan'), 1., 1e-3), 'g has entries'), ((1e-4, 0., 1e-3), 'overdrive is 0.0'), ((1e-4, 1., float('inf')), 'beta is inf')])
def test_transistor_cell_refuses(given, said):
    g, *rest = given
    with pytest.raises(ConfigError, match=said): transistor_cell([[g]], *rest)

def test_transistor_cell_takes_values_for_each_cell():
    g, overdrive, volts = torch.full((2, 3), 1e-4), torch.tensor([[1.], [.5]]), np.full((2, 3), .4)
    both = transistor_cell(g, overdrive, [1e-3, 2e-3, 3e-3])(volts)[0]
    assert both.shape==(2, 3) and (both[0]>both[1]).all() and (np.diff(both, axis=1)>0).all()
