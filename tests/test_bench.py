import os, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from analognn import bench as module
from analognn.bench import Race, bench, bench_folder, bench_names, bench_table, compare_benches, format_seconds, load_bench, race, run_all_benches, run_bench
from analognn.core import AnalogError, ConfigError, read_json

few = settings(max_examples=12, deadline=None)
seconds = arrays(float, (9, 3), elements=st.floats(1e-6, 1e3))

def made(times): return Race(('a', 'b', 'c'), times, times[0], 'a', 1)

@pytest.fixture
def registered():
    "Register benches for one test"
    before = dict(module._benches)
    yield bench
    module._benches.clear(); module._benches.update(before)

# Statistics of a race

@few
@given(seconds)
def test_rows_are_medians_quartiles_and_ratios(times):
    r = made(times)
    for i,row in enumerate(r.rows()):
        assert row['q1']<=row['median']<=row['q3'] and row['median']==np.median(times[:,i])==r.medians()['abc'[i]]
        assert np.isclose(row['ratio'], np.median(times[:,i])/np.median(times[:,0])) and row['ratio_low']<=row['ratio_high']
    assert r.rows()[0]['ratio_low']==r.rows()[0]['ratio_high']==1

@few
@given(seconds, st.floats(.01, 100))
def test_a_slower_machine_changes_no_ratio(times, factor):
    for n in 'bc': assert np.allclose(made(times).ratio(n)[2:4], made(times*factor).ratio(n)[2:4])

def test_ratio_covers_the_truth():
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        i = made(rng.gamma(4., size=(25, 3))*[1, 2, 1]).ratio('b')
        held += i.low<=2<=i.high
    assert held>=50

def test_table_has_a_line_for_each():
    lines = str(made(np.ones((3, 3)))).splitlines()
    assert len(lines)==5 and len({l.count('|') for l in lines})==1 and lines[2].startswith('| a | 1 s |')

@pytest.mark.parametrize('t, text', [(12.34, '12.3 s'), (1., '1 s'), (.9994, '999 ms'), (1e-3, '1 ms'), (2.5e-6, '2.5 µs'), (3e-8, '30 ns'), (0., '0 ns')])
def test_times_are_readable(t, text): assert format_seconds(t)==text

# Racing

def test_every_contender_runs_in_every_round_in_seeded_order():
    def order(seed):
        calls = []
        race({n: (lambda n: lambda: calls.append(n))(n) for n in 'abcd'}, rounds=6, warmup=1, min_time=0., seed=seed)
        return ''.join(calls)
    calls = order(0)
    assert calls[:8]=='abcdaabbccdd'[:4]+'abcd' and all(set(calls[i:i+4])==set('abcd') for i in range(8, 32, 4)) and len(calls)==32
    assert calls==order(0)!=order(1) and len({calls[i:i+4] for i in range(8, 32, 4)})>1

def test_first_call_is_apart():
    state = []
    def compiled():
        if not state: time.sleep(.05); state.append(1)
    r = race({'compiled': compiled}, rounds=5)
    assert r.first[0]>=.05 and r.times.max()<.02

def test_short_calls_are_repeated():
    n = [0]
    def f(): n[0] += 1
    r = race({'f': f}, rounds=3, min_time=.01)
    assert n[0]>1000 and r.times.max()<1

def test_setup_gives_fresh_arguments_outside_the_clock():
    seen = []
    def make(): time.sleep(.004); return [len(seen)], 7
    r = race({'pop': lambda l, k: seen.append((l.pop(), k))}, rounds=4, warmup=2, setup=make)
    assert len(seen)==7 and {k for _,k in seen}=={7} and np.median(r.times)<.003

def test_threads_are_limited_and_given_back():
    before, seen = torch.get_num_threads(), []
    for n in (1, 2): race({'f': lambda: seen.append(torch.get_num_threads())}, rounds=1, warmup=0, min_time=0., threads=n)
    assert set(seen[:2])=={1} and set(seen[2:])=={2} and torch.get_num_threads()==before
    with pytest.raises(ZeroDivisionError): race({'f': lambda: 1/0}, threads=2)
    assert torch.get_num_threads()==before

def test_numba_is_limited_and_given_back():
    import numba
    before, seen = numba.get_num_threads(), []
    race({'f': lambda: seen.append(numba.get_num_threads())}, rounds=1)
    assert set(seen)=={1} and numba.get_num_threads()==before

@pytest.mark.parametrize('check', [torch.equal, lambda a, b: np.bool_(bool((a==b).all())), lambda a, b: torch.testing.assert_close(a, b)])
def test_disagreement_is_an_error(check):
    x = torch.ones(3)
    race({'a': lambda: x, 'b': lambda: x*1}, rounds=1, check=check)
    with pytest.raises(AnalogError, match="'b' and 'a' disagree"): race({'a': lambda: x, 'b': lambda: x*2}, rounds=1, check=check)

@pytest.mark.parametrize('bad', [dict(contenders={}), dict(rounds=0), dict(warmup=-1), dict(baseline='g'), dict(threads=0), dict(setup=lambda: [1])])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ConfigError): race(**{'contenders': {'f': lambda *a: None}, **bad})

# Names and files

def test_names_are_found_without_importing_everything():
    code = "import sys; from analognn.bench import bench_names; print('imports' in bench_names(), 'analognn.corners' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()==['True', 'False']

def test_results_come_back_from_their_file(tmp_path, registered):
    @registered('made')
    def f(mode): return dict(fast=made(np.ones((5, 3))), sizes=dict(small=dict(error=np.float32(.5)), large=3), mode=mode)
    files = [run_bench('made', m, out=tmp_path) for m in ('quick', 'default')]
    assert [f.name for f in files]==['made-quick.json', 'made.json'] and sorted(p.name for p in tmp_path.iterdir())==['made-quick.json', 'made.json']
    stored = load_bench('made', folder=tmp_path)
    assert stored==read_json(files[1]) and stored['mode']==stored['result']['mode']=='default'
    assert stored['environment']['versions']['torch']==torch.__version__ and stored['result']['fast']['race'][2]['name']=='c'
    table = bench_table('made', folder=tmp_path)
    assert all(t in table for t in ('**fast**', '| error | 0.5 |', '**sizes, small**', '| large | 3 |', 'Bench `made` (default)')) and table._repr_markdown_()==table

def test_a_bench_may_be_a_race(tmp_path, registered):
    registered('made')(lambda mode: made(np.ones((5, 3))))
    run_bench('made', 'full', out=tmp_path)
    assert '| b | 1 s |' in bench_table('made', 'full', tmp_path)

def test_a_bench_that_fails_keeps_the_old_result(tmp_path, registered):
    @registered('made')
    def f(mode): return dict(x=1) if mode=='default' and not list(tmp_path.iterdir()) else 1/0
    old = run_bench('made', out=tmp_path).read_bytes()
    with pytest.raises(ZeroDivisionError): run_bench('made', out=tmp_path)
    assert (tmp_path/'made.json').read_bytes()==old

def test_folder_is_that_of_the_checkout_or_here(tmp_path, monkeypatch):
    (tmp_path/'nbs'/'deep').mkdir(parents=True); (tmp_path/'other').mkdir()
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = analognn\ndescription = 100% literate\n')
    (tmp_path/'other'/'settings.ini').write_text('no section here')
    for start in ('.', 'nbs/deep', 'other'):
        monkeypatch.chdir(tmp_path/start)
        assert bench_folder()==tmp_path/'nbs'/'bench'
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = another\n')
    assert bench_folder()==Path('bench')

def test_unknown_names_are_refused(tmp_path, registered):
    for call in (lambda: run_bench('import', out=tmp_path), lambda: run_bench('imports', 'fast', out=tmp_path)):
        with pytest.raises(ConfigError, match='known'): call()
    with pytest.raises(ConfigError, match="did you mean 'imports'"): run_bench('import', out=tmp_path)
    with pytest.raises(AnalogError, match='analognn bench imports'): load_bench('imports', folder=tmp_path)
    def one(mode): return {}
    def two(mode): return {}
    registered('made')(one); registered('made')(one)
    with pytest.raises(ConfigError, match='one already'): registered('made')(two)
    assert not list(tmp_path.iterdir())

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU: waiting for it was not tested')
def test_the_clock_waits_for_the_gpu():
    x = torch.randn(4096, 4096, device='cuda')
    r = race({'one': lambda: x@x, 'ten': lambda: [x@x for _ in range(10)]}, rounds=9)
    assert 7<r.ratio('ten').mean<13

# All of them

fakes = '''from analognn.bench import bench, Race
from analognn.core import ConfigError, EngineMissing
import numpy as np, os
@bench('fine')
def fine(mode):
    open(os.environ['LOG'], 'a').write('fine\\n')
    times = np.random.default_rng(0).normal(1., .02, (25, 2))*[1., 2.]
    return dict(speed=Race(('plain', 'fast'), times, times[0], 'plain', 1), error=.5)
@bench('lacking')
def lacking(mode): raise EngineMissing('bench lacking needs a GPU')
@bench('extra')
def extra(mode):
    try: import no_such_library
    except ImportError as e: raise ConfigError("bench extra needs it: pip install 'analognn[extra]'") from e
@bench('wrong')
def wrong(mode): raise ConfigError('a field is wrong')
@bench('moved')
def moved(mode): import analognn.no_such_module
@bench('broken')
def broken(mode): return 1/0
@bench('slow')
def slow(mode):
    open(os.environ['LOG'], 'a').write('slow\\n')
    while os.path.exists(os.environ['LOG']+'.wait'): pass
    return dict(x=1)
'''

@pytest.fixture
def faked(tmp_path, registered, monkeypatch):
    "Four benches that fresh processes know too: one is fine, one lacks something, one fails, one takes as long as a file is there"
    exec(fakes, {})
    monkeypatch.setattr(module, '_alone', fakes+module._alone)
    monkeypatch.setenv('LOG', str(tmp_path/'log'))
    return ['fine', 'lacking', 'broken', 'slow']

def test_all_others_go_on_when_one_fails(tmp_path, faked):
    page = run_all_benches('quick', tmp_path/'out', names=faked[:3])
    found, text = read_json(page.with_suffix('.json')), page.read_text()
    assert page.name=='all-quick.md' and [found['benches'][n]['status'] for n in faked[:3]]==['done', 'not possible here', 'failed']
    assert 'needs a GPU' in found['benches']['lacking']['reason'] and 'ZeroDivisionError' in found['benches']['broken']['reason']
    assert set(found['environment']['peers'])=={'aihwkit', 'aihwkit-lightning', 'badcrossbar'} and found['environment']['versions']['torch']==torch.__version__
    assert all(w in text for w in ('| fine, speed | fast |', '| error | 0.5 |', 'needs a GPU', 'aihwkit (peer)')) and text.count('contender |')==1
    with pytest.raises(ConfigError, match='holds a finished run'): run_all_benches('quick', tmp_path/'out', names=faked[:3])
    with pytest.raises(ConfigError, match='holds a finished run'): run_all_benches('quick', tmp_path/'out', names=faked[:1])
    assert load_bench('fine', 'quick', tmp_path/'out')['result']['error']==.5
    text = compare_benches(page.with_suffix('.json'), tmp_path/'out'/'fine-quick.json')           # all of them with a single one
    assert '| fine, speed | fast | 1 |' in text and '**slower**' not in text

def test_only_what_is_not_installed_is_not_possible_here(tmp_path, faked):
    names = ['lacking', 'extra', 'wrong', 'moved']
    found = read_json(run_all_benches('quick', tmp_path/'out', names=names).with_suffix('.json'))['benches']
    assert [found[n]['status'] for n in names]==['not possible here', 'not possible here', 'failed', 'failed'] and 'a field is wrong' in found['wrong']['reason']

def test_named_benches_are_known_without_asking_for_all_names(tmp_path):
    code = "from analognn.core import ConfigError; from analognn import bench\nbench._run_alone = lambda *a: dict(status='failed', seconds=0., reason='')\nprint(bench.run_all_benches('quick', 'out', names=['sweep']))"
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split()==['out/all-quick.md'], done.stderr

def test_a_run_is_finished_when_its_page_is_there(tmp_path, faked, monkeypatch):
    monkeypatch.setattr(module, 'bench_page', lambda found: 1/0)
    with pytest.raises(ZeroDivisionError): run_all_benches('quick', tmp_path/'out', names=['fine'])
    monkeypatch.undo()
    assert not read_json(tmp_path/'out'/'manifest.json')['finished']

def test_all_go_on_where_they_were_interrupted(tmp_path, faked):
    (tmp_path/'log.wait').touch()
    def interrupt():
        while 'slow' not in ((tmp_path/'log').read_text() if (tmp_path/'log').exists() else ''): time.sleep(.02)
        os.kill(os.getpid(), signal.SIGINT)
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt): run_all_benches('quick', tmp_path/'out', names=['fine', 'slow'])
    watcher.join()
    (tmp_path/'log.wait').unlink()
    page = run_all_benches('quick', tmp_path/'out', names=['fine', 'slow'])
    assert (tmp_path/'log').read_text().split()==['fine', 'slow', 'slow'] and read_json(page.with_suffix('.json'))['benches']['slow']['result']==dict(x=1)

def stored(path, factor=2., baseline=1., noise=.01, **environment):
    times = np.random.default_rng(0).normal(1., noise, (25, 2))*[baseline, baseline*factor]
    result = module._record(dict(speed=Race(('plain', 'code'), times, times[0], 'plain', 1), error=factor))
    return module.write_json(path, dict(name='made', mode='quick', environment={**module.environment(), **environment}, result=result))

@pytest.mark.parametrize('factor, noise, marked', [(2., .01, False), (2.02, .2, False), (3., .01, 'slower'), (1.5, .01, 'faster')])
def test_what_changed_beyond_its_interval_is_marked(tmp_path, factor, noise, marked):
    text = compare_benches(stored(tmp_path/'a.json', noise=noise), stored(tmp_path/'b.json', factor, noise=noise))
    row = next(l for l in text.splitlines() if l.startswith('| made, speed | code |'))
    assert [c.strip() for c in row.split('|')][-2]==(f'**{marked}**' if marked else '') and ('| made, error |' in text)==(factor!=2.)

def test_a_slower_machine_slows_times_and_no_ratios(tmp_path):
    text = compare_benches(stored(tmp_path/'a.json'), stored(tmp_path/'b.json', baseline=2., cpu='another'))
    rows = [[c.strip() for c in l.split('|')[1:-1]] for l in text.splitlines() if l.startswith('| made, speed')]
    assert [r[2:4] for r in rows]==[['2', 'slower']]*2 and all(r[-1]=='' for r in rows) and '| processor |' in text and 'Not measured under equal' in text

def test_what_can_not_be_compared_is_refused(tmp_path):
    (tmp_path/'no.json').write_text('{"a": 1}')
    a = stored(tmp_path/'a.json')
    b = module.write_json(tmp_path/'b.json', dict(name='other', mode='quick', environment=module.environment(), result=dict(y=1)))
    for other, said in ((tmp_path/'no.json', 'not the result of a bench'), (b, 'no bench in common')):
        with pytest.raises(ConfigError, match=said): compare_benches(a, other)

def all_of(path, mode='quick', **benches): return module.write_json(path, dict(mode=mode, environment=module.environment(), benches=benches))

def ok(**result): return dict(status='done', seconds=1., result=result)

def test_lists_lone_numbers_and_benches_that_ended_otherwise_are_shown(tmp_path):
    a = all_of(tmp_path/'a.json', m=ok(runs=[dict(x=1., y=2), [3.]], old=1), n=ok(z=1.), only=ok())
    b = all_of(tmp_path/'b.json', m=ok(runs=[dict(x=1., y=2), [4.]], new=1), n=dict(status='failed', seconds=1., reason='boom'))
    text = compare_benches(a, b)
    assert '| m, runs, 1, 0 | 3 | 4 |' in text and 'm, runs, 0, x' not in text and '| n | done | failed |' in text
    assert 'In one of them alone: m, new; m, old; only.' in text
    same = compare_benches(a, a)
    assert 'differ' not in same and 'alone' not in same

def test_words_in_common_are_a_bench_in_common(tmp_path):
    a = all_of(tmp_path/'a.json', m=ok(note='no number'))
    assert 'The same machine and versions' in compare_benches(a, a)

@pytest.mark.parametrize('left_out', ['mode', 'environment', 'name', 'cpu'])
def test_a_result_file_that_lacks_a_key_is_refused(tmp_path, left_out):
    whole = read_json(stored(tmp_path/'a.json'))
    for table in (whole, whole['environment']): table.pop(left_out, None)
    module.write_json(tmp_path/'b.json', whole)
    with pytest.raises(ConfigError, match='not the result of a bench'): compare_benches(tmp_path/'a.json', tmp_path/'b.json')
