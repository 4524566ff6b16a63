"Memristors: laws, bounds, passivity, engines against each other, netlists, gradients, pulses"
from dataclasses import replace

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.circuit import Circuit, Memristor, Pulse, Sine, check_circuit, from_netlist, one_chip
from analognn.core import CircuitError, ConfigError, NetlistError, stream
from analognn.memristor import (StanfordPKU, VTEAM, as_weights, curve_error, filament_current, filament_rate, pulse_response, random_transient, transient_difference, varied, vteam_current,
                                vteam_rate, windowed)
from analognn.devices import ConstantStep
from analognn.nodal import solve
from analognn.spice import simulate, solve_ngspice, solve_pyspice, transient_ngspice
from analognn.timedomain import transient

classes = pytest.mark.parametrize('cls', [VTEAM, StanfordPKU])
volts, states = st.floats(-2., 2.), st.floats(0., 1.)

def cell(cls, **values): return cls('1', 'b', '0', **values)
def parameters(c): return {k: getattr(c, k) for k in c.parameters()}
def number(*v): return torch.tensor(v if len(v)>1 else v[0], dtype=torch.float64)
def driven(c, amplitude=1.5, offset=0.): return Circuit('driven').V('in', 'a', '0', Sine(offset, amplitude, 1e6)).R('1', 'a', 'b', 1e3).add(c)

# The laws

@classes
@given(v=volts, x=states)
@settings(max_examples=100, deadline=None)
def test_laws_are_passive_odd_and_rest_at_zero(cls, v, x):
    c = cell(cls)
    i, rate = (lambda v: cls.current(number(v), number(x), **parameters(c))), (lambda v: cls.rate(number(v), number(x), **parameters(c)))
    assert i(v)*v>=0 and i(-v).item()==pytest.approx(-i(v).item(), rel=1e-12)
    assert rate(0.)==0 and i(0.)==0
    assert rate(v)*v*(1 if cls is VTEAM else -1)>=0

@given(volts, states)
@settings(max_examples=100, deadline=None)
def test_equal_thresholds_make_a_mirror(v, x):
    p = parameters(cell(VTEAM))
    assert vteam_rate(number(v), number(x), **p).item()==pytest.approx(-vteam_rate(number(-v), number(1-x), **p).item(), rel=1e-9, abs=1e-3)

@classes
@given(v=volts)
@settings(max_examples=50, deadline=None)
def test_nothing_leads_out_of_bounds(cls, v):
    p = parameters(cell(cls))
    assert cls.rate(number(v), number(1.), **p)<=0 and cls.rate(number(v), number(0.), **p)>=0
    assert cls.rate(number(v), number(1.1), **p)<=0 and cls.rate(number(v), number(-.1), **p)>=0

@pytest.mark.parametrize('law, c', [(vteam_current, VTEAM), (vteam_rate, VTEAM), (filament_current, StanfordPKU), (filament_rate, StanfordPKU)])
def test_gradcheck_of_laws(law, c):
    names = c.parameters()
    unit = {'k_on': 1e6, 'k_off': 1e6, 'velocity': 1e10, 'r_on': 1e4, 'r_off': 1e4, 'i_0': 1e-3, 't_0': 300., 'r_th': 1e3}
    start = [getattr(cell(c), k)/unit.get(k, 1.)+(.7 if k=='window' else 0.) for k in names]
    scale = 1e6 if 'rate' in law.__name__ else 1e-4
    for v in (.9, -.8):
        f = lambda v, x, *p: law(v, x, **{k: y*unit.get(k, 1.) for k,y in zip(names, p)})/scale
        assert torch.autograd.gradcheck(f, [number(y).requires_grad_() for y in (v, .4, *start)], eps=1e-7, atol=1e-5, rtol=1e-4)

def test_heat_speeds_up():
    p = parameters(cell(StanfordPKU, gap_max=.5))
    assert filament_rate(number(1.2), number(.2), **p)<2*filament_rate(number(1.2), number(.2), **p | dict(r_th=0.))<0

def test_window_is_steep_where_asked():
    x = number(0., .9, .99, 1.)
    early, late = (windowed(1., 0., x, w) for w in (1., 10.))
    assert (late>=early).all() and early[-1]==late[-1]==0

# Engines

@classes
def test_state_stays_within_bounds(cls):
    for x0 in (0., .5, 1.):
        sol = transient(Circuit('driven').V('in', 'b', '0', Sine(0., 1.5, 1e6)).add(cell(cls, x0=x0)), 3e-6, 2e-10)
        x = sol['state_1']
        assert x[0]==x0 and x.min()>-1e-9 and x.max()<1+1e-9 and x.max()-x.min()>.2
        assert (-sol.current('in')*sol['b']).min()>=0                      # passive at every time

@classes
def test_without_voltage_nothing_moves(cls):
    sol = transient(driven(cell(cls, x0=.37), amplitude=0.), 1e-6, 1e-8)
    assert (sol['state_1']-.37).abs().max()<1e-13

@classes
def test_at_rest_all_engines_hold_the_state(cls, ngspice):
    ckt = Circuit('at rest').V('in', 'a', '0', torch.linspace(-1.5, 1.5, 7)).R('1', 'a', 'b', 1e3).add(cell(cls, x0=.3), cls('2', 'b', 'a', x0=.8))
    own = solve(ckt)
    assert torch.equal(own['state_1'], torch.full((7,), .3, dtype=torch.float64))
    for other in (solve_ngspice(ckt), solve_pyspice(ckt)): assert (own-other).v.abs().max()<1e-12 and (own-other).i.abs().max()<1e-12

@classes
@pytest.mark.parametrize('offset', [0., .6, -.6])
def test_over_time_ngspice_agrees(cls, offset, ngspice):
    "Also where the state moves at once"
    ckt = driven(cell(cls, x0=.4), offset=offset)
    theirs = transient_ngspice(ckt, 2e-6, 2e-9, reltol=1e-7, fixed_step=True)
    assert (transient(ckt, t=theirs.t)-theirs).v.abs().max()<2e-4

def test_first_step_of_a_state_at_work():
    "A constant voltage from the start: the state follows its rate from the first step on, to second order"
    ckt = Circuit('c').V('in', 'b', '0', -1.).add(cell(VTEAM, x0=.9, window=1.))
    fine = transient(ckt, 1e-7, 1e-10)['state_1'][-1]
    errors = [(transient(ckt, 1e-7, dt)['state_1'][-1]-fine).abs() for dt in (2e-8, 1e-8)]
    assert 3.5<errors[0]/errors[1]<4.6 and errors[1]<1e-5

@pytest.mark.parametrize('seeds', [range(4), pytest.param(range(4, 300), marks=pytest.mark.slow)])
def test_random_transients_against_ngspice(seeds, ngspice):
    apart = {seed: transient_difference(random_transient(seed)) for seed in seeds}
    apart |= {seed: transient_difference(random_transient(seed), dt=1.25e-12) for seed, e in apart.items() if e>1e-4}        # the step is to blame: see the chapter
    assert max(apart.values())<1e-4, max(apart, key=apart.get)

@classes
@pytest.mark.parametrize('lanes', [1, 3])
def test_compiled_is_plain_with_gradients(cls, lanes):
    names = ('x0', *cls.parameters())
    start = {k: getattr(cell(cls), k)+(.7 if k=='window' else 0.) for k in names}
    def ask(scale, compiled=True):
        c = cls('1', 'b', '0', **{k: start[k]*s*torch.linspace(1., .97, lanes, dtype=torch.float64)[:, None] for k,s in zip(names, scale)})
        ckt = Circuit('c').V('in', 'a', '0', Sine(.2*scale[-1], 1.4, 1e6)).R('1', 'a', 'b', 1e3).C('b', 'b', '0', 1e-12).I('s', '0', 'state_1', 1e-5*scale[-2]).add(c)
        sol = transient(ckt, 1e-6, 2e-8, tol=1e-11, compiled=compiled)
        return (sol.v*torch.rand(sol.v.shape, generator=stream(1), dtype=torch.float64)).mean()
    one = torch.ones(len(names)+2, dtype=torch.float64, requires_grad=True)
    if lanes>1: one = (one*1.05).detach().requires_grad_()
    (exact,), (plain,) = (torch.autograd.grad(ask(one, compiled), one) for compiled in (True, False))
    assert (exact-plain).abs().max()<1e-9*exact.abs().max()
    assert torch.autograd.gradcheck(ask, one, eps=1e-6, atol=1e-8, rtol=1e-4)

@classes
@pytest.mark.parametrize('compiled', [True, False])
@pytest.mark.parametrize('x0, inwards', [(0., 1), (1., -1)])
@pytest.mark.parametrize('amplitude', [1.4, -1.4])
def test_states_at_a_bound_keep_their_slopes(cls, compiled, x0, inwards, amplitude):
    "Rounding takes a state past its bound by 1e-16 or less"
    def ask(x0):
        sol = transient(driven(cell(cls, x0=x0), amplitude), 1e-6, 1e-8, tol=1e-11, compiled=compiled)
        return sol['b'].mean()+sol['state_1'].mean()
    at = number(x0).requires_grad_()
    exact, = torch.autograd.grad(ask(at), at)
    with torch.no_grad(): beside = (ask(at+inwards*1e-6)-ask(at))/(inwards*1e-6)
    assert exact.item()==pytest.approx(beside.item(), rel=1e-5)

def test_gradient_at_rest():
    f = lambda x0, v_0, gap_max, r: solve(Circuit('c').V('in', 'a', '0', 1.).R('1', 'a', 'b', r*1e3).add(cell(StanfordPKU, x0=x0, v_0=v_0, gap_max=gap_max)))['b']
    assert torch.autograd.gradcheck(f, [number(v).requires_grad_() for v in (.3, .25, 1., 1.)])

def test_a_large_current_finds_its_point():
    "Newton's method does not lose itself in the exponential"
    v = solve(Circuit('c').I('1', '0', 'b', torch.tensor([1e-12, 1e-6, 1e-2])).add(cell(StanfordPKU, x0=1.)))['b']
    assert torch.allclose(filament_current(v, number(1.), **parameters(cell(StanfordPKU))), number(1e-12, 1e-6, 1e-2), rtol=1e-9)

# Netlists

@classes
@given(data=st.data(), dialect=st.sampled_from(['ngspice', 'ltspice']), over_time=st.booleans())
@settings(max_examples=60, deadline=None)
def test_print_read_print_is_the_identity(cls, data, dialect, over_time):
    low = {k: (1., 1e3) if k in ('window', 'alpha_on', 'alpha_off') else (2., 9.) if k=='gap_max' else (1e-12, 2.) for k in cls.parameters()}
    values = {k: data.draw(st.floats(*low[k]))*(-1 if k in ('k_on', 'v_on') else 1) for k in cls.parameters() if k!='gap_min'}
    ckt = Circuit('c').V('1', 'a', '0', -1.).add(cls('x', 'a', data.draw(st.sampled_from(['0', 'b'])), x0=data.draw(states), state=data.draw(st.sampled_from(['', 's'])), **values), cls('y', 'b', '0'))
    how = dict(t_stop=1., dt=.1) if over_time else {}
    again = from_netlist(ckt.netlist(dialect, **how))
    assert again.netlist(dialect, **how)==ckt.netlist(dialect, **how) and list(again)==list(ckt)

@pytest.mark.parametrize('old, new', [('max((1-', 'max((2-'), ('1.0000000000000001e-09*', '2e-09*'), ('.ic v(state_1)=0.5', '.ic v(state_1)=1.5'), ('0.5)-1)', '0.6)-1)'), ('Cstate_1 state_1', 'Cstate_1 b'), ('I=', 'V='), ('-1000000', '1000000')])
def test_other_laws_are_refused(old, new):
    text = driven(cell(VTEAM)).netlist(t_stop=1., dt=.1)
    assert old in text
    with pytest.raises((NetlistError, CircuitError)): from_netlist(text.replace(old, new, 1))

def test_spectre_and_pyspice_circuits_are_refused():
    with pytest.raises(NetlistError, match='Bmem_1 is a VTEAM'): driven(cell(VTEAM)).netlist('spectre')
    with pytest.raises(NetlistError, match="engine='pyspice'"): driven(cell(VTEAM)).to_pyspice()

@classes
@pytest.mark.parametrize('engine', ['ngspice', 'pyspice', 'nodal'])
def test_simulate_takes_memristors(cls, engine, ngspice):
    sol = simulate(driven(cell(cls)), 'tran', t_stop=1e-6, dt=1e-8, engine=engine)
    assert sol['state_1'][0].item()==pytest.approx(.5, abs=1e-9)

# Bad input

@pytest.mark.parametrize('cls, values, said', [
    (VTEAM, dict(v_on=.5), 'v_on of Bmem_1 is 0.5; allowed: numbers below 0'), (VTEAM, dict(k_on=1.), 'k_on'), (VTEAM, dict(v_off=-1.), 'v_off of Bmem_1 is -1.0'), (VTEAM, dict(alpha_off=.5), 'alpha_off'),
    (VTEAM, dict(r_on=0.), 'r_on of Bmem_1 is 0'), (VTEAM, dict(window=.9), 'window of Bmem_1 is 0.9; allowed: 1 or more'), (VTEAM, dict(x0=-.1), 'x0 of Bmem_1 is -0.1; allowed: 0 to 1'), (VTEAM, dict(k_off=float('nan')), 'k_off'),
    (VTEAM, dict(v_on=torch.tensor([[-.5], [.5]])), 'v_on of Bmem_1 is 0.5'), (StanfordPKU, dict(gap_max=.1), 'gap_max of Bmem_1 is 0.1; allowed: above gap_min, 0.2'), (StanfordPKU, dict(beta=-1.), 'beta'), (StanfordPKU, dict(t_0=0.), 't_0'),
    (StanfordPKU, dict(state='b'), 'node of its own'), (StanfordPKU, dict(state='0'), 'node of its own')])
def test_bad_parameters_are_named(cls, values, said):
    with pytest.raises(CircuitError, match=said): cell(cls, **values)

def test_states_belong_to_one_memristor():
    for other in (cell(VTEAM, state='s'), replace(cell(VTEAM), name='2')):
        ckt = driven(cell(VTEAM)).add(replace(other, name='2', state='state_1'))
        with pytest.raises(CircuitError, match="node 'state_1'"): check_circuit(ckt)
    with pytest.raises(CircuitError): check_circuit(driven(cell(VTEAM)).V('s', 'state_1', '0', .5))
    with pytest.raises(NetlistError, match='reserved'): Circuit('c').C('state_1', 'a', '0', 1e-9)

def test_a_memristor_without_laws_has_no_answer():
    with pytest.raises(NotImplementedError): solve(Circuit('c').V('1', 'b', '0', 1.).add(cell(Memristor)))

# Pulses

short = dict(v_up=-.9, v_down=.9, width=1e-6)
lab = VTEAM('1', 'a', '0', x0=1., r_on=2e4, r_off=1e5, k_on=-1e5, k_off=1e5, window=5.)

def test_pulses_move_conductances_up_and_down():
    g = pulse_response(lab, 30, 20, **short)
    assert g.shape==(51, 1) and g[0].item()==pytest.approx(1e-5, rel=1e-9)
    assert (g[:31].diff(dim=0)>=0).all() and (g[30:].diff(dim=0)<=0).all() and g[30]>1.5*g[0]

def test_devices_are_a_loop_over_chips():
    many = varied(lab, dict(k_on=.1, r_off=.2), 3, generator=stream(0))
    g = pulse_response(many, 5, 5, **short)
    for k in range(3):
        one = one_chip(Circuit('c').add(many), k).components['bmem_1']
        assert torch.allclose(g[:, k:k+1], pulse_response(replace(lab, **{n: getattr(one, n).item() for n in ('k_on', 'r_off')}), 5, 5, **short), rtol=1e-6)
    assert torch.equal(g, pulse_response(varied(lab, dict(k_on=.1, r_off=.2), 3, generator=stream(0)), 5, 5, **short))
    assert (varied(lab, dict(k_on=.1), 50, generator=stream(0)).k_on<0).all()

def test_pulse_response_has_gradients():
    k = number(1e5).requires_grad_()
    g = pulse_response(replace(lab, k_on=-k), 5, 5, **short)
    exact, = torch.autograd.grad(g.mean()*1e5, k)
    with torch.no_grad(): close = (pulse_response(replace(lab, k_on=-k-10), 5, 5, **short)-pulse_response(replace(lab, k_on=-k+10), 5, 5, **short)).mean()*1e5/20
    assert exact.item()==pytest.approx(close.item(), rel=1e-5)

@pytest.mark.parametrize('how, said', [(dict(n_up=0), 'n_up is 0'), (dict(width=-1.), 'width is -1'), (dict(v_read=0.), 'v_read 0'), (dict(width=float('inf')), 'width')])
def test_bad_trains_are_named(how, said):
    with pytest.raises(ConfigError, match=said): pulse_response(lab, **dict(n_up=2, n_down=2, **short) | how)

@pytest.mark.parametrize('cls, up', [(VTEAM, -.9), (StanfordPKU, .9)])
def test_pulses_of_the_wrong_sign_are_refused(cls, up):
    for x0 in (0., .5, 1.):
        how = dict(n_up=2, n_down=2, width=1e-6)
        with pytest.raises(ConfigError, match='v_up is .*, which lowers the conductance of Bmem_1'): pulse_response(cell(cls, x0=x0), v_up=-up, v_down=-up, **how)
        with pytest.raises(ConfigError, match='v_down is .*, which raises the conductance of Bmem_1'): pulse_response(cell(cls, x0=x0), v_up=up, v_down=up, **how)
        pulse_response(cell(cls, x0=x0), v_up=0., v_down=0., v_read=-.1, **how)       # no voltage is none of the wrong sign

def test_a_train_of_pulses_does_not_ask_for_names_of_nodes():
    g = pulse_response(lab, 3, 3, **short)
    for a, b in (('p', 'n'), ('between', '0'), ('0', 'a')): assert torch.equal(pulse_response(replace(lab, a=a, b=b), 3, 3, **short), g)

def test_a_train_that_begins_at_a_bound_has_its_gradient():
    "The state is handed from the pulses up to those down"
    def ask(x0): return pulse_response(StanfordPKU('1', 'a', '0', x0=x0, gap_min=.6, gap_max=1.2, window=1.), 3, 3, v_up=.8, v_down=-.8, width=1e-6).mean()*1e5
    at = number(0.).requires_grad_()
    exact, = torch.autograd.grad(ask(at), at)
    with torch.no_grad(): beside = (ask(at+1e-6)-ask(at))/1e-6
    assert exact.item()==pytest.approx(beside.item(), rel=1e-4) and abs(beside)>1e-2

def test_bad_spreads_are_named():
    with pytest.raises(ConfigError, match='k_off'): varied(lab, dict(k_of=.1), 3, generator=stream(0))

def test_weights_and_curve_error():
    device = ConstantStep(dw_min=.02, dw_min_dtod=0., dw_min_std=0., w_max=1., w_min=-1., w_max_dtod=0., w_min_dtod=0., up_down_dtod=0.)
    curve = device.response(150, 150, 5, start=-1., generator=stream(0))
    w = as_weights(1e-5+1e-6*curve.double())
    assert torch.allclose(w, curve.double(), atol=1e-5) and curve_error(device, w)<1e-5
    assert curve_error(replace(device, dw_min=.03), w)>.1
