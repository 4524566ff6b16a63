"Circuits: what is printed is what is read; nothing else is accepted"
import random, string
import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.circuit import PWL, Circuit, Pulse, Sine, check_circuit, from_netlist, one_chip, one_point
from analognn.core import AnalogError, CircuitError, NetlistError, ShapeError
from analognn.memristor import StanfordPKU, VTEAM
from analognn.spice import random_circuit

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

@given(st.text(max_size=200) | st.text('RVIEGDB .+-*()=,0123456789abcevminxlodopt_\n`', max_size=200))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text):
    for netlist in (text, f'* t\n{text}\n.end\n'):
        try: from_netlist(netlist)
        except (NetlistError, CircuitError, ShapeError): pass

_nasty = ['.control', '.endc', 'shell touch x', '.include /etc/passwd', '.lib a b', '*ng_script', 'echo `id`', 'pre_osdi x', '.param x=1', '.subckt a b c', 'write /tmp/x', 'R1 a b {x}', '.options', 'B1 a 0 V=v(b)', '\x00', '\n', 'é', '1e', '+ 3', '.end']

def mutated(rng, text):
    "A netlist with a few things in it changed, doubled, left out or put in"
    for _ in range(rng.randint(1, 4)):
        at, lines = rng.randrange(len(text)+1), text.split('\n')
        text = rng.choice([lambda: text[:at]+text[at+1:], lambda: text[:at]+chr(rng.randrange(32, 127))+text[at:], lambda: text[:at]+rng.choice(_nasty)+text[at:], lambda: text[:at],
                           lambda: '\n'.join(rng.sample(lines, len(lines))), lambda: '\n'.join(lines[:(k := rng.randrange(len(lines)+1))]+[rng.choice(_nasty)]+lines[k:]), lambda: text+text])()
    return text

@pytest.mark.parametrize('n', [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_netlists(n, tmp_path, monkeypatch):
    "Read to a circuit that prints as it was read, or refused by one of our errors; no file is touched"
    monkeypatch.chdir(tmp_path)
    rng, read = random.Random(n), 0
    for _ in range(n):
        text = mutated(rng, random_circuit(rng, rng.randint(2, 12), 'RRVIEGFHKODMra').add(VTEAM('x', 'n0', 'n1', rng.random())).netlist())
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
