"ngspice and PySpice: raw files, what runs, what is refused, what is cleaned up, and whether nodal analysis agrees"
import math, os, random, signal, subprocess, sys, tempfile, threading, time
from collections import Counter
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import spice
from analognn.circuit import Circuit, Pulse
from analognn.core import AnalogError, CircuitError, ConfigError, ConvergenceError, EngineError, EngineMissing, EngineTimeout, NetlistError, ShapeError
from analognn.nodal import condition_number, solve
from analognn.spice import check_deck, find_ngspice, how_to_install, ladder_rungs, ngspice_version, read_raw, run_ngspice, simulate, solve_ngspice, solve_pyspice, transient_ngspice

posix = pytest.mark.skipif(os.name!='posix', reason='needs process groups')
divider_deck = '* divider\nV1 a 0 1\nR1 a b 1000\nR2 b 0 3000\n.op\n.end\n'

def divider(volt=1.): return Circuit('divider').V('in', 'a', '0', volt).R('1', 'a', 'b', 1e3).R('2', 'b', '0', 3e3)

def gone(pid):
    "Has the process ended? (one that nobody waits for any more is a zombie at most)"
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]=='Z'
    except (FileNotFoundError, ProcessLookupError): return True

def soon(f, seconds=5.):
    end = time.monotonic()+seconds
    while not f() and time.monotonic()<end: time.sleep(.02)
    return f()

@pytest.fixture
def scratch(tmp_path, monkeypatch):
    "Where temporary files go; empty again afterwards"
    folder = tmp_path/'scratch'; folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    yield folder
    assert not list(folder.iterdir()), 'files are left behind'

@pytest.fixture
def fake(tmp_path, monkeypatch, scratch):
    "An ngspice of our own: a shell script, called as `-n -b -r deck.raw deck.cir`"
    def make(script):
        exe = tmp_path/'bin'/'ngspice'; exe.parent.mkdir(exist_ok=True)
        exe.write_text(f'#!/bin/sh\n{script}\n'); exe.chmod(0o755)
        monkeypatch.setenv('PATH', f'{exe.parent}:/usr/bin:/bin')
    return make

def raw(values=((1., .75, -.25e-3),), names=('v(a)', 'v(b)', 'i(v1)'), plotname='Operating Point', points=None):
    "A binary raw file"
    rows = ''.join(f'\t{k}\t{n}\tvoltage\n' for k,n in enumerate(names))
    head = f'Title: * divider\nDate: today\nPlotname: {plotname}\nFlags: real\nNo. Variables: {len(names)}\nNo. Points: {points or len(values)}       \nVariables:\n{rows}Binary:\n'
    return head.encode()+np.array(values, '<f8').tobytes()

# Raw files

def written(folder, commands):
    "Files that ngspice writes at these commands"
    (folder/'x.cir').write_text(f'* all kinds\nV1 a 0 DC 1 AC 1 SIN(0 1 1k)\nR1 a b 1k\nC1 b 0 1u\n.control\n{commands}\n.endc\n.end\n')
    subprocess.run(['ngspice', '-n', '-b', 'x.cir'], cwd=folder, capture_output=True, stdin=subprocess.DEVNULL)
    return folder

kinds = {'op': 'op', 'dc': 'dc v1 0 1 .25', 'ac': 'ac dec 3 1 1k', 'tran': 'tran 10u 2m'}

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('padding', ['set nopadding', 'unset nopadding'])
def test_text_and_binary_say_the_same(ngspice, tmp_path, kind, padding):
    short = 'let two = vector(2)*3' if kind!='op' else ''
    names = 'v(a) v(b) two' if short else 'v(a) v(b)'
    written(tmp_path, f'{kinds[kind]}\n{short}\n{padding}\nwrite binary.raw {names}\nset filetype=ascii\nwrite text.raw {names}')
    (b,), (t,) = read_raw(tmp_path/'binary.raw'), read_raw(str(tmp_path/'text.raw'))
    assert (b.names, b.types, b.flags, b.lengths)==(t.names, t.types, t.flags, t.lengths) and b.title=='* all kinds' and b.date
    assert ('unpadded' in b.flags)==padding.startswith('set') and (b.values.dtype==complex)==(kind=='ac')
    for n in b.names: assert np.allclose(b[n], t[n], rtol=1e-14, atol=0) and b[n.upper()].shape==b.data[n].shape
    if short: assert b['two'].tolist()==[0, 3] and len(b['v(b)'])>2

def test_values_are_right(ngspice, tmp_path):
    written(tmp_path, '\n'.join(f'{c}\nwrite {k}.raw v(a) v(b) i(v1)' for k,c in kinds.items()))
    op, dc, ac, tran = (read_raw(tmp_path/f'{k}.raw')[0] for k in kinds)
    assert op['v(b)'].tolist()==[1.] and np.allclose(dc['v(b)'], [0, .25, .5, .75, 1])
    f = ac['frequency'].real
    assert len(f)==10 and np.allclose(ac['v(b)'], 1/(1+2j*np.pi*f*1e-3)) and np.allclose(ac['i(v1)'], (ac['v(b)']-1)/1e3)
    assert tran['time'][-1]>=2e-3 and np.allclose(tran['v(a)'], np.sin(2e3*np.pi*tran['time']), atol=1e-3)

def test_many_plots_in_one_file(ngspice, tmp_path):
    written(tmp_path, 'set appendwrite\n'+'\n'.join(f'{c}\nwrite all.raw v(a) v(b)\nset filetype=ascii\nwrite all.raw v(a) v(b)\nset filetype=binary' for c in kinds.values()))
    plots = read_raw((tmp_path/'all.raw').read_bytes())
    assert [p.plotname.split()[0] for p in plots]==[w for w in ('Operating', 'DC', 'AC', 'Transient') for _ in (0, 1)]
    for b,t in zip(plots[::2], plots[1::2]): assert np.allclose(b.values, t.values, rtol=1e-14, atol=0)

@pytest.mark.parametrize('kind', ['binary', 'text'])
def test_every_truncation_is_seen(ngspice, tmp_path, kind):
    written(tmp_path, f"{kinds['ac']}\n{'set filetype=ascii' if kind=='text' else ''}\nwrite x.raw v(a)")
    data = (tmp_path/'x.raw').read_bytes()
    full = read_raw(data)[0].values
    for n in range(len(data)):
        try: assert np.array_equal(read_raw(data[:n])[0].values, full) and not data[n:].strip()     # all but a last newline
        except EngineError: pass

@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_fail_clearly(data):
    good = raw(np.arange(12.).reshape(4, 3))+raw()
    at, n = data.draw(st.integers(0, len(good)-1)), data.draw(st.integers(0, 20))
    try: plots = read_raw(good[:at]+data.draw(st.binary(max_size=20))+good[at+n:])
    except EngineError: return
    assert all(p.values.shape==(len(p.values), len(p.names)) for p in plots)

@pytest.mark.parametrize('damage, said', [(lambda b: b'', 'empty'), (lambda b: b'\x7fELF'+b, 'not a raw file'), (lambda b: b[:-1], 'truncated'), (lambda b: b+b'x', 'not a raw file'),
    (lambda b: b.replace(b'No. Points: 1', b'No. Points: 0'), 'failed'), (lambda b: b[:130], 'truncated'), (lambda b: b.replace(b'No. Points: 1', b'No. Points: '+b'9'*30), 'truncated'),
    (lambda b: b.replace(b'Variables: 3', b'Variables: 4'), 'names 3'), (lambda b: b.replace(b'No. Points', b'Points'), 'lacks')])
def test_damage_is_named(damage, said):
    with pytest.raises(EngineError, match=said): read_raw(damage(raw()))

def test_the_file_of_a_failed_run():
    head = b'Title: * t\nDate: Sun Nov 22 17:30:22  2026\nPlotname: Transient Analysis\nFlags: real\nNo. Variables: 0\nNo. Points: 0\nVariables:\nBinary:\n'
    with pytest.raises(EngineError, match='failed'): read_raw(head)
    with pytest.raises(EngineError, match='no raw file'): read_raw('/nonexistent/x.raw')

# Finding the program

def test_missing(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert find_ngspice() is None
    for f in (lambda: run_ngspice(divider_deck), lambda: solve_ngspice(divider()), ngspice_version, lambda: simulate(divider(), engine='ngspice')):
        with pytest.raises(EngineMissing, match='apt install ngspice') as e: f()
    assert all(w in str(e.value) for w in ('dnf', 'brew', 'conda', 'Windows', 'nodal')) and how_to_install in str(e.value)

def test_auto_says_who_answered(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    sol = simulate(divider())
    assert sol.engine=='nodal' and 'not installed' in sol.info['note'] and sol['b'].item()==pytest.approx(.75)

def test_auto_takes_ngspice(ngspice):
    sol = simulate(divider())
    assert (sol.engine, sol.info['version'])==('ngspice', ngspice_version()) and 'installed' in sol.info['note']

def test_unknown_words(ngspice):
    with pytest.raises(ConfigError, match="did you mean 'pyspice'"): simulate(divider(), engine='pispice')
    with pytest.raises(ConfigError, match='analysis'): simulate(divider(), 'noise')

# Failures

@posix
def test_a_hang_is_ended_with_all_its_children(fake, tmp_path):
    fake(f'sleep 50 & echo $! $$ > {tmp_path}/pids; wait')
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match='longer than'): run_ngspice(divider_deck, timeout=.5)
    assert time.monotonic()-started<5
    pids = (tmp_path/'pids').read_text().split()
    assert len(pids)==2 and soon(lambda: all(map(gone, pids)))

@posix
@pytest.mark.parametrize('n_workers', [1, 3])
def test_an_interrupt_ends_the_processes(fake, tmp_path, n_workers):
    fake(f'echo $$ >> {tmp_path}/pids; exec sleep 50')
    started = lambda: (tmp_path/'pids').read_text().split() if (tmp_path/'pids').exists() else []
    interrupt = threading.Thread(target=lambda: (soon(lambda: len(started())>=n_workers), os.kill(os.getpid(), signal.SIGINT)))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt): solve_ngspice(Circuit('c').V('1', 'a', '0', torch.ones(5, 1)).R('1', 'a', '0', 1.), n_workers=n_workers)
    interrupt.join()
    assert soon(lambda: all(map(gone, started()))) and len(started())==n_workers

@posix
def test_an_interrupt_at_the_start_ends_the_process(fake, monkeypatch):
    "As if it came before anybody knows that there is a process"
    fake('exec sleep 50')
    started, real = [], subprocess.Popen
    def start(*args, **kwargs):
        started.append(real(*args, **kwargs))
        signal.raise_signal(signal.SIGINT)
        return started[-1]
    monkeypatch.setattr(subprocess, 'Popen', start)
    with pytest.raises(KeyboardInterrupt): run_ngspice(divider_deck)
    assert len(started)==1 and gone(started[0].pid) and signal.getsignal(signal.SIGINT) is signal.default_int_handler

@posix
@pytest.mark.parametrize('script, said', [('exit 1', 'status 1'), ('kill -9 $$', 'status -9'), ('kill -SEGV $$', 'status -11'), ('true', 'no raw file'), ('echo garbage > deck.raw', 'not a raw file'),
    (': > deck.raw', 'empty'), ('echo "what went wrong" >&2; exit 3', 'what went wrong'), ('printf "Title: x\\n" > deck.raw', 'truncated'), ('mkdir deck.raw', 'no raw file')])
def test_anything_but_success_is_an_error(fake, script, said):
    fake(script)
    with pytest.raises(EngineError, match=said): run_ngspice(divider_deck)

def with_file(tmp_path, data, extra=''):
    (tmp_path/'ready.raw').write_bytes(data)
    return f'cp {tmp_path}/ready.raw deck.raw; {extra}'

fatal = ['Timestep too small', 'trouble with node', 'run simulation(s) aborted', 'Transient op failed', 'source stepping failed', 'True gmin stepping failed', 'Dynamic gmin stepping failed',
    'DC solution failed', 'circuit not parsed', "there aren't any circuits loaded", 'simulation interrupted due to error', 'could not find a valid modelname', 'unknown subckt',
    'Undefined parameter', 'fatal error in ngspice', 'Could not find include file', 'device already exists', 'bad syntax of line']

@posix
@pytest.mark.parametrize('text', fatal)
def test_no_text_of_failure_is_overheard(fake, tmp_path, text):
    fake(with_file(tmp_path, raw(), f'echo "Warning: {text.upper()} x"'))
    with pytest.raises(ConvergenceError if fatal.index(text)<8 else EngineError, match='(?i)'+text[:12]): run_ngspice(divider_deck)

@posix
def test_harmless_texts_pass(fake, tmp_path):
    fake(with_file(tmp_path, raw(), 'echo "Note: Starting dynamic gmin stepping\nOne successful gmin step\nNo compatibility mode selected!\nCircuit: * unknown subckt"'))
    (plot,) = run_ngspice(divider_deck.replace('* divider', '* Unknown subckt'))
    assert plot['v(b)'].tolist()==[.75]

@posix
@pytest.mark.parametrize('data, said', [(raw([[1., np.nan, 0.]]), r'not finite, v\(b\)'), (raw([[1., 1., -np.inf]]), 'not finite'), (raw()[:-9], 'truncated'), (raw(points=5), 'truncated')])
def test_numbers_are_doubted(fake, tmp_path, data, said):
    fake(with_file(tmp_path, data))
    with pytest.raises(EngineError, match=said): run_ngspice(divider_deck)

@posix
def test_numbers_out_of_range(fake, tmp_path):
    fake(with_file(tmp_path, raw([[1., -1e32, 0.]], ('v(n_a)', 'v(n_b)', 'i(vin)'))))
    with pytest.raises(EngineError, match='-1e.32 for node b'): solve_ngspice(divider())

@posix
def test_every_analysis_has_to_answer(fake, tmp_path):
    fake(with_file(tmp_path, raw()))
    with pytest.raises(EngineError, match='1 of 2'): run_ngspice(divider_deck.replace('.op', '.op\n.dc V1 0 1 1'))

@posix
@pytest.mark.parametrize('last, deck_time', [(.9e-3, '1m'), (1e-6, '1us'), (2., '2'), (3e6, '3Meg'), (1e-9, '1.e-9')])
def test_a_transient_run_has_to_reach_its_end(fake, tmp_path, last, deck_time):
    fake(with_file(tmp_path, raw([[0., 1.], [last, 1.]], ('time', 'v(a)'), 'Transient Analysis')))
    deck = divider_deck.replace('.op', f'.tran 1n {deck_time}')
    if deck_time!='1m': assert run_ngspice(deck)[0]['time'][-1]==last
    else:
        with pytest.raises(ConvergenceError, match='stopped'): run_ngspice(deck)

def test_a_transient_run_says_until_when(scratch):
    for words in ('.tran 1n', '.tran 1n {stop}'):
        with pytest.raises(NetlistError, match='until when'): run_ngspice(divider_deck.replace('.op', words))

@posix
@pytest.mark.parametrize('target', ['deck.raw', '/dev/stdout'])
def test_what_it_writes_is_limited(fake, target):
    fake(f'exec yes > {target}' if target=='deck.raw' else 'exec yes')
    with pytest.raises(EngineError, match='wrote more than 1000000'): run_ngspice(divider_deck, timeout=20., max_bytes=10**6)

@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    "A disk of 16 KiB for temporary files; it takes root to make one"
    folder = tmp_path/'small'; folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', str(folder)], capture_output=True).returncode: pytest.skip('needs the right to mount')
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    spice._close_worker()       # its log moves there, and back
    yield folder
    spice._close_worker()
    left = list(folder.iterdir())
    subprocess.run(['umount', str(folder)], check=True)
    assert not left, 'files are left behind'

def swept_divider(n): return divider(torch.linspace(0, 1, n))

@posix
@pytest.mark.skipif(sys.platform!='linux', reason='needs tmpfs')
@pytest.mark.parametrize('n', [400, 3000])          # too much for ngspice's answer, and for the deck
def test_a_full_disk_is_named(ngspice, small_disk, n):
    with pytest.raises(EngineError, match='no space left on the disk of .*small'): solve_ngspice(swept_divider(n))
    assert solve_ngspice(swept_divider(5)).v.shape==(5, 2) and solve_pyspice(divider())['b'].item()==pytest.approx(.75)

def test_no_space_for_a_deck(monkeypatch, scratch, ngspice):
    "As above, where nothing can be mounted"
    ngspice_version()
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises(EngineError, match='no space left on the disk of .*scratch'): solve_ngspice(divider())

@posix
def test_no_space_for_an_answer(fake, tmp_path, monkeypatch):
    fake(with_file(tmp_path, raw()[:-9]))
    usage = spice.shutil.disk_usage
    monkeypatch.setattr(spice.shutil, 'disk_usage', lambda folder: usage(folder)._replace(free=0))
    with pytest.raises(EngineError, match='no space left .*truncated'): run_ngspice(divider_deck)

@pytest.mark.parametrize('timeout', [0, -1., float('nan'), float('inf')])
def test_time_limits_are_checked(ngspice, timeout):
    for f in (lambda: run_ngspice(divider_deck, timeout=timeout), lambda: solve_ngspice(divider(), timeout=timeout), lambda: solve_pyspice(divider(), timeout=timeout)):
        with pytest.raises(ConfigError, match='timeout'): f()

@posix
def test_the_time_limit_is_for_the_whole_call(fake, tmp_path):
    fake(with_file(tmp_path, raw([[1., -1.]], ('v(n_a)', 'i(v1)')), 'exec sleep .3'))
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match="'c' took ngspice longer than 1 s"): solve_ngspice(Circuit('c').V('1', 'a', '0', torch.ones(50, 1)).R('1', 'a', '0', 1.), timeout=1.)
    assert time.monotonic()-started<3

def test_nothing_is_left_behind(ngspice, scratch):
    solve_ngspice(divider()); run_ngspice(divider_deck); solve_pyspice(divider())
    for deck, limit in ((divider_deck.replace('.op', '.tran 1n 1k'), .2), ('* t\nR1 a 0 1\nX1 a b c\n.op\n.end\n', 5.)):
        with pytest.raises(EngineError): run_ngspice(deck, limit)

def test_n_workers(ngspice):
    ckt = Circuit('c').V('1', 'a', '0', torch.linspace(0, 1, 5)).R('1', 'a', 'b', torch.linspace(1e3, 2e3, 7)[:,None]).R('2', 'b', '0', 1e3)
    one, three = solve_ngspice(ckt), solve_ngspice(ckt, n_workers=3)
    assert torch.equal(one.v, three.v) and torch.equal(one.i, three.i) and one.v.shape==(7, 5, 2) and one.info['rung']==['plain']*7
    assert torch.allclose(one.v, solve(ckt).v, atol=1e-13)
    with pytest.raises(ConfigError, match='n_workers'): solve_ngspice(ckt, n_workers=0)

# What may run

hostile = ['.control\nshell touch {f}\n.endc', '*#shell touch {f}', ' *#shell touch {f}', '.include {f}', '.INC {f}', '.lib {f} x', '.pre_osdi {f}', 'echo `touch {f}`',
    'Aload [a] [b] m', '.csparam x=1', '.print op v(a)', '.exec x', 'R9 a 0 1\r.control\rshell touch {f}', '.\x0bcontrol', '$ x', '.model m d_process(process_file="{f}")\nA1 a b m', '.title\n.control', '\u2028.control', '.save `touch {f}`',
    '.four 1k v(a)', '.meas op x', '.write {f}', '.plot op v(a)', '.width x', 'N1 a b m', 'U1 a b m']

@pytest.mark.parametrize('card', hostile)
def test_nothing_but_a_circuit_runs(tmp_path, scratch, card):
    f = tmp_path/'touched'
    for deck in (divider_deck.replace('.op', card.format(f=f)+'\n.op'), divider_deck+card.format(f=f)+'\n'):
        with pytest.raises(NetlistError, match='line'): run_ngspice(deck)
    assert not f.exists()

@pytest.mark.parametrize('command', ['shell touch {f}', 'source {f}', 'write {f}'])
def test_commands_are_elements_outside_control(ngspice, tmp_path, scratch, command):
    with pytest.raises(EngineError): run_ngspice(divider_deck.replace('.op', command.format(f=tmp_path/'touched')+'\n.op'))
    assert not (tmp_path/'touched').exists()

@pytest.mark.parametrize('first', ['*ng_script', '*NG_SCRIPT', '*#shell ls', 'V1 a 0 1', '', '.control', '*x `ls`'])
def test_first_line(first):
    with pytest.raises(NetlistError, match='line 1'): check_deck(first+'\nshell ls\n')

@given(st.text(max_size=40), st.sampled_from(['* {}', '{}', '* t\n{}', '* t\nR1 a 0 1 {}\n.end\n', '* t\n+{}']))
@settings(max_examples=300, deadline=None)
def test_only_known_cards_pass(text, form):
    deck = form.format(text)
    try: check_deck(deck)
    except NetlistError: return
    lines = [l.strip().lower() for l in deck.split('\n')]
    assert '`' not in deck and '\r' not in deck and not any(l.startswith(('*#', '*ng_', '.con', '.inc', '.lib')) for l in lines)
    assert all(not l or l[0] in '*+.' or l[0].isalpha() and l[0] not in 'anu' for l in lines)

@posix
def test_the_users_files_and_variables_are_not_asked(ngspice, tmp_path, monkeypatch):
    (tmp_path/'.spiceinit').write_text('quit 7\n')
    monkeypatch.setenv('HOME', str(tmp_path)); monkeypatch.chdir(tmp_path); monkeypatch.setenv('SPICE_ASCIIRAWFILE', '1')
    spice._close_worker()       # the next one starts in this environment
    for engine in ('ngspice', 'pyspice'): assert simulate(divider(1/3), engine=engine)['b'].item()==pytest.approx(.25, rel=1e-14)

@pytest.mark.parametrize('ckt, said', [(Circuit('c').V('1', 'a', '0', 1.).I('2', '0', 'b', 1.), "node 'b'"), (Circuit('c').R('1', 'a', 'b', 1.), "node 'a'"),
    (Circuit('c').V('1', 'a', '0', 1.).V('2', 'a', '0', 1.), 'loop'), (Circuit('c'), 'empty')])
@pytest.mark.parametrize('engine', ['ngspice', 'pyspice', 'nodal', 'auto'])
def test_circuits_without_a_solution_are_refused(ckt, said, engine):
    with pytest.raises(CircuitError, match=said): simulate(ckt, engine=engine)

def test_no_unique_solution(ngspice):
    follows_itself = Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'o', 1e3).E('1', 'o', '0', 'o', '0', 1.)
    negative = Circuit('c').I('1', '0', 'a', 1.).R('1', 'a', '0', 1e3).G('1', 'a', '0', 'a', '0', -1e-3)
    no_feedback = Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', 'b', 1e3).R('2', 'b', '0', 1e3).opamp('1', 'o', 'b', '0').R('3', 'o', '0', 1e3)
    for ckt in (follows_itself, negative, no_feedback):
        for engine in ('ngspice', 'pyspice'):
            with pytest.raises((EngineError, ConvergenceError)): simulate(ckt, engine=engine)

def test_shapes_that_do_not_fit(ngspice):
    with pytest.raises(ShapeError): solve_ngspice(Circuit('c').V('1', 'a', '0', torch.ones(2)).V('2', 'b', '0', torch.ones(3)).R('1', 'a', 'b', 1.))

# Answers

words = ['time', 'temper', 'frequency', 'value', 'table', 'ac', 'dc', 'limit', 'gauss', 'inoise_total', 'speedcheck', 'all', '1e3', '00', '007', '1k', 'pi', 'v', 'i', 'index_sweep', 'n_a', '_', 'branch', 'sin', 'pwl', 'temp', 'off', 'poly', 'x'*200]

@pytest.mark.parametrize('engine', ['ngspice', 'pyspice'])
def test_any_word_is_a_name(ngspice, engine):
    ckt = Circuit('words of SPICE').V('temper', 'Top', '0', torch.tensor([1., 2.]))
    for a,b in zip(['Top', *words], words): ckt.R(f'{b}', a, b, 1e3)
    for w in words: ckt.R(f'g{w}', w, '0', 1e5).rail(w, f'rail_{w}', w, .3).E(w, f'e_{w}', '0', 'top', w, 2.).V(f'v{w}', f'v_{w}', w, 1.).D(w, f'd_{w}', w).R(f'd{w}', 'Top', f'd_{w}', 1e6)
    sol, nodal = simulate(ckt, engine=engine), solve(ckt)
    assert (sol.nodes, sol.sources)==(ckt.nodes, nodal.sources) and (sol-nodal).v.abs().max()<1e-8
    with pytest.raises(NetlistError, match='to itself'): simulate(Circuit('c').V('1', 'xprobe_int_', '0', 1.), engine=engine)

@pytest.mark.parametrize('engine', ['ngspice', 'pyspice', 'nodal'])
def test_signs_and_shapes(ngspice, engine):
    ckt = Circuit('signs').V('fixed', 'a', '0', 2.).V('swept', 'b', '0', torch.tensor([1., 4., 2.])).R('1', 'a', 'b', 1e3).I('1', '0', 'c', 1e-3).R('2', 'c', '0', 1e3).V('one', 'd', '0', torch.tensor([5.])).R('3', 'd', '0', 1.)
    sol = simulate(ckt, engine=engine)
    assert (sol.nodes, sol.sources, sol.v.shape, sol.i.shape)==(('a', 'b', 'c', 'd'), ('fixed', 'swept', 'one'), (3, 4), (3, 3)) and sol.v.dtype==sol.i.dtype==torch.float64
    expected = torch.tensor([-1e-3, 2e-3, 0.], dtype=torch.float64)
    assert torch.allclose(sol.current('fixed'), expected, atol=1e-14) and torch.allclose(sol.current('swept'), -expected, atol=1e-14)
    assert torch.allclose(sol['c'], torch.ones(3, dtype=torch.float64), atol=1e-13) and torch.allclose(sol.current('one'), -5*torch.ones(3, dtype=torch.float64), atol=1e-13)

shaped = {(1, 1): ((), ()), (1, 4): ((4,), (4,)), (3, 1): ((3, 1), ()), (3, 4): ((4,), (3, 1)), (2, 4): ((2, 4), (4,)), (1, 5): ((), (5,)), (2, 3): ((), (2, 3))}

@pytest.mark.parametrize('engine', ['ngspice', 'pyspice'])
@pytest.mark.parametrize('shape', shaped)
def test_chips_and_points(ngspice, engine, shape):
    volt, ohm = (torch.rand(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64)+1 for s in shaped[shape])
    ckt = Circuit('c').V('in', 'a', '0', volt).R('1', 'a', 'b', ohm*1e3).R('2', 'b', '0', 1e3).rail('1', 'y', 'b', torch.full((shape[0], 1), .7))
    assert ckt.shape==shape
    sol = simulate(ckt, engine=engine)
    expected = (volt/(1+ohm)).expand(shape if shape[0]>1 else shape[1:])
    assert sol['b'].shape==expected.shape and torch.allclose(sol['b'], expected, atol=1e-13) and torch.allclose(sol['y'], expected.clamp(max=.7), atol=1e-13)
    assert len(sol.info['rung'])==shape[0]

def test_values_with_gradients_are_printed(ngspice):
    sol = solve_ngspice(divider(torch.tensor([1., 2.], requires_grad=True)))
    assert sol.v.requires_grad is False and sol['b'].tolist()==pytest.approx([.75, 1.5])

# The ladder

a_sweep = torch.tensor([1., 3., 2.], dtype=torch.float64)

@pytest.mark.parametrize('holds, volt', [(r, 2.) for r in ladder_rungs if r not in spice._only_sweeps]+[(r, a_sweep) for r in ladder_rungs])
def test_each_rung_answers_alike(ngspice, monkeypatch, holds, volt):
    ckt, expected, real, decks = divider(volt), torch.as_tensor(volt).reshape(-1).double(), spice._on_rung, []
    def on_rung(c, run, deadline, *rung):
        if c is ckt and rung!=ladder_rungs[holds]: raise ConvergenceError('not yet')
        return real(c, run, deadline, *rung)
    def run(deck, timeout): decks.append(deck); return run_ngspice(deck, timeout)
    monkeypatch.setattr(spice, '_on_rung', on_rung)
    values, rung = spice._climb(ckt, run, time.monotonic()+20)
    assert rung==holds and values.shape==(len(expected), 3) and np.allclose(values[:, 1], .75*expected, rtol=1e-12)
    assert len(decks)==(3 if holds=='point by point' else 1) and all(ladder_rungs[holds][0]+'\n' in d for d in decks)
    if holds=='small index steps': assert '.dc Vindex_sweep 0 2 0.25\n' in decks[0]

@pytest.mark.parametrize('engine', ['ngspice', 'pyspice'])
def test_a_circuit_that_needs_the_ladder(ngspice, engine):
    ckt = Circuit('rails inside the loops').V('in', 'a0', '0', torch.tensor([[20.], [.1]]))
    for k, w in enumerate([.7, .6, .5]):
        ckt.R(f'i{k}', f'a{k}', f's{k}', 1e4/w).R(f'f{k}', f's{k}', f'a{k+1}', 1e4).opamp(f'{k}', f'x{k}', '0', f's{k}', 1e5).rail(f'{k}', f'a{k+1}', f'x{k}', 1.)
    sol = simulate(ckt, engine=engine)
    assert sol.info['rung']==['source stepping', 'plain'] and torch.allclose(sol['a3'], solve(ckt)['a3'], atol=1e-10)

def test_no_rung_holds(ngspice):
    def run(deck, timeout): raise ConvergenceError('never')
    with pytest.raises(ConvergenceError, match='plain, dynamic gmin, source stepping, relaxed tolerances; .*never'): spice._climb(divider(), run, time.monotonic()+9)

# PySpice

def worker(): return spice._workers[os.getpid()]

def test_memory_does_not_grow(ngspice):
    solve_pyspice(divider())
    resident = lambda: int(Path(f'/proc/{worker().process.pid}/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')
    for _ in range(20): solve_pyspice(divider())
    pid, before = worker().process.pid, resident()
    for k in range(200): assert solve_pyspice(divider(float(k)))['b'].item()==pytest.approx(.75*k)
    assert worker().process.pid==pid and resident()-before<512*1024

@pytest.mark.parametrize('answer, said', [(dict(n_a=[1.], n_b=[np.nan], vin_branch=[0.]), 'not finite'), (dict(n_a=[1.]), r"v\(n_b\)"), (dict(n_a=[1.], n_b=[-1e32], vin_branch=[0.]), '-1e.32 for node b')])
def test_a_library_that_answers_garbage(ngspice, monkeypatch, answer, said):
    vectors = {k.replace('_branch', '#branch'): np.array(v) for k,v in answer.items()}
    monkeypatch.setattr(spice._Worker, 'ask', lambda self, deck, deadline: ('done', 'op1', vectors, []))
    with pytest.raises(AnalogError, match=said): solve_pyspice(divider())

def test_a_hanging_library_is_ended(ngspice):
    solve_pyspice(divider())
    pid = worker().process.pid
    with pytest.raises(EngineTimeout): spice._ask_pyspice(divider_deck.replace('.op', '.tran 1n 1k'), .3)
    assert gone(pid) and not spice._workers
    assert solve_pyspice(divider())['b'].item()==pytest.approx(.75)

def test_a_worker_that_dies_is_replaced(ngspice):
    solve_pyspice(divider())
    os.kill(worker().process.pid, signal.SIGKILL)
    assert soon(lambda: worker().process.poll() is not None)
    with pytest.raises(EngineError, match='ended its process'): solve_pyspice(divider())
    assert solve_pyspice(divider())['b'].item()==pytest.approx(.75)

@pytest.mark.parametrize('deck', ['* t\nR1 a 0 {nosuch}\nV1 a 0 1\n.op\n.end\n', '* t\nV1 a 0 1\nX1 a b nosuch\n.op\n.end\n', '* t\nV1 a 0 1\nD1 a 0 nosuch\n.op\n.end\n', '* t\nV1 a 0 1\nR1 a 0 1\n.end\n'])
def test_a_poisoned_library_is_replaced(ngspice, deck):
    with pytest.raises(EngineError): spice._ask_pyspice(deck, 20.)
    assert not spice._workers and solve_pyspice(divider())['b'].item()==pytest.approx(.75)

def test_no_library(ngspice, monkeypatch):
    spice._close_worker()
    monkeypatch.setenv('NGSPICE_LIBRARY_PATH', '/nonexistent/libngspice.so')
    with pytest.raises(EngineMissing, match='libngspice0'): solve_pyspice(divider())
    assert not spice._workers

def test_threads_share_a_worker(ngspice):
    answers = spice._at_once(lambda k: solve_pyspice(divider(float(k)))['b'].item(), range(40), 4, set())
    assert answers==pytest.approx([.75*k for k in range(40)])

@posix
def test_a_worker_ends_with_its_parent(ngspice, tmp_path):
    code = "import os, signal, sys\nfrom analognn import spice\nfrom analognn.circuit import Circuit\nspice.solve_pyspice(Circuit('c').V('1', 'a', '0', 1.).R('1', 'a', '0', 1.))\nprint(spice._workers[os.getpid()].process.pid, flush=True)\n"
    for end in ('', 'os.kill(os.getpid(), signal.SIGKILL)'):
        out = subprocess.run([sys.executable, '-c', code+end], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        assert out.stdout.strip() and soon(lambda: gone(out.stdout.strip())), out.stderr

def every(): return (Circuit('every kind').V('s', 'a', '0', 1/3).I('s', '0', 'n', 1e-3).R('1', 'a', 'n', 1e4).E('x', 'e', '0', 'a', 'n', -2.).G('x', 'n', '0', 'a', 'e', 1e-3)
    .D('x', 'n', '0', n=.05).opamp('u', 'o', '0', 'n', 1e5).opamp('w', 'p', 'o', 'p').rail('r', 'q', 'o', 2.5).relu('r', 's', 'q'))

def test_pyspice_circuit(ngspice):
    made = every().to_pyspice()
    from PySpice.Spice.Netlist import Circuit as PySpiceCircuit
    assert isinstance(made, PySpiceCircuit)
    deck = '* every kind\n'+str(made).split('\n', 1)[1]+spice._options+'\n.op\n.end\n'
    (plot,), sol = run_ngspice(deck), solve_ngspice(every())
    for n in sol.nodes: assert plot[f'v({n})'][0]==pytest.approx(sol[n].item(), abs=1e-12)
    with pytest.raises(NetlistError, match='one_point'): divider(torch.ones(3)).to_pyspice()

# Nodal analysis against ngspice

def random_circuit(n_stages, seed):
    "A linear circuit of up to 40 nodes: sources, resistors, dependent sources, amplifiers; values over many decades"
    r = random.Random(seed)
    def ohm(): return 10**r.uniform(1, 7)
    ckt, nodes = Circuit('random').V('0', 'n0', '0', r.uniform(-5, 5)), ['n0', '0']
    for k in range(1, n_stages):
        kind, n, (a, b, c) = r.choice('RRRRVIEKOOG'), f'n{k}', r.choices(nodes, k=3)
        if kind in 'RIEG': ckt.R(f'{k}', n, c, ohm())
        if kind=='R': ckt.R(f'{k}x', a, n, ohm())
        if kind=='V': ckt.V(f'{k}', n, a, r.uniform(-5, 5))
        if kind=='I': ckt.I(f'{k}', a, n, r.uniform(-1e-3, 1e-3))
        if kind=='E': ckt.E(f'{k}', n, '0', a, b, r.uniform(-3, 3))
        if kind=='G': ckt.G(f'{k}', n, '0', a, b, 10**r.uniform(-6, -3))
        if kind=='K': ckt.opamp(f'{k}', n, a, n, r.choice([1e4, 1e8, math.inf]))
        if kind=='O':
            ckt.R(f'{k}i', a, f'm{k}', ohm()).R(f'{k}f', f'm{k}', n, ohm()).opamp(f'{k}', n, '0', f'm{k}', r.choice([1e3, 1e5, 1e8, math.inf]))
            if r.random()<.5: nodes.append(f'm{k}')
        nodes.append(n)
    return ckt

def test_nodal_agrees_with_ngspice(ngspice, capsys):
    seen = Counter()
    @given(st.builds(random_circuit, st.integers(4, 24), st.integers(0, 2**32)).filter(lambda c: len(c.nodes)<=40))
    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    def compare(ckt):
        try: nodal = solve(ckt)
        except CircuitError: seen['singular'] += 1; return
        if condition_number(ckt)>1e8: seen['ill-conditioned'] += 1; return
        d = solve_ngspice(ckt)-nodal
        scale = nodal.v.abs().max()+1e-300
        assert d.v.abs().max()/scale<=1e-9, (d.v.abs().max()/scale, ckt.netlist())
        seen['compared'] += 1
    compare()
    with capsys.disabled(): print(f"\n  nodal against ngspice: {dict(seen)}")
    assert seen['compared']>=120

# Over time

def low_pass(r=1e3): return Circuit('low pass').V('in', 'a', '0', Pulse(0., 1., td=1e-9, tr=1e-10, tf=1e-10, pw=4e-9, per=1e-7)).R('1', 'a', 'b', r).C('1', 'b', '0', 1e-12)

@pytest.mark.parametrize('engine', ['ngspice', 'pyspice', 'nodal'])
def test_engines_agree_over_time(engine, ngspice):
    sol = simulate(low_pass(), 'tran', t_stop=1e-8, dt=1e-11, engine=engine)
    t = torch.linspace(2e-9, 4e-9, 9, dtype=torch.float64)
    rise = (t-1e-9)*1e9
    wanted = 1-torch.exp(-rise)*math.expm1(.1)/.1
    assert (sol.at(t)['b']-wanted).abs().max()<1e-3 and sol.t[-1]==pytest.approx(1e-8)

def test_what_time_asks_for():
    for kw in (dict(analysis='tran'), dict(analysis='tran', t_stop=1e-8), dict(analysis='op', t_stop=1e-8, dt=1e-9)):
        with pytest.raises(ConfigError, match='t_stop'): simulate(low_pass(), **kw)

def test_chips_over_time_come_to_common_times(ngspice):
    sol = transient_ngspice(low_pass(torch.tensor([[1e3], [2e3], [4e3]])), 1e-8, 1e-10, n_workers=2)
    assert sol.v.shape==(3, 101, 2) and len(sol.info['rung'])==3
    with pytest.raises(ShapeError, match='points are times'): transient_ngspice(low_pass(torch.tensor([1e3, 2e3])), 1e-8, 1e-10)

def test_a_time_limit_over_time(ngspice):
    with pytest.raises(EngineTimeout): transient_ngspice(low_pass(), 1e-3, 1e-12, timeout=.5)
