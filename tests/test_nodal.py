"Nodal analysis: Kirchhoff's laws at the solution, batches as loops, closed forms"
import random
from fractions import Fraction
from functools import cache

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import nodal
from analognn.circuit import Circuit, Resistor, one_chip, one_point
from analognn.core import CircuitError, ConvergenceError, stream
from analognn.crossbar import crossbar_circuit, effective_conductance
from analognn.mapping import closed_form, network_circuit, output_voltages
from analognn.nn import MLP, AnalogLinear, draw
from analognn.nodal import condition_number, solve
from analognn.nonideal import Drift, Hardware
from analognn.spice import random_circuit, solve_ngspice

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
    for k in range(12): assert (solve(cmos(k))-solve_ngspice(cmos(k))).v.abs().max()<1e-8, k

def test_a_chain_of_inverters_without_slope_is_solved():
    "Channels of no output conductance send Newton's method round in circles; conductances beside them, taken away again, do not"
    ckt = Circuit('chain').V('dd', 'vdd', '0', 1.8).V('i', 'g0', '0', .9)
    for j in range(3): ckt.pmos(f'p{j}', f'g{j+1}', f'g{j}', 'vdd', 'vdd', 3e-6, kp=4e-5, vto=-.25-.03*j, i_s=0.).nmos(f'n{j}', f'g{j+1}', f'g{j}', '0', '0', 1e-6, kp=1.2e-4, vto=.3+.05*j, i_s=0.)
    assert solve(ckt).v.isfinite().all()

def test_superposition():
    ckt = lambda v, i: solve(Circuit('c').V('1', 'a', '0', v).R('1', 'a', 'b', 1e3).R('2', 'b', '0', 5e2).I('1', '0', 'b', i)).v
    torch.testing.assert_close(ckt(1., 1e-3), ckt(1., 0.)+ckt(0., 1e-3))

@given(st.floats(1e-6, 1e15), st.floats(1e-6, 1e15))
@settings(max_examples=50, deadline=None)
def test_circuits_singular_but_for_rounding_are_refused(r1, r2):
    ckt = Circuit('latch').V('s', 'a', '0', 1.).R('1', 'a', 'b', r1).E('x', 'o', '0', 'b', '0', 1+r2/r1).R('2', 'o', 'b', r2)
    with pytest.raises(CircuitError, match='no unique solution'): solve(ckt)

def test_layers_of_unequal_supplies_are_refused():
    for name in ('v_ref', 'v_max'):
        first, second = (Hardware(**{'v_max': 1., name: v}, saturation='knee') for v in (1., 2.))
        model = torch.nn.Sequential(AnalogLinear(2, 2, hardware=first), AnalogLinear(2, 2, hardware=second))
        with pytest.raises(CircuitError, match=name): network_circuit(model, torch.ones(2))

def test_no_operating_point_is_a_convergence_error():
    with pytest.raises(ConvergenceError, match='chip 0, point 1: .* path of solutions'): solve(Circuit('c').I('1', 'd', '0', torch.tensor([0., 1.])).D('1', 'd', '0'))

def test_singular_circuits_are_named():
    with pytest.raises(CircuitError, match='o'): solve(Circuit('c').V('1', 'a', '0', 1.).opamp('x', 'o', 'a', '0').R('1', 'o', '0', 1e3))

# Sparse matrices

@pytest.fixture(params=['reduced', 'whole'])
def sparse(request, monkeypatch):
    "A function that is called with all matrices sparse, and Newton's method in the nonlinear inputs or in all unknowns"
    def call(f, *args):
        with monkeypatch.context() as m:
            m.setattr(nodal, '_sparse_from', 0)
            if request.param=='whole': m.setattr(nodal, '_whole_from', 0)
            return f(*args)
    return call

values = torch.tensor([[1e3], [2e3], [5e3]], dtype=torch.float64)
batches = {'points': (1e3, torch.linspace(-2, 2, 5)), 'chips': (values, 1.), 'both': (values, torch.linspace(-2, 2, 5)), 'swept resistor': (values.flatten(), 1.), 'all': (values*torch.linspace(1, 2, 4), torch.linspace(-2, 2, 4)),
           'sources of chips': (1e3, torch.linspace(-2, 2, 6).view(3, 2))}

@pytest.mark.parametrize('r, v', batches.values(), ids=batches)
def test_sparse_is_dense(sparse, r, v):
    ckt = ladder_circuit(r, v)
    one, other = sparse(solve, ckt), solve(ckt)
    assert (one.info['matrix'], other.info['matrix'])==('sparse', 'dense') and one.v.shape==other.v.shape
    torch.testing.assert_close(one.v, other.v, rtol=1e-12, atol=1e-12); torch.testing.assert_close(one.i, other.i, rtol=1e-12, atol=1e-12)
    assert sparse(condition_number, ckt)==pytest.approx(condition_number(ckt), rel=2e-3)

@pytest.mark.parametrize('r, v', batches.values(), ids=batches)
def test_sparse_gradients_are_dense(sparse, r, v):
    def grads():
        leaves = [torch.as_tensor(x).double().clone().requires_grad_() for x in (r, v)]
        sol = solve(ladder_circuit(*leaves))
        out = torch.cat([sol.v, sol.i], -1)
        return torch.autograd.grad((out*torch.randn(out.shape, generator=stream(0), dtype=torch.float64)).sum(), leaves)
    for one, other in zip(sparse(grads), grads()): torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)

def test_sparse_gradients_through_chips_and_points(sparse):
    r, v = torch.tensor([[1e3], [2e3]], dtype=torch.float64, requires_grad=True), torch.tensor([-1., .1, 2.], dtype=torch.float64, requires_grad=True)
    assert sparse(torch.autograd.gradcheck, lambda r, v: solve(ladder_circuit(r, v)).v, (r, v))

def test_sparse_gradients_of_transistors(sparse):
    def grads():
        w, vto, gamma, i_s = (torch.tensor([[x], [1.1*x]], dtype=torch.float64, requires_grad=True) for x in (2e-6, .4, .3, 1e-14))
        ckt = Circuit('g').V('dd', 'd', '0', 1.8).V('g', 'g', '0', torch.tensor([.9, 1.5])).V('b', 'b', '0', -.3).nmos('n', 'd', 'g', 's', 'b', w, kp=1e-4, vto=vto, gamma=gamma, i_s=i_s).R('s', 's', '0', 1e4).tanh('t', 't', 's').sigmoid('u', 'u', 't')
        return torch.autograd.grad(solve(ckt)['u'].sum(), (w, vto, gamma, i_s))
    for one, other in zip(sparse(grads), grads()): torch.testing.assert_close(one, other, rtol=1e-9, atol=0)

def test_random_circuits_solved_sparsely(sparse):
    rng = random.Random('sparse')
    for k in range(60):
        ckt = random_circuit(rng, rng.randint(4, 24), 'RRRRVIEGFHKODr')
        try: other = solve(ckt)
        except (CircuitError, ConvergenceError) as e:
            with pytest.raises(type(e)): sparse(solve, ckt)
            continue
        if condition_number(ckt)<1e8: assert (sparse(solve, ckt).v-other.v).abs().max()<1e-8*other.v.abs().max().clamp(min=1e-300), k

def test_a_large_crossbar():
    "2176 unknowns; currents against the effective matrix"
    g, v = 1e-6+99e-6*torch.rand(32, 32, generator=stream(0), dtype=torch.float64), torch.rand(32, generator=stream(1), dtype=torch.float64)
    sol = solve(crossbar_circuit(g, v, 1.))
    assert sol.info['matrix']=='sparse'
    torch.testing.assert_close(torch.cat([sol.current(f'out{i}') for i in range(32)]), effective_conductance(g, 1.)@v, rtol=1e-10, atol=0)

def test_many_diodes():
    "625 of them in an array with wires, each behind a resistor: Kirchhoff's law between the two"
    g, n = stream(0, 'diodes'), 25
    ckt, ohm = Circuit('array'), 1e4*(1+torch.rand(n, n, generator=g, dtype=torch.float64))
    for j, v in enumerate((2*torch.rand(n, generator=g, dtype=torch.float64)-.5).tolist()):
        ckt.V(f'in{j}', f'u{j}_0', '0', v)
        for i in range(n): ckt.R(f'i{j}_{i}', f'u{j}_{i}', f'u{j}_{i+1}', 1.).D(f'{j}_{i}', f'u{j}_{i+1}', f'm{j}_{i}').R(f'c{j}_{i}', f'm{j}_{i}', f'b{i}_{j}', ohm[i, j].item()).R(f'o{j}_{i}', f'b{i}_{j}', f'b{i}_{j+1}' if j<n-1 else '0', 1.)
    sol = solve(ckt)
    for j, i in ((0, 0), (7, 20), (24, 24)):
        m = sol[f'm{j}_{i}']
        torch.testing.assert_close(1e-14*torch.expm1((sol[f'u{j}_{i+1}']-m)/nodal.thermal_voltage), (m-sol[f'b{i}_{j}'])/ohm[i, j], rtol=1e-7, atol=1e-14)

def big(ckt, n=400):
    "The circuit with a chain of resistors at its node `a`"
    for k in range(n): ckt.R(f'big{k}', f'big{k-1}' if k else 'a', f'big{k}', 1e3).R(f'ground{k}', f'big{k}', '0', 1e5)
    return ckt

# Which circuits have a unique solution

def network(seed, low, high):
    "Resistors of 10^low to 10^high ohms, from every node to earlier ones and from the last to ground, and the exact conductances between the nodes that are not fixed, and to the fixed one"
    rng = random.Random(seed)
    n, ckt = rng.randint(3, 9), Circuit('network').V('in', 'n0', '0', 1.)
    for j in range(1, n):
        for k in range(rng.randint(1, 2)): ckt.R(f'{j}_{k}', f'n{j}', f'n{rng.randrange(j)}', 10**rng.uniform(low, high))
    ckt.R('z', f'n{n-1}', '0', 10**rng.uniform(low, high))
    G = [[Fraction(0)]*(n+1) for _ in range(n+1)]
    for c in ckt:
        if isinstance(c, Resistor):
            a, b = (n if m=='0' else int(m[1:]) for m in (c.a, c.b))
            for i, j in ((a, b), (b, a)): G[i][i] += 1/Fraction(c.ohm); G[i][j] -= 1/Fraction(c.ohm)
    return ckt, [row[1:n] for row in G[1:n]], [-row[0] for row in G[1:n]]

def solved(A, b):
    "In rational numbers"
    M = [[*row, x] for row, x in zip(A, b)]
    for k in range(len(M)):
        for i in range(len(M)):
            if i!=k: M[i] = [x-M[i][k]/M[k][k]*y for x, y in zip(M[i], M[k])]
    return [row[-1]/row[k] for k, row in enumerate(M)]

everywhere = {'dense': (10**6, 10**6), 'sparse': (0, 10**6), 'whole': (0, 0)}

@pytest.fixture(params=everywhere)
def any_way(request, monkeypatch):
    for name, limit in zip(('_sparse_from', '_whole_from'), everywhere[request.param]): monkeypatch.setattr(nodal, name, limit)

@pytest.mark.parametrize('low, high', [(0, 7), (-3, 12), (-9, 15)])
def test_resistances_of_any_size(any_way, low, high):
    "Solved as in rational numbers; and refused with a negative resistance that leaves the last node open but for its rounding"
    for seed in range(15):
        ckt, A, b = network(seed, low, high)
        sol = solve(ckt)
        for n, exact in zip(ckt.nodes[1:], map(float, solved(A, b))): assert sol[n].item()==pytest.approx(exact, rel=1e-5), seed
        last = ckt.nodes[-1]
        ckt.G('minus', last, '0', last, '0', -float(1/solved(A, [0]*(len(b)-1)+[1])[-1]))
        with pytest.raises(CircuitError, match=f'no unique solution: .*{last}'): solve(ckt)

def amplified(ckt, node, gain, n):
    for k in range(n): ckt.E(f'up{k}', f'up{k}', '0', f'up{k-1}' if k else node, '0', gain)
    return ckt

def rungs(n, *more):
    "A ladder, and resistors (node, node, ohm) beside it"
    ckt = Circuit('ladder').V('in', 'n0', '0', 1.)
    for k in range(n): ckt.R(f'{k}', f'n{k}', f'n{k+1}', 1.).R(f'g{k}', f'n{k+1}', '0', 1e3)
    for k, ends in enumerate(more): ckt.R(f'more{k}', *ends)
    return ckt

well_posed = {'transimpedance': (lambda: amplified(Circuit('c').I('i', '0', 'm', 1e-12).R('f', 'm', 'o', 1e10).opamp('1', 'o', '0', 'm', 1e5), 'o', 1e3, 2), 'up1', -1e4/(1+1e-5)),
    'two large resistors, dense': (lambda: rungs(100, ('n0', 'q', 1e15), ('q', '0', 1e15)), 'q', .5),
    'two large resistors, sparse': (lambda: rungs(400, ('n0', 'q', 1e15), ('q', '0', 1e15)), 'q', .5),
    'a node behind a large resistor': (lambda: rungs(3, ('n0', 'q', 1e14)), 'q', 1.),
    'a pair behind a larger one': (lambda: rungs(3, ('n0', 'q', 1e18), ('q', 'r', 1e3)), 'r', 1.),
    'small behind large behind small': (lambda: rungs(3, ('n0', 'q', 1e-9), ('q', 'r', 1e17), ('r', 's', 1e-6), ('s', '0', 1e17)), 's', .5),
    'a current controls': (lambda: Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', '0', 1e3).H('1', 'o', '0', '1', -1e15).R('2', 'o', '0', 1e3), 'o', 1e12),
    'an op-amp as a comparator': (lambda: Circuit('c').V('1', 'a', '0', 1e-6).opamp('1', 'o', 'a', '0', 1e9).R('1', 'o', '0', 1e3), 'o', 1e3),
    'five amplifiers': (lambda: amplified(Circuit('c').V('1', 'a', '0', 1e-20), 'a', 1e5, 5), 'up4', 1e5),
    'nearly a latch': (lambda: Circuit('c').V('s', 'a', '0', 1.).R('1', 'a', 'b', 1e3).E('x', 'o', '0', 'b', '0', 2-2**-30).R('2', 'o', 'b', 1e3), 'b', 2.**30),
    'a bulk on its own': (lambda: Circuit('c').V('d', 'd', '0', 1.).V('g', 'g', '0', 0.).nmos('1', 'd', 'g', 's', 'b', 1e-6, vto=.4, i_s=0.).R('s', 's', '0', 1e3), 'b', .5)}

@pytest.mark.parametrize('name', well_posed)
def test_well_posed_circuits_are_solved(any_way, name):
    make, node, volts = well_posed[name]
    assert solve(make())[node].item()==pytest.approx(volts, rel=1e-6)

def ring(n, seed):
    "Amplifiers whose gains multiply to one"
    rng, ckt, all = random.Random(seed), Circuit('ring'), 1.
    for k in range(n):
        gain = 10**rng.uniform(-3, 3) if k<n-1 else 1/all
        all *= gain; ckt.E(f'{k}', f'x{k}', '0', f'x{k-1 if k else n-1}', '0', gain).R(f'{k}', f'x{k}', '0', 1e3)
    return ckt

def test_rings_of_unit_gain_are_refused(any_way):
    for n in (2, 3, 10, 40):
        with pytest.raises(CircuitError, match='nodes x0, x'): solve(ring(n, n))

def test_a_resistance_that_cancels_but_for_rounding_is_refused(any_way):
    "The diagonal that is left has no digit to trust, and it stands alone in its row"
    ckt = Circuit('c').R('1', 'a', '0', 1/.1).R('2', 'a', '0', 1/.2).G('1', 'a', '0', 'a', '0', -.3).I('1', '0', 'a', 1e-3)
    with pytest.raises(CircuitError, match='nodes a are'): solve(ckt)

undetermined = {'two op-amps on one node': (lambda: Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'm', 1e3).R('2', 'm', 'o', 1e3).opamp('x', 'o', '0', 'm').R('3', 'o', 'p', 1e3).R('4', 'p', '0', 1e3).opamp('y', 'q', '0', 'm').R('5', 'q', 'm', 1e3), 'nodes o, p, q'),
    'an op-amp without feedback': (lambda: Circuit('c').V('1', 'a', '0', 1.).opamp('x', 'o', 'a', '0').R('1', 'o', '0', 1e3), 'nodes o'),
    'a current into a current': (lambda: Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'b', 1e3).G('1', 'b', '0', 'b', '0', -1e-3).R('2', 'b', 'c', 1e3).R('3', 'c', 'd', 1e3).I('1', 'd', '0', 1e-3), 'nodes b, c, d'),
    'a latch at its threshold': (lambda: Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'b', 1e3).E('x', 'o', '0', 'b', '0', 2.).R('2', 'o', 'b', 1e3), 'nodes b, o')}

undetermined['a latch at its threshold, behind amplifiers'] = lambda: amplified(undetermined['a latch at its threshold'][0](), 'a', 1e5, 5), 'nodes b, o'
undetermined['a latch at its threshold, before amplifiers'] = lambda: amplified(undetermined['a latch at its threshold'][0](), 'b', 1e3, 2), 'nodes b, o, up0, up1'

@pytest.mark.parametrize('name', undetermined)
def test_undetermined_nodes_are_named(name):
    "No other node is, in a small circuit and in a large one"
    make, said = undetermined[name]
    for ckt in (make(), big(make())):
        with pytest.raises(CircuitError, match=f'{said} are not determined$'): solve(ckt)

def test_the_chip_that_is_singular_is_found(sparse):
    ckt = Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'b', torch.tensor([[1e3], [2e3]])).E('x', 'o', '0', 'b', '0', 2.).R('2', 'o', 'b', 2e3)
    for call in (lambda f, ckt: f(ckt), sparse):
        with pytest.raises(CircuitError, match='nodes b, o are not determined$'): call(solve, ckt)

def test_a_singular_circuit_has_an_infinite_condition_number():
    ckt = Circuit('c').V('1', 'a', '0', 1.).opamp('x', 'o', 'a', 'a').R('1', 'o', '0', 1e3)
    for one in (ckt, big(ckt)): assert condition_number(one)==float('inf')

def test_a_gate_without_path_is_named():
    with pytest.raises(CircuitError, match="'g'"): solve(Circuit('c').V('1', 'd', '0', 1.).nmos('1', 'd', 'g', '0', '0', 1e-6))

# What Newton's method does not find by itself

@cache
def nonlinear():
    "The bench's nonlinear circuits"
    rng = random.Random('nonlinear circuits')
    return [random_circuit(rng, rng.randint(4, 24), 'RRRRVIEGFHKODDMMra') for _ in range(500)]

@pytest.mark.parametrize('k', [2, 64, 75, 187, 215, 412, 463])
def test_circuits_with_feedback_against_ngspice(ngspice, k):
    ckt = nonlinear()[k]
    one, other = solve(ckt), solve_ngspice(ckt)
    assert (one-other).v.abs().max()<1e-8*other.v.abs().max()

def test_a_walk_past_folds():
    "ngspice finds none here; Newton's method, begun at what is found, stays there"
    sol = solve(nonlinear()[493])
    again = solve(nonlinear()[493], start=sol)
    assert sol.info['walked']==1 and 'walked' not in again.info and again.info['newton_steps']<5
    torch.testing.assert_close(again.v, sol.v, rtol=1e-9, atol=1e-9)

def test_a_walk_in_a_large_circuit(monkeypatch):
    "Rails beside a circuit that needs a walk, and Newton's method in all unknowns before it"
    monkeypatch.setattr(nodal, '_whole_from', 100)
    ckt, alone = nonlinear()[493], solve(nonlinear()[493])
    large = Circuit('large').add(*ckt)
    for k in range(100): large.rail(f'beside{k}', f'beside{k}', ckt.nodes[0], 1.)
    sol = solve(large)
    assert sol.info['walked']==1
    torch.testing.assert_close(torch.stack([sol[n] for n in ckt.nodes]), torch.stack([alone[n] for n in ckt.nodes]), rtol=1e-7, atol=1e-9)

def test_too_large_to_walk(sparse, monkeypatch):
    monkeypatch.setattr(nodal, '_walkable', 0)
    with pytest.raises(ConvergenceError, match='chip 0, point 1: .* not walked with 1 nonlinear inputs'): sparse(solve, Circuit('c').I('1', 'd', '0', torch.tensor([0., 1.])).D('1', 'd', '0'))

def test_no_operating_point_is_named_in_all_unknowns(sparse):
    with pytest.raises(ConvergenceError, match='chip 0, point 1: .* path of solutions'): sparse(solve, Circuit('c').I('1', 'd', '0', torch.tensor([0., 1.])).D('1', 'd', '0'))

@pytest.mark.parametrize('v', [5., torch.linspace(-3, 3, 6), torch.linspace(-3, 3, 6).view(3, 2), torch.tensor([[5.], [-5.], [0.]])], ids=['one', 'points', 'both', 'chips'])
@pytest.mark.parametrize('r', [1e4, torch.tensor([[1e4], [2e4], [3e4]])], ids=['alike', 'chips'])
def test_of_two_operating_points_the_same_is_found(sparse, v, r):
    ckt = Circuit('latch').V('in', 'a', '0', v).R('in', 'a', 'b', r).R('back', 'y', 'b', 1e3).E('amp', 'x', '0', 'b', '0', 3.).rail('out', 'y', 'x', 1.)
    torch.testing.assert_close(sparse(solve, ckt).v, solve(ckt).v, rtol=1e-12, atol=1e-12)
    assert sparse(solve, ckt).info['substitutions']

def test_a_walk_for_the_points_that_need_it():
    "Two easy points and a hard one, together and alone"
    ckt = nonlinear()[493]
    volts = torch.tensor([0., 1e-9, ckt.components['v0'].volt], dtype=torch.float64)
    together = solve(ckt.with_values({'V0.volt': volts}))
    for k, v in enumerate(volts.tolist()): torch.testing.assert_close(together.v[k], solve(ckt.with_values({'V0.volt': v})).v[0], rtol=1e-9, atol=1e-9)
