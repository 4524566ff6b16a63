"Nodal analysis: Kirchhoff's laws at the solution, batches as loops, closed forms"
import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.circuit import Circuit, one_chip, one_point
from analognn.core import CircuitError, ConvergenceError, stream
from analognn.mapping import closed_form, network_circuit, output_voltages
from analognn.nn import MLP, AnalogLinear, draw
from analognn.nodal import solve
from analognn.nonideal import Drift, Hardware
from analognn.spice import solve_ngspice

@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=2, max_size=4), st.sampled_from([1e3, 1e5, 1e8, float('inf')]), st.sampled_from(['hard', 'knee']))
@settings(max_examples=40, deadline=None)
def test_any_network_is_its_closed_form(seed, sizes, gain, saturation):
    hw = Hardware(mismatch=.05, offset=.01, write_noise=.02, drift=Drift(1e4), gain=gain, v_max=1.5, saturation=saturation)
    model = draw(MLP(sizes, hardware=hw, generator=stream(seed, 'init')).double(), generator=stream(seed, 'chip'))
    for p in model.parameters(): p.data *= 2
    x = 2*torch.randn(7, sizes[0], generator=stream(seed, 'x'), dtype=torch.float64)
    y = output_voltages(solve(network_circuit(model, x)))
    assert (y-closed_form(model, x)).abs().max()<1e-9
    assert (closed_form(model, x)-model(x).detach()).abs().max()<1e-11

def ladder_circuit(r, v, seed=0):
    "Resistors, a diode and an op-amp, with values per chip and sources per point"
    return (Circuit('batch').V('s', 'a', '0', v).R('1', 'a', 'b', r).R('2', 'b', '0', 2e3).D('1', 'b', '0').R('3', 'b', 'm', 1e3)
            .R('4', 'm', 'o', r).opamp('1', 'o', '0', 'm', 1e4).rail('1', 'y', 'o', .3).I('1', '0', 'b', 1e-4))

def test_a_batch_is_a_loop():
    ckt = ladder_circuit(torch.tensor([[1e3], [2e3], [5e3]]), torch.linspace(-2, 2, 5))
    sol = solve(ckt)
    assert sol.v.shape==(3, 5, len(ckt.nodes))
    for k in range(3):
        for p in range(5): torch.testing.assert_close(sol.v[k, p], solve(one_point(one_chip(ckt, k), p)).v[0], rtol=1e-9, atol=1e-12)

def test_swept_resistors_are_solved_point_by_point():
    r = torch.tensor([1e3, 2e3, 5e3])
    sol = solve(ladder_circuit(r, torch.tensor([1., 1., -1.])))
    for p in range(3): torch.testing.assert_close(sol.v[p], solve(ladder_circuit(r[p].item(), [1., 1., -1.][p])).v[0], rtol=1e-9, atol=1e-12)

def test_gradients_through_chips_and_points():
    r, v = torch.tensor([[1e3], [2e3]], dtype=torch.float64, requires_grad=True), torch.tensor([-1., .1, 2.], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, v: solve(ladder_circuit(r, v)).v, (r, v))

def cmos(k):
    "A chain of inverters with random devices, at a random input"
    g = stream(k, 'cmos')
    u = lambda low, high: low+(high-low)*torch.rand((), generator=g, dtype=torch.float64).item()
    ckt, model = Circuit('chain').V('dd', 'vdd', '0', 1.8).V('i', 'g0', '0', u(0., 1.8)), dict(gamma=u(0., .5), lambda_=u(.01, .1), i_s=1e-14)
    for j in range(3):
        ckt.pmos(f'p{j}', f'g{j+1}', f'g{j}', 'vdd', 'vdd', u(1e-6, 4e-6), kp=4e-5, vto=-u(.2, .5), **model).nmos(f'n{j}', f'g{j+1}', f'g{j}', 's', '0', u(5e-7, 2e-6), kp=1.2e-4, vto=u(.2, .5), **model)
    return ckt.R('s', 's', '0', u(10., 1e4))

def test_transistors_against_ngspice(ngspice):
    for k in range(30): assert (solve(cmos(k))-solve_ngspice(cmos(k))).v.abs().max()<1e-8, k

def test_a_chain_of_inverters_without_slope_is_solved():
    "Channels of no output conductance send Newton's method round in circles; conductances beside them, taken away again, do not"
    ckt = Circuit('chain').V('dd', 'vdd', '0', 1.8).V('i', 'g0', '0', .9)
    for j in range(3): ckt.pmos(f'p{j}', f'g{j+1}', f'g{j}', 'vdd', 'vdd', 3e-6, kp=4e-5, vto=-.25-.03*j, i_s=0.).nmos(f'n{j}', f'g{j+1}', f'g{j}', '0', '0', 1e-6, kp=1.2e-4, vto=.3+.05*j, i_s=0.)
    assert solve(ckt).v.isfinite().all()

def test_superposition():
    ckt = lambda v, i: solve(Circuit('c').V('1', 'a', '0', v).R('1', 'a', 'b', 1e3).R('2', 'b', '0', 5e2).I('1', '0', 'b', i)).v
    torch.testing.assert_close(ckt(1., 1e-3), ckt(1., 0.)+ckt(0., 1e-3))

@given(st.floats(1, 1e6), st.floats(1, 1e6))
@settings(max_examples=200, deadline=None)
def test_circuits_singular_but_for_rounding_are_refused(r1, r2):
    ckt = Circuit('latch').V('s', 'a', '0', 1.).R('1', 'a', 'b', r1).E('x', 'o', '0', 'b', '0', 1+r2/r1).R('2', 'o', 'b', r2)
    with pytest.raises(CircuitError, match='no unique solution'): solve(ckt)

def test_layers_of_unequal_supplies_are_refused():
    for name in ('v_ref', 'v_max'):
        first, second = (Hardware(**{'v_max': 1., name: v}, saturation='knee') for v in (1., 2.))
        model = torch.nn.Sequential(AnalogLinear(2, 2, hardware=first), AnalogLinear(2, 2, hardware=second))
        with pytest.raises(CircuitError, match=name): network_circuit(model, torch.ones(2))

def test_no_operating_point_is_a_convergence_error():
    with pytest.raises(ConvergenceError): solve(Circuit('c').I('1', 'd', '0', 1.).D('1', 'd', '0'))

def test_singular_circuits_are_named():
    with pytest.raises(CircuitError, match='o'): solve(Circuit('c').V('1', 'a', '0', 1.).opamp('x', 'o', 'a', '0').R('1', 'o', '0', 1e3))
