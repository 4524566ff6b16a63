"Netlists as people write them: the same circuit whatever the spelling, and nothing else"
import random, re, sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from analognn.circuit import flattened, from_netlist
from analognn.core import AnalogError, NetlistError
from analognn.reading import read_spice, spice_number
from analognn.spice import random_circuit

sys.path.insert(0, str(Path(__file__).parent))
from test_circuit import circuits, hierarchies, mutated, with_instances

def respelled(text, rng):
    "The same netlist in other words: case of keywords, blanks, comments, continuations, order of definitions"
    lines = []
    for line in text.replace('\n+ ', '').split('\n')[1:]:
        if line.startswith('.options') or line in ('.op', '.end', ''): continue
        words = line.split(' ')
        words = [w.replace('=', rng.choice(['=', ' = '])) for w in words]
        if words[0].startswith('.'): words[0] = rng.choice([words[0].upper(), words[0]])
        between = [rng.choice([' ', '   ', '\t', '\n+ ', ' \n* between\n+']) for _ in words[1:]]+[rng.choice(['', ' ; ends', ' $ ends'])]
        lines += [''.join(w+b for w, b in zip(words, between)), *rng.choice([[], ['* a comment'], ['']])]
    return '\n'.join(['Some title (of others)!', *lines, rng.choice(['.END', '.end', ''])])

def same(a, b):
    "Equal but for the order of model cards and the case of subcircuits' names"
    one, two = (flattened(c) for c in (a, b))
    return [(type(x), x.label, x.nodes, x.values()) for x in one]==[(type(x), x.label, x.nodes, x.values()) for x in two]

@given(hierarchies(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_any_spelling_is_the_same_circuit(ckt, rng):
    text = ckt.netlist()
    again = read_spice(respelled(text, rng))
    assert same(again, ckt) and again.parameters==ckt.parameters
    assert from_netlist(again.netlist()).netlist()==again.netlist()

@given(circuits(), st.sampled_from(['ngspice', 'ltspice']))
@settings(max_examples=50, deadline=None)
def test_what_is_printed_is_read(ckt, dialect):
    assert read_spice(ckt.netlist(dialect)).netlist(dialect)==ckt.netlist(dialect)

@pytest.mark.parametrize('n', [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_netlists(n, tmp_path, monkeypatch):
    "Read to a circuit that prints and is read again, or refused by one of our errors; no file is touched"
    monkeypatch.chdir(tmp_path)
    rng, read = random.Random(n), 0
    for _ in range(n):
        text = mutated(rng, rng.choice([lambda ckt: ckt, with_instances])(random_circuit(rng, rng.randint(2, 12), 'RRVIEGFHKODMra')).netlist())
        try: ckt = read_spice(text)
        except AnalogError: continue
        assert from_netlist(ckt.netlist()).netlist()==ckt.netlist()
        read += 1
    assert n/100<read<n and not list(tmp_path.iterdir())

@given(st.text(max_size=200) | st.text('RVIEGDBXM .+-*()={}/,;$0123456789abcevminxlodoptsuk_\n`', max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text):
    for netlist in (text, f't\n{text}\n.end\n'):
        try: read_spice(netlist)
        except AnalogError: pass

@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(['', 'k', 'K', 'meg', 'MEG', 'm', 'M', 'u', 'n', 'p', 'f', 'g', 't']), st.sampled_from(['', 'ohm', 'V', 'Hz', 's']))
def test_scales(x, scale, unit):
    size = dict(k='3', meg='6', m='-3', u='-6', n='-9', p='-12', f='-15', g='9', t='12').get(scale.lower(), '0')
    mantissa, _, exponent = f'{x!r}'.partition('e')
    assert spice_number(f'{x!r}{scale}{unit}')==float(f'{mantissa}e{int(exponent or 0)+int(size)}')

def test_long_garbage_is_refused_quickly():
    for card in ('R1 a b '+'1'*50000+'x', 'V1 a 0 '+'DC '*20000, 'R1 a b {'+'2*'*20000+'r}', 'B1 a 0 V=min(max(v(a),'+'-'*50000+')', '.model d D('+'is=1 '*20000+')', '.options '+'noopiter '*20000+'x'):
        with pytest.raises(NetlistError): read_spice(f't\n{card}\n')
