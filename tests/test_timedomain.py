"Circuits over time: ngspice on the same time points, plain against compiled, batches as loops, gradients as differences"
import pytest, torch

from analognn.circuit import PWL, Circuit, Pulse, Sine, one_chip
from analognn.core import CircuitError, ConfigError, ConvergenceError, ShapeError, stream
from analognn.spice import transient_ngspice
from analognn.tile import coupled_tile, find_spikes
from analognn.timedomain import crossings, delivered_charge, transient

t_stop, dt = 2e-8, 5e-11

class Draw:
    "Random values for one circuit"
    def __init__(self, seed): self.g = stream(seed, 'circuit')
    def __call__(self, low, high): return low*(high/low)**torch.rand((), generator=self.g, dtype=torch.float64).item()
    def pick(self, n): return int(torch.randint(n, (), generator=self.g))

def wave(d, high=1.8):
    "A random waveform between 0 and `high`"
    return [lambda: Pulse(0., high, td=d(1e-9, 4e-9), tr=d(2e-10, 1e-9), tf=d(2e-10, 1e-9), pw=d(2e-9, 5e-9), per=d(1e-8, 2e-8)),
            lambda: Sine(high/2, high/2, d(5e7, 3e8), td=d(1e-10, 2e-9), theta=d(1e5, 1e7)),
            lambda: PWL(((0., 0.), (d(1e-9, 2e-9), high*d(.3, 1.)), (d(4e-9, 6e-9), 0.), (d(8e-9, 1.2e-8), high)))][d.pick(3)]()

def linear(d, ckt):
    for k in range(2+d.pick(4)):
        a, b = f'n{k}', f'n{k+1}'
        ckt.R(f'{k}', a, b, d(1e2, 1e4)).C(f'{k}', b, '0', d(5e-14, 2e-12))
        if d.pick(2): ckt.L(f'{k}', b, f'l{k}', d(1e-9, 1e-7)).R(f'l{k}', f'l{k}', '0', d(1e2, 1e4))
    return ckt

def rectifier(d, ckt):
    return (ckt.R('1', 'n0', 'a', d(1e2, 1e3)).D('1', 'a', 'b', d(1e-16, 1e-13), d(1., 2.)).C('1', 'b', '0', d(1e-13, 1e-12)).R('2', 'b', '0', d(1e3, 1e5))
            .D('2', '0', 'a', d(1e-16, 1e-13)).C('2', 'a', '0', d(1e-14, 1e-13)).G('x', '0', 'c', 'b', '0', d(1e-5, 1e-3)).R('3', 'c', '0', d(1e2, 1e3)).C('3', 'c', '0', 1e-13))

def inverters(d, ckt):
    ckt.V('dd', 'vdd', '0', 1.8)
    body = dict(gamma=d(.1, .6) if d.pick(2) else 0., lambda_=d(.01, .1) if d.pick(2) else 0., i_s=1e-14 if d.pick(2) else 0.)
    ckt.R('in', 'n0', 'g0', d(1e2, 2e3)).C('in', 'g0', '0', d(1e-14, 1e-13))
    for k in range(1+d.pick(3)):
        ckt.pmos(f'p{k}', f'g{k+1}', f'g{k}', 'vdd', 'vdd', d(1e-6, 4e-6), kp=4e-5, vto=-d(.2, .5), **body).nmos(f'n{k}', f'g{k+1}', f'g{k}', 's', '0', d(5e-7, 2e-6), kp=1.2e-4, vto=d(.2, .5), **body)
        ckt.C(f'g{k+1}', f'g{k+1}', '0', d(2e-14, 2e-13))
    return ckt.R('s', 's', '0', d(1e1, 1e3)).C('s', 's', '0', 1e-14)

def neurons(d, ckt):
    "A loop of leaky summers through activations, which may ring"
    kinds = ['tanh', 'sigmoid', 'relu']
    for k in range(1+d.pick(3)):
        getattr(ckt, kinds[d.pick(3)])(f'{k}', f'y{k}', f'n{k}').R(f'{k}', f'y{k}', f'n{k+1}', d(1e2, 1e3)).R(f'l{k}', f'n{k+1}', '0', d(1e3, 1e4)).C(f'{k}', f'n{k+1}', '0', d(1e-13, 2e-12))
    return ckt.E('back', 'z', '0', f'n{k+1}', '0', -d(1., 4.)).tanh('back', 'back', 'z').R('back', 'back', 'n1', d(5e2, 5e3))

def random_circuit(k):
    "The k-th circuit: linear, with diodes, of transistors, of activations"
    d = Draw(k)
    return (linear, rectifier, inverters, neurons)[k%4](d, Circuit(f'random {k}').V('in', 'n0', '0', wave(d)))

# Against ngspice

def test_random_circuits_against_ngspice(ngspice):
    apart, lost = [], []
    for k in range(100):
        ckt = random_circuit(k)
        try:
            theirs = transient_ngspice(ckt, t_stop, dt, reltol=1e-7, fixed_step=True)
            apart.append(((transient(ckt, t=theirs.t)-theirs).v.abs().max()/theirs.v.abs().max()).item())
        except ConvergenceError as e: lost.append((k, str(e)))
    assert len(lost)<=1, lost
    apart = torch.tensor(apart)
    assert apart.median()<5e-4 and apart.max()<5e-3, apart

def test_tile_against_ngspice(ngspice):
    theirs = transient_ngspice(coupled_tile(), 3e-7, 2e-11, reltol=1e-7, fixed_step=True)
    a, b = find_spikes(transient(coupled_tile(), t=theirs.t)), find_spikes(theirs)
    assert (a.first-b.first).abs().max()<.5e-12 and a.energy.item()==pytest.approx(b.energy.item(), rel=1e-3) and torch.equal(a.count, b.count)

# Plain and compiled, chips, threads

@pytest.mark.parametrize('k', range(4))
def test_compiled_is_plain(k):
    answers = []
    for compiled in (True, False):
        ckt, r = random_circuit(k), torch.tensor(1., dtype=torch.float64, requires_grad=True)
        name = next(c.label for c in ckt if c.letter=='R')
        ckt = ckt.with_values({f'{name}.ohm': r*ckt.components[name.lower()].ohm})
        sol = transient(ckt, 5e-9, dt, tol=1e-10, compiled=compiled)
        answers.append((sol.v.detach(), torch.autograd.grad(sol.v.square().mean(), r)[0]))
    (v, g), (plain_v, plain_g) = answers
    assert (v-plain_v).abs().max()<1e-8 and g.item()==pytest.approx(plain_g.item(), rel=1e-6, abs=1e-12)

@pytest.mark.parametrize('chips', [1, 3, 5, 9])
def test_chips_are_a_loop_whatever_the_threads(chips):
    ckt = random_circuit(2)
    name = next(c.label for c in ckt if c.letter=='R')
    many = ckt.with_values({f'{name}.ohm': torch.linspace(5e2, 2e3, chips, dtype=torch.float64)[:, None]})
    before = torch.get_num_threads()
    try: runs = [(torch.set_num_threads(n), transient(many, 5e-9, dt).v)[1] for n in (1, 2)]
    finally: torch.set_num_threads(before)
    assert torch.equal(*runs)
    for k in range(chips): assert (runs[0].reshape(chips, *runs[0].shape[-2:])[k]-transient(one_chip(many, k), 5e-9, dt).v).abs().max()<1e-7

# Gradients

@pytest.mark.parametrize('kind', ['tanh', 'sigmoid'])
def test_gradients_through_activations(kind):
    def run(v):
        ckt = Circuit('loop').V('in', 'a', '0', Sine(0., 2.*v[0], 2e8)).R('1', 'a', 'b', 1e3*v[1]).C('1', 'b', '0', 1e-12*v[2]).E('1', 'c', '0', 'b', '0', -3.*v[3])
        getattr(ckt, kind)('1', 'y', 'c').R('2', 'y', 'b', 1e3*v[4])
        return transient(ckt, 5e-9, 1e-10, tol=1e-11).v[10::10]
    assert torch.autograd.gradcheck(run, torch.ones(5, dtype=torch.float64, requires_grad=True), eps=1e-6, atol=1e-7, rtol=1e-5)

@pytest.mark.parametrize('kind, exact', [('tanh', torch.tanh), ('sigmoid', torch.sigmoid)])
def test_activations_far_out(kind, exact):
    "Hundreds of volts saturate and do not overflow"
    ckt = Circuit('c').V('1', 'a', '0', PWL(((0., -900.), (1e-9, 900.)))).R('1', 'y', '0', 1e3)
    sol = transient(getattr(ckt, kind)('1', 'y', 'a'), 1e-9, 1e-11)
    assert (sol['y']-exact(sol['a'])).abs().max()<1e-14

def driven(r, c, v2, td, pw, freq, corner):
    "A small circuit with every kind of waveform"
    return (Circuit('driven').V('in', 'a', '0', Pulse(0., v2, td=td*1e-9, tr=3e-10, tf=3e-10, pw=pw*1e-9, per=1e-7)).R('1', 'a', 'b', r*1e3).C('1', 'b', '0', c*1e-12).D('1', 'b', 'd').R('2', 'd', '0', 1e4)
            .C('2', 'd', '0', 1e-13).I('s', '0', 'd', Sine(0., 1e-5, freq*1e8)).V('w', 'w', '0', PWL(((0., 0.), (4e-9, corner)))).R('3', 'w', 'd', 5e3))

start = [1., 1., 1.5, 1.013, 3.017, 2., .7]

def test_gradcheck_of_values_and_waveforms():
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in start]
    assert torch.autograd.gradcheck(lambda *v: transient(driven(*v), 6e-9, 1e-10, tol=1e-11).v[10::10], values, eps=1e-6, atol=1e-6, rtol=1e-5)

@pytest.mark.parametrize('ask', [lambda s: s['d'][40]*1e9, lambda s: crossings(s.t, s['b'], .4)[0]*1e9, lambda s: delivered_charge(s, 'in')*1e12, lambda s: -torch.trapezoid(s['a']*s.current('in'), s.t)*1e12])
def test_questions_have_the_derivatives_of_differences(ask):
    values = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    run = lambda v: ask(transient(driven(*v), 6e-9, 1e-10, tol=1e-11))
    exact, = torch.autograd.grad(run(values), values)
    for k in range(len(start)):
        step = torch.zeros(len(start), dtype=torch.float64); step[k] = 1e-6
        with torch.no_grad(): close = (run(values+step)-run(values-step))/2e-6
        assert exact[k].item()==pytest.approx(close.item(), rel=1e-5, abs=1e-6*exact.abs().max().item())

def test_spike_times_of_the_tile():
    def first(v): return find_spikes(transient(coupled_tile((Pulse(0., 1.75*v[2], td=5e-9, tr=1e-10, tf=1e-10, pw=2e-9, per=2e-8),), r_fb=1e3*v[0], rleak=8e6*v[1]), 3e-8, 2e-11, tol=1e-10)).first*1e9
    one = torch.ones(3, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(first, one)
    close = torch.stack([(first(one+1e-7*e)-first(one-1e-7*e))/2e-7 for e in torch.eye(3, dtype=torch.float64)], -1)
    assert (exact-close).abs().max()<1e-5*exact.abs().max()

# Bad input

@pytest.mark.parametrize('how, error, said', [
    (dict(t_stop=1e-9), CircuitError, 'dt'), (dict(t_stop=1e-9, dt=2e-9), CircuitError, 'dt is 2e-09'), (dict(t_stop=-1., dt=1.), CircuitError, 't_stop is -1'), (dict(), CircuitError, 't_stop and dt'),
    (dict(t=torch.tensor([0., 2., 1.])), ShapeError, 'rising'), (dict(t=torch.tensor([0., 1e-9]), dt=1e-9), CircuitError, 'besides'), (dict(t_stop=1e-9, dt=1e-10, tol=2.), ConfigError, 'tol is 2')])
def test_bad_times_are_named(how, error, said):
    with pytest.raises(error, match=said): transient(linear(Draw(0), Circuit('c').V('in', 'n0', '0', 1.)), **how)

def test_points_and_loose_nodes_are_refused():
    with pytest.raises(ShapeError, match='points are times'): transient(Circuit('c').V('1', 'a', '0', torch.ones(3)).R('1', 'a', '0', 1e3), 1e-9, 1e-10)
    with pytest.raises(CircuitError, match="'b'"): transient(Circuit('c').V('1', 'a', '0', 1.).C('1', 'a', 'b', 1e-12), 1e-9, 1e-10)

def test_no_solution_names_the_time():
    "v = R i + 2 max(v, 0) has a solution only while i is not positive"
    lost = Circuit('lost').I('1', '0', 'a', PWL(((0., -1e-3), (2e-9, 1e-3)))).R('1', 'a', '0', 1e3).relu('1', 'y', 'a').G('1', '0', 'a', 'y', '0', 2e-3)
    assert transient(lost, 9e-10, 1e-10)['a'][-1].item()==pytest.approx(-.1)
    for compiled in (True, False):
        with pytest.raises(ConvergenceError, match='t = 1.1e-09'): transient(lost, 2e-9, 1e-10, compiled=compiled)
