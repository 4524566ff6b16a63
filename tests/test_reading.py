"Netlists as people write them: the same circuit whatever the spelling, and nothing else"
import random, re, sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from analognn.circuit import flattened, from_netlist
from analognn.core import AnalogError, NetlistError
from analognn.reading import from_pyspice, read_spice, spice_number
from analognn.spice import random_circuit

sys.path.insert(0, str(Path(__file__).parent))
from test_circuit import circuits, hierarchies, mutated, with_instances

def respelled(text, rng):
    "The same netlist in other words: case of what begins with a dot, blanks, comments, continuations, and definitions anywhere"
    lines = []
    for line in shuffled(text.replace('\n+ ', '').split('\n')[1:], rng):
        if line.startswith('.options') or line in ('.op', '.end', ''): continue
        words = line.split(' ')
        words = [w.replace('=', rng.choice(['=', ' = '])) for w in words]
        if words[0].startswith('.'): words[0] = rng.choice([words[0].upper(), words[0]])
        between = [rng.choice([' ', '   ', '\t', '\n+ ', ' \n* between\n+']) for _ in words[1:]]+[rng.choice(['', ' ; ends', ' $ ends'])]
        lines += [''.join(w+b for w, b in zip(words, between)), *rng.choice([[], ['* a comment'], ['']])]
    return '\n'.join(['Some title (of others)!', *lines, rng.choice(['.END', '.end', ''])])

def shuffled(lines, rng):
    "Subcircuits, and the models in each and around them, at random places between the other lines"
    blocks = [b.split('\n') for b in re.findall(r'(\.subckt (?s:.*?)\n\.ends .*|.*)(?:\n|$)', '\n'.join(lines))]
    blocks = [[b[0], *shuffled(b[1:-1], rng), b[-1]] if len(b)>1 else b for b in blocks]
    moving = [b for b in blocks if b[0].startswith(('.subckt', '.model'))]
    blocks = [b for b in blocks if b not in moving]
    for b in moving: blocks.insert(rng.randint(0, len(blocks)), b)
    return [line for b in blocks for line in b]

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

@given(st.floats(-1e290, 1e290), st.sampled_from(['', 'k', 'K', 'meg', 'MEG', 'm', 'M', 'u', 'n', 'p', 'f', 'g', 't']), st.sampled_from(['', 'ohm', 'V', 'Hz', 's']))
def test_scales(x, scale, unit):
    size = dict(k='3', meg='6', m='-3', u='-6', n='-9', p='-12', f='-15', g='9', t='12').get(scale.lower(), '0')
    mantissa, _, exponent = f'{x!r}'.partition('e')
    assert spice_number(f'{x!r}{scale}{unit}')==float(f'{mantissa}e{int(exponent or 0)+int(size)}')

@pytest.mark.timeout(10)
def test_long_garbage_is_refused_quickly():
    for card in ('R1 a b '+'1'*50000+'x', 'V1 a 0 '+'DC '*20000, 'R1 a b {'+'2*'*20000+'r}', 'B1 a 0 V=min(max(v(a),'+'-'*50000+')', '.model d D('+'is=1 '*20000+')', '.options '+'noopiter '*20000+'x'):
        with pytest.raises(NetlistError): read_spice(f't\n{card}\n')

@pytest.mark.parametrize('word', ['1e400', '1'*400, '-1e306k', '1e'+'9'*5000])
def test_numbers_have_an_end(word):
    with pytest.raises(NetlistError): spice_number(word)

@pytest.mark.parametrize('cards, match', {'.model d D(is=1e-14)\n.model D D(is=1e-9)\nD1 a 0 d\n': 'line 3.*model d is defined twice', '.subckt s p\n.model d D\n.model d D\nD1 p 0 d\n.ends\nX1 a s\n': 'line 4.*twice',
    'R1 a b 1\fR2 b 0 1\n': 'plain characters', 'R1 a b 1\rR2 b 0 1\n': 'plain characters', 'R1 a 0 1\x85\n': 'plain characters', '.param s=1k\n.subckt s p\nR1 p 0 1k\n.ends\nR1 a b {s}\nX1 b s\n': 's is a parameter and a subcircuit',
    'V1 a 0 dc 1 ac 1 xpwl(0 1 1 1)\n': 'V1 holds', 'V1 a 0 1 ac foo\n': "'foo' is not", 'V1 a 0 1 ac 1 x\n': "'x' is not", 'V1 a 0 5pulse(5 1 0 1n 1n 1u 2u)\n': 'V1 holds', 'V1 a 0 5ac 1\n': 'V1 holds',
    '.param lo=0\nV1 a 0 dc 0 pulse({lo} 1 0 1n 1n 1u 2u)\n': 'another value at time 0', 'V1 a 0 dc 1 pwl(-1 0 1 1)\n': 'another value at time 0', '.param t=1\nV1 a 0 dc 1 pwl({t} 1)\n': 't0 of a PWL is a parameter',
    'Bmem_1 a 0 I=((v(a)-v(0))/1000)\nR1 a 0 1\n': 'line 2.*Bmem_1', '.subckt s p\nR1 p 0 1\n.ic v(p)=1\n.ends\nX1 a s\n': 'line 4.*not accepted', '* nothing\n': 'no component', '.subckt s p\nR1 p 0 1\n.ends\n': 'no component'}.items())
def test_what_could_be_misread_is_refused_by_line(cards, match):
    with pytest.raises(NetlistError, match=match): read_spice(f't\n{cards}.op\n.end\n')

def test_comments_may_hold_anything():
    "Only a line feed ends a line"
    for end in '\x0b\x0c\r\x1c\x85\u2028': assert len(read_spice(f't\r\n* note{end}R2 a 0 1k\r\nR1 a 0 1k ; é\r\n'))==1

def test_a_direct_value_is_that_at_time_0():
    "As a number, and as the same parameter"
    for source, start in {'dc {lo} pulse({lo} 1 0 1n 1n 1u 2u)': .25, '{2*lo} ac 1 sin({lo*2} 1 1k)': .5, 'dc 3 ac 1 90 pwl(1m 3 2m 4)': 3., '0 pwl(-1 -1 1 1)': 0., 'ac 1m sin(2 1 1k)': 2.}.items():
        ckt = flattened(read_spice(f't\n.param lo=.25\nV1 a 0 {source}\nR1 a 0 1\n'))
        assert ckt.components['v1'].start==start

@pytest.mark.parametrize('text', ['', 'lowpass.cir', '/etc/passwd', b'x', None])
def test_a_netlist_is_text_with_components(text):
    with pytest.raises(NetlistError, match='text is a'): read_spice(text)

def test_only_pyspice_is_read_as_pyspice():
    with pytest.raises(NetlistError, match='circuit is a int'): from_pyspice(3)

def nest(levels, times):
    "A resistor, in a subcircuit that is so many times in another, and so on; the definitions, and a use of the last"
    inside = [f'.subckt s{k} p\n{"".join(f"X{j} p s{k-1}{chr(10)}" for j in range(times))}.ends s{k}\n' for k in range(1, levels)]
    return ['.subckt s0 p\nR1 p 0 1\n.ends s0\n', *inside], f'V1 a 0 1\nX1 a s{levels-1}\n'

_end = '.options reltol=1e-11 abstol=1e-16 vntol=1e-14 gmin=1e-15\n.op\n.end\n'

@pytest.mark.timeout(20)
@pytest.mark.parametrize('levels, times, match', [(30, 2, 'components in all'), (300, 1, '50'), (2000, 1, '50')])
def test_nests_are_not_too_deep_and_not_too_large(levels, times, match):
    "A few lines that would take forever, or more frames than Python has: refused in any order, unused too"
    definitions, use = nest(levels, times)
    for text in (''.join(definitions)+use, ''.join(definitions[::-1])+use, ''.join(definitions)+'V1 a 0 1\n'):
        with pytest.raises(NetlistError, match=match): read_spice(f't\n{text}.op\n.end\n')
    with pytest.raises(AnalogError, match=match): from_netlist(f'* t\n{"".join(definitions)}{use}{_end}')

@pytest.mark.timeout(20)
@pytest.mark.parametrize('levels, times', [(50, 1), (12, 2)])
def test_nests_are_read(levels, times):
    definitions, use = nest(levels, times)
    for text in (f'* t\n{"".join(definitions)}{use}{_end}', f't\n{"".join(definitions[::-1])}{use}{_end}'):
        assert len(flattened(read_spice(text)))==times**(levels-1)+1
