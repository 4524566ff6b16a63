"Circuits: what is printed is what is read; nothing else is accepted"
import random, string
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.circuit import PWL, Circuit, Instance, Param, Pulse, Sine, Subcircuit, check_circuit, flattened, from_netlist, one_chip, one_point, scaled, with_parameters
from analognn.core import AnalogError, CircuitError, NetlistError, ShapeError
from analognn.memristor import StanfordPKU, VTEAM
from analognn.nodal import solve
from analognn.spice import random_circuit, run_ngspice
from analognn.timedomain import transient

words = st.text(string.ascii_letters+string.digits+'_', min_size=1, max_size=6)
numbers = st.floats(-1e9, 1e9, allow_nan=False)
positives = st.floats(1e-12, 1e12)
swept = st.lists(numbers, min_size=2, max_size=9).map(lambda v: torch.tensor(v, dtype=torch.float64))

@st.composite
def circuits(draw):
    "Any components between any nodes; most make no sense electrically"
    ckt, points = Circuit('any'), draw(swept)
    node = st.sampled_from(['0', 'gnd', 'a', 'B', '7', 'n_1'])
    for k in range(draw(st.integers(1, 8))):
        a, b, c, d = (draw(node) for _ in range(4))
        name, kind = f'{draw(words)}_{k}', draw(st.sampled_from('RVIEGDorlVICLMpswFHtSm'))
        try:
            if kind=='R': ckt.R(name, a, b, draw(positives))
            elif kind in 'VI': getattr(ckt, kind)(name, a, b, points if draw(st.booleans()) else draw(numbers))
            elif kind in 'EG': getattr(ckt, kind)(name, a, b, c, d, draw(numbers))
            elif kind in 'FH': getattr(ckt, kind)(name, a, b, draw(words), draw(numbers))
            elif kind in 'tS': (ckt.tanh if kind=='t' else ckt.sigmoid)(name, a, b)
            elif kind=='D': ckt.D(name, a, b, draw(positives), draw(positives))
            elif kind=='m' and a not in '0gnd': ckt.add(draw(st.sampled_from([VTEAM, StanfordPKU]))(name, a, b, draw(st.floats(0., 1.)), f'x{k}'))
            elif kind in 'CL': getattr(ckt, kind)(name, a, b, draw(positives))
            elif kind=='M': (ckt.nmos if draw(st.booleans()) else ckt.pmos)(name, a, b, c, d, draw(positives), vto=draw(numbers), gamma=draw(positives), lambda_=draw(positives), i_s=draw(positives))
            elif kind=='p': ckt.V(name, a, b, Pulse(draw(numbers), draw(numbers), *(draw(positives) for _ in range(5))))
            elif kind=='s': ckt.I(name, a, b, Sine(draw(numbers), draw(numbers), draw(positives), draw(positives), draw(positives)))
            elif kind=='w': ckt.V(name, a, b, PWL(((0., draw(numbers)), (draw(positives), draw(numbers)))))
            elif kind=='o': ckt.opamp(name, a, b, c, draw(positives | st.just(float('inf'))))
            elif kind=='r': ckt.rail(name, a, b, draw(positives))
            else: ckt.relu(name, a, b)
        except NetlistError as e: assert 'reserved' in str(e)
    return ckt

@given(circuits(), st.sampled_from(['ngspice', 'ltspice']))
@settings(max_examples=150, deadline=None)
def test_print_read_print_is_the_identity(ckt, dialect):
    text = ckt.netlist(dialect)
    again = from_netlist(text)
    assert again.netlist(dialect)==text
    assert [(type(c), c.nodes) for c in again]==[(type(c), c.nodes) for c in ckt]

names = st.from_regex(r'[a-z_][a-z0-9_]{0,4}', fullmatch=True).map(lambda s: f'{s}_p')
scales = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)

def named(draw, known, low=numbers):
    "A number, or a parameter times a number"
    return draw(low) if not known or draw(st.booleans()) else draw(scales.map(abs) if low is positives else scales)*Param(draw(st.sampled_from(known)))

def fill(draw, ckt, known, subs, nodes):
    "Components that hold parameters, and instances"
    node = st.sampled_from(nodes)
    for k in range(draw(st.integers(1, 5))):
        name, kind = f'{draw(words)}_{k}', draw(st.sampled_from('RVGDroXXX' if subs else 'RVGDro'))
        a, b, c = (draw(node) for _ in range(3))
        if kind=='R': ckt.R(name, a, b, named(draw, known, positives))
        elif kind=='V': ckt.V(f'v_{name}', a, b, draw(st.sampled_from([0, 1])) and Pulse(named(draw, known), named(draw, known)) or named(draw, known))
        elif kind=='G': ckt.G(name, a, b, c, a, named(draw, known))
        elif kind=='D': ckt.D(name, a, b, named(draw, known, positives))
        elif kind=='r': ckt.rail(name, a, b, named(draw, known, positives))
        elif kind=='o': ckt.opamp(f'o_{name}', a, b, c, named(draw, known, positives))
        else:
            sub = draw(st.sampled_from(subs))
            ckt.X(name, sub, *(draw(node) for _ in sub.ports), **{p: named(draw, [n for n in known if n==p or n not in sub.parameters], positives) for p in sub.parameters if draw(st.booleans())})
    return ckt

@st.composite
def hierarchies(draw):
    "Up to three subcircuits, each with instances of those before it, and a circuit of them all"
    subs = []
    for k in range(draw(st.integers(1, 3))):
        parameters = {n: draw(positives) for n in draw(st.lists(names, max_size=3, unique=True))}
        ports = draw(st.lists(st.sampled_from(['p', 'Q', '3', 's_1']), min_size=1, max_size=3, unique=True))
        subs.append(fill(draw, Subcircuit(f'{draw(words)}_{k}', *ports).param(**parameters), list(parameters), list(subs), [*ports, 'gnd', 'in_1', 'm']))
    parameters = {n: draw(positives) for n in draw(st.lists(names, max_size=3, unique=True))}
    return fill(draw, Circuit('of subcircuits').param(**parameters), list(parameters), subs, ['0', 'a', 'B', '7'])

@given(hierarchies(), st.sampled_from(['ngspice', 'ltspice']))
@settings(max_examples=150, deadline=None)
def test_subcircuits_are_read_as_printed(ckt, dialect):
    text = ckt.netlist(dialect)
    again = from_netlist(text)
    assert again.netlist(dialect)==text and again.parameters==ckt.parameters
    flat, other = flattened(ckt), flattened(again)
    assert flat.netlist()==other.netlist() and not any(isinstance(c, Instance) for c in flat)
    assert from_netlist(flat.netlist()).netlist()==flat.netlist()
    ckt.netlist('spectre')

def test_a_nested_circuit_is_its_flat_one():
    "Written by hand twice: with subcircuits, and without"
    unit = Subcircuit('unit', 'i', 'o').param(r=1e3, f=2.).R('1', 'i', 'o', Param('r')).V('s', 'o', 'n', 0.).R('2', 'n', '0', 3*Param('r')).F('1', '0', 'o', 's', .1*Param('f'))
    two = Subcircuit('two', 'a', 'b').param(u=1.).X('u', unit, 'a', 'm', r=500*Param('u')).X('v', unit, 'm', 'b', f=Param('u'))
    nested = Circuit('t').V('in', 'a', '0', 1.).X('1', two, 'a', 'b').X('2', two, 'b', 'c', u=1.5)
    flat = Circuit('t').V('in', 'a', '0', 1.)
    for top, (a, b), q in (('1', ('a', 'b'), 1.), ('2', ('b', 'c'), 1.5)):
        m = f'x{top}_m'
        for inner, (i, o), r, k in (('u', (a, m), 500*q, 2.), ('v', (m, b), 1e3, q)):
            pre = f'x{top}_x{inner}_'
            flat.R(pre+'1', i, o, r).V(pre+'s', o, pre+'n', 0.).R(pre+'2', pre+'n', '0', 3*r).F(pre+'1', '0', o, pre+'s', k*.1)
    assert flattened(nested).netlist()==flat.netlist()
    d = solve(nested)-solve(flat)
    assert d.v.abs().max()==0 and d.i.abs().max()==0

def random_hierarchy(rng):
    "Resistors, sources, diodes and op-amps in subcircuits of subcircuits; every node has a way to ground"
    subs = []
    for k in range(3):
        sub = Subcircuit(f'sub{k}', 'a', 'b').param(**{n: rng.uniform(.5, 2) for n in ('r', 'volt')})
        for j in range(rng.randint(1, 3)):
            ohm, here = 1e3*rng.uniform(.3, 3)*Param('r'), rng.choice(['a', 'b', 'c'])
            sub.R(f'{j}', 'a', here, ohm).R(f'{j}g', here, '0', 2*ohm).R(f'{j}c', 'c', '0', 1e3*rng.random()+1)
            rng.choice([lambda: sub.I(f'{j}', '0', here, 1e-3*Param('volt')), lambda: sub.opamp(f'{j}', f'o{j}', here, f'o{j}', 1e4*Param('r')), lambda: sub.rail(f'{j}', f'y{j}', here, Param('volt')),
                        lambda: sub.V(f's{j}', f's{j}', '0', -Param('volt')).F(f'{j}', '0', here, f's{j}', Param('r')/10).R(f'{j}s', f's{j}', '0', 1e3), lambda: sub.D(f'{j}', here, '0', 1e-14*Param('r'))])()
        for j in range(rng.randint(0, 2)):
            if subs: sub.X(f'{j}', rng.choice(subs), rng.choice('abc'), rng.choice('bc'), **{n: rng.choice([rng.uniform(.5, 2), rng.uniform(.5, 2)*Param(n), Param(n)]) for n in ('r', 'volt') if rng.random()<.6})
        subs.append(sub.R('a', 'a', '0', 1e3).R('b', 'b', '0', 1e3).R('c', 'c', '0', 1e3))
    return Circuit('random').param(v=rng.uniform(-1, 1)).V('in', 'p', '0', Param('v')).X('1', subs[-1], 'p', 'q').X('2', rng.choice(subs), 'q', 'p', r=rng.uniform(.5, 1))

def test_ngspice_reads_subcircuits_as_flattened_does(ngspice):
    "The netlist with its subcircuits, run as it is printed, against nodal analysis of the flat circuit"
    for seed in range(40):
        ckt = random_hierarchy(random.Random(f'hierarchy {seed}'))
        (plot,), sol = run_ngspice(ckt.netlist()), solve(ckt)
        seen = {n[2:-1].replace('.', '_'): v[0] for n, v in plot.data.items() if n.startswith('v(')}
        assert seen.keys()=={n.lower() for n in sol.nodes}
        assert max(abs(seen[n.lower()]-sol[n].item()) for n in sol.nodes)<1e-9

def test_parameters_are_not_named_like_subcircuits(ngspice):
    "Names of both from the same few letters: printed for ngspice as it is solved, or refused, and then ngspice may take one for the other"
    refused = 0
    for seed in range(30):
        rng = random.Random(f'names {seed}')
        (top, inner, outer), subs = (rng.choice('rstuvwx') for _ in range(3)), rng.sample('RSTUVWX', 2)
        sub = Subcircuit(subs[0], 'p').param(**{inner: 2e3}).R('1', 'p', '0', Param(inner))
        nest = Subcircuit(subs[1], 'p').param(**{outer: 3e3}).R('1', 'p', 'q', Param(outer)).X('1', sub, 'q')
        ckt = Circuit('names').param(**{top: 1e3}).V('1', 'a', '0', 1.).R('1', 'a', 'b', Param(top)).X('1', nest, 'b').X('2', sub, 'b')
        if {top, inner, outer} & {s.lower() for s in subs}:
            refused += 1
            with pytest.raises(NetlistError, match='is a parameter and a subcircuit'): ckt.netlist()
        else:
            (plot,) = run_ngspice(ckt.netlist())
            assert plot['v(b)'][0]==pytest.approx(10/17, abs=1e-12)
    assert 5<refused<25

def test_memristors_in_subcircuits(ngspice):
    "Solved flat, printed with subcircuits, read, and run by ngspice to the same"
    cell = Subcircuit('cell', 'p', 'q').add(VTEAM('m', 'p', 'q', .25)).R('1', 'p', 'q', 1e5)
    pair = Subcircuit('pair', 'p').X('1', cell, 'p', 'm').X('2', cell, 'm', '0')
    ckt = Circuit('memories').V('in', 'a', '0', Sine(.3, 1., 1e3)).R('1', 'a', 'b', 1e4).X('1', pair, 'b').X('2', cell, 'b', '0')
    assert {n for n in solve(ckt).nodes if 'state' in n}=={'x1_x1_state_m', 'x1_x2_state_m', 'x2_state_m'}
    for how, flat in (({}, solve(ckt)), (dict(t_stop=1e-3, dt=2e-6), transient(ckt, 1e-3, 2e-6))):
        for dialect in ('ngspice', 'ltspice'): assert from_netlist(ckt.netlist(dialect, **how)).netlist(dialect, **how)==ckt.netlist(dialect, **how)
        (plot,) = run_ngspice(ckt.netlist(**how))
        for n in flat.nodes:
            seen = plot[f"v({n.replace('1_', '1.').replace('2_', '2.')})"]
            if how: seen = np.interp(flat.t, plot['time'], seen)
            assert abs(torch.as_tensor(seen)-flat[n]).max()<(2e-3 if how else 1e-9)
    with pytest.raises(CircuitError, match='x0 of Bmem_1 is a parameter'): Subcircuit('s', 'p').param(x=.5).add(VTEAM('1', 'p', '0', Param('x')))

def test_values_of_instances():
    "All parameters, by name; a copy does not make a default a given one"
    values = torch.tensor([[1.], [2.]])
    sub = Subcircuit('s', 'p').param(r=values, u=3.).R('1', 'p', '0', Param('r')).R('2', 'p', '0', Param('u'))
    ckt = Circuit('c').V('1', 'a', '0', 1.).X('1', sub, 'a', u=5.).X('2', sub, 'a')
    assert ckt.components['x1'].values()['u']==5. and ckt.components['x2'].values()['u']==3. and ckt.components['x1'].values()['r'] is sub.parameters['r']
    new = ckt.with_values({'X2.u': 7.})
    assert flattened(new).components['rx2_2'].ohm==7. and flattened(ckt).components['rx2_2'].ohm==3.
    one = one_chip(ckt, 1)
    assert one.components['x1'].parameters==dict(u=5.) and one.components['x1'].of is one.components['x2'].of and flattened(one).components['rx1_1'].ohm==2.

def test_factors_reach_into_subcircuits():
    sub = Subcircuit('s', 'p').param(r=2.).R('1', 'p', '0', Param('r')).R('2', 'p', '0', 8.)
    ckt = Circuit('c').param(u=3.).V('1', 'a', '0', 1.).R('1', 'a', 'b', Param('u')).X('1', sub, 'b')
    warm = scaled(ckt, {'R*.ohm': torch.tensor([1., 2.])})
    assert {c.label: c.ohm.tolist() for c in warm if c.letter=='R'}=={'R1': [3., 6.], 'Rx1_1': [2., 4.], 'Rx1_2': [8., 16.]}
    assert torch.allclose(solve(warm)['b'], solve(ckt)['b'], rtol=0, atol=1e-15)        # all alike: the same divider
    with pytest.raises(CircuitError, match='Rx1_1.ohm'): scaled(ckt, {'X1.r': 2.})

def test_a_parameter_is_given_once():
    sub = Subcircuit('s', 'p').param(r=2.).R('1', 'p', '0', Param('r'))
    for make in (lambda: Circuit('c').X('2', sub, 'a', r=1., R=5.), lambda: with_parameters(Circuit('c').param(r=1.), r=2., R=3.)):
        with pytest.raises(CircuitError, match='given r, R'): make()

@pytest.mark.parametrize('wave', [Pulse(0., Param('x')), Sine(0., 1., Param('x')), PWL(((0., 1.), (Param('x'), 2.)))])
def test_waveforms_of_parameters_have_no_values_yet(wave):
    with pytest.raises(CircuitError, match='is a parameter'): wave.at(torch.zeros(1))
    ckt = Circuit('c').param(x=1.).V('1', 'a', '0', wave)
    with pytest.raises(CircuitError, match='is a parameter'): ckt.components['v1'].start
    assert isinstance(flattened(ckt).components['v1'].start, float)

def test_nests_built_from_the_outside():
    "Each is put into the one around it before anything is in it"
    top = around = Circuit('c').V('1', 'a', '0', 1.)
    for k in range(200):
        sub = Subcircuit(f's{k}', 'a')
        around.X('1', sub, 'a')
        around = sub
    for f in (flattened, solve, Circuit.netlist):
        with pytest.raises(CircuitError, match='more than 50'): f(top)

def test_chips_inside_subcircuits():
    sub = Subcircuit('s', 'a').param(r=torch.tensor([[1.], [2.], [4.]])).R('1', 'a', '0', Param('r')).R('2', 'a', '0', torch.tensor([[1.], [1.], [4.]]))
    ckt = Circuit('c').V('in', 'i', '0', 1.).R('1', 'i', 'a', 1.).X('1', sub, 'a')
    assert ckt.shape==(3, 1)
    assert solve(ckt)['a'].flatten().tolist()==pytest.approx([1/3, .4, 2/3])
    for k in range(3):
        one = one_chip(ckt, k)
        assert one.shape==(1, 1) and solve(one)['a'].item()==solve(ckt)['a'][k].item() and from_netlist(one.netlist()).netlist()==one.netlist()
    with pytest.raises(NetlistError, match='3 chips'): ckt.netlist()
    assert sub.parameters['r'].shape==(3, 1)        # untouched

def test_a_sweep_inside_a_subcircuit_is_not_printed():
    values = torch.tensor([1., 2.])
    for sub in (Subcircuit('s', 'a').V('1', 'a', '0', values), Subcircuit('s', 'a').param(v=values).V('1', 'a', '0', Param('v'))):
        ckt = Circuit('c').R('1', 'a', '0', 1.).X('1', sub, 'a')
        with pytest.raises(NetlistError, match='swept'): ckt.netlist()
        assert from_netlist(flattened(ckt).netlist()).netlist()==flattened(ckt).netlist() and solve(ckt)['a'].tolist()==[1., 2.]
    with pytest.raises(NetlistError, match='parameter v is swept'): Circuit('c').param(v=values).V('1', 'a', '0', Param('v')).netlist()

@pytest.mark.parametrize('name', ['1r', 'max', 'M', 'r x', '', 'r\n.control', 'temper'])
def test_parameters_have_plain_names(name):
    for make in (lambda: Param(name), lambda: Circuit('c').param(**{name: 1.}), lambda: Subcircuit('s', 'a').param(**{name: 1.})):
        with pytest.raises(NetlistError): make()

@pytest.mark.parametrize('scale', [0., float('nan'), float('inf'), 'r', torch.ones(1)])
def test_scales_are_numbers(scale):
    with pytest.raises(CircuitError, match='parameter r is multiplied'): Param('r')*scale

@pytest.mark.parametrize('value', [float('nan'), float('inf'), 'x', Param('y')])
def test_parameters_are_finite(value):
    with pytest.raises(CircuitError, match='parameter r'): Circuit('c').param(r=value)
    with pytest.raises(CircuitError, match='finite'): with_parameters(Circuit('c').param(r=1.), r=float('inf'))

def test_names_that_meet():
    sub = Subcircuit('s', 'a').R('1', 'a', 'm', 1.).R('2', 'm', '0', 1.)
    flattened(Circuit('c').X('1', sub, 'a').X('2', sub, 'a').R('1', 'a', '0', 1.))
    for bad, match in ((Circuit('c').R('x1_1', 'a', '0', 1.).X('1', sub, 'a'), 'Rx1_1'), (Circuit('c').R('1', 'X1_M', '0', 1.).X('1', sub, 'a'), 'x1_m'),
                       (Circuit('c').X('1_xb', sub, 'a').X('1', Subcircuit('o', 'a').X('b', sub, 'a'), 'a'), 'x1_xb_')):
        with pytest.raises(CircuitError, match=match): flattened(bad)

def test_the_reader_names_what_is_wrong():
    sub = '.subckt s a params: r=1\nR1 a 0 {r}\n.ends s\n'
    for cards, match in {'X1 a t\n': 'known subcircuits: none', sub+sub: 'defined twice', '.subckt s a\n.param x=1\n': 'inside subcircuit', '.subckt s a\n.subckt t a\n': 'inside s', '.ends s\n': 'ends no', sub.replace('.ends s', '.ends t'): 'ends no',
                         '.subckt s a\n': 'no .ends', sub+'R1 a 0 1\n': 'unused', '.param r=1\n.param R=2\n': 'value already', sub+'X1 a s z=1\n': "no parameter 'z'", sub+'X1 a b s\n': 'has 2 nodes', sub.replace('r}', 'z}')+'X1 a s\n': "no parameter 'z'",
                         'R1 a 0 {-1*}\n': 'not accepted', '.param x={r}\n': 'not accepted', 'R1 a 0 {1/r}\n': 'not accepted', 'R1 a 0 {r*2}\n': 'not accepted'}.items():
        with pytest.raises((NetlistError, CircuitError), match=match): from_netlist(f'* t\n{cards}.options reltol=1e-11 abstol=1e-16 vntol=1e-14 gmin=1e-15\n.op\n.end\n')

@given(st.text(max_size=200) | st.text('RVIEGDB .+-*()=,0123456789abcevminxlodopt_\n`', max_size=200))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text):
    for netlist in (text, f'* t\n{text}\n.end\n'):
        try: from_netlist(netlist)
        except (NetlistError, CircuitError, ShapeError): pass

_nasty = ['.control', '.endc', 'shell touch x', '.include /etc/passwd', '.lib a b', '*ng_script', 'echo `id`', 'pre_osdi x', '.param x=1', '.subckt a b c', '.subckt s a params: r=1\nR1 a 0 {r}\n.ends s', '.ends s', 'X1 n0 s', 'X1 n0 s r=2', '{r}', '.ends', 'write /tmp/x', 'R1 a b {x}', '.options', 'B1 a 0 V=v(b)', '\x00', '\n', 'é', '1e', '+ 3', '.end']

def mutated(rng, text):
    "A netlist with a few things in it changed, doubled, left out or put in"
    for _ in range(rng.randint(1, 4)):
        at, lines = rng.randrange(len(text)+1), text.split('\n')
        text = rng.choice([lambda: text[:at]+text[at+1:], lambda: text[:at]+chr(rng.randrange(32, 127))+text[at:], lambda: text[:at]+rng.choice(_nasty)+text[at:], lambda: text[:at],
                           lambda: '\n'.join(rng.sample(lines, len(lines))), lambda: '\n'.join(lines[:(k := rng.randrange(len(lines)+1))]+[rng.choice(_nasty)]+lines[k:]), lambda: text+text])()
    return text

def with_instances(ckt):
    "A circuit with a parameter and two instances of a subcircuit that has one"
    sub = Subcircuit('s', 'n1').param(r=2.).R('1', 'n1', 'n2', 3*Param('r')).R('2', 'n2', '0', 1e3).rail('1', 'n3', 'n2', Param('r'))
    return ckt.param(z=5.).X('1', sub, 'n0').X('2', sub, 'n1', r=Param('z'))

@pytest.mark.parametrize('n', [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_netlists(n, tmp_path, monkeypatch):
    "Read to a circuit that prints as it was read, or refused by one of our errors; no file is touched"
    monkeypatch.chdir(tmp_path)
    rng, read = random.Random(n), 0
    for _ in range(n):
        ckt = random_circuit(rng, rng.randint(2, 12), 'RRVIEGFHKODMra').add(VTEAM('x', 'n0', 'n1', rng.random()))
        text = mutated(rng, rng.choice([lambda ckt: ckt, with_instances])(ckt).netlist())
        try: ckt = from_netlist(text)
        except AnalogError: continue
        assert ckt.netlist()==text
        read += 1
    assert 0<read<n and not list(tmp_path.iterdir())

def test_long_garbage_is_refused_quickly():
    with pytest.raises(NetlistError): from_netlist('* t\nBVx a 0 V=pwl(v(index_sweep),'+'1'*5000+'!)\n.end\n')
    with pytest.raises(NetlistError): from_netlist('* t\nR1 a b '+'1'*50000+'x\n.end\n')

@pytest.mark.parametrize('name', ['a b', 'a\n.control', 'a\n', '', 'ä', '.control', '`id`', 'a;b', 'a$(x)'])
def test_names_are_words(name):
    for make in (lambda: Circuit('c').R(name, 'a', 'b', 1.), lambda: Circuit('c').R('1', name, 'b', 1.), lambda: Circuit('c').rail('1', 'a', name, 1.)):
        with pytest.raises(NetlistError): make()

@pytest.mark.parametrize('value', [-1., 0., float('nan'), float('inf')])
def test_resistors_are_positive_and_finite(value):
    with pytest.raises(CircuitError, match='R1'): Circuit('c').R('1', 'a', 'b', value)

@pytest.mark.parametrize('name', ['opamp_x', 'OPAMP_x', 'index_sweep'])
def test_labels_of_our_own_are_reserved(name):
    with pytest.raises(NetlistError, match='reserved'): Circuit('c').V(name, 'a', '0', 1.)

def test_topology():
    bad = {"loop": Circuit('c').V('1', 'a', '0', 1.).V('2', 'b', 'a', 1.).V('3', 'b', '0', 1.),
           "'c'": Circuit('c').V('1', 'a', '0', 1.).R('1', 'b', 'c', 1.).I('2', '0', 'b', 1.),
           "'p'": Circuit('c').opamp('1', 'o', 'p', 'o')}
    for words, ckt in bad.items():
        with pytest.raises(CircuitError): check_circuit(ckt)
    check_circuit(Circuit('c').V('1', 'a', '0', 1.).opamp('1', 'o', 'a', 'o'))

def test_chips_and_points():
    ckt = Circuit('c').V('1', 'a', '0', torch.arange(6.).reshape(2, 3)).R('1', 'a', '0', torch.tensor([[1.], [2.]]))
    assert ckt.shape==(2, 3)
    assert one_point(one_chip(ckt, 1), 2).components['v1'].volt==5.
    with pytest.raises(NetlistError, match='2 chips'): ckt.netlist()
    with pytest.raises(ShapeError): Circuit('c').V('1', 'a', '0', torch.ones(2, 2, 2))
