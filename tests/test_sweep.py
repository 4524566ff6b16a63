import itertools, json, math, os, signal, sqlite3, subprocess, sys, threading, time, warnings
from collections import Counter
from functools import partial

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.core import AnalogError, ConfigError, EngineError, as_done, pmap
from analognn.sweep import _points_of, grid, load_spec, load_sweep, run_study, run_sweep

def square(x): return x*x

few = settings(max_examples=30, deadline=None)
alone = dict(n_workers=1, progress=False)

# Points

@few
@given(st.dictionaries(st.sampled_from('abcd'), st.lists(st.integers(), max_size=4)))
def test_a_grid_has_all_combinations(axes):
    points = grid(**axes)
    assert len(points)==math.prod(map(len, axes.values())) and all(list(p)==list(axes) for p in points)
    assert [tuple(p.values()) for p in points]==list(itertools.product(*axes.values()))

@pytest.mark.parametrize('axis', ['ngspice', b'x', 3, None, {'a': 1}])
def test_an_axis_is_a_list(axis):
    with pytest.raises(ConfigError, match='expected a list'): grid(a=[1], b=axis)

# Results

def show(**point): return dict(kind=' '.join(type(v).__name__ for v in point.values()))

def test_rows_stand_in_the_order_of_the_points(tmp_path):
    points = grid(x=[3., 1., 2.])
    t = run_sweep(square, points+points[:1], tmp_path/'t.db', **alone)
    assert t.columns.tolist()==['x', 'value', 'failure'] and t.value.tolist()==[9, 1, 4, 9]
    assert load_sweep(tmp_path/'t.db').value.tolist()==[9, 1, 4]      # a point that is asked for twice is there once
    assert run_sweep(square, points[::-1], tmp_path/'t.db', **alone).value.tolist()==[4, 1, 9]

def test_functions_get_the_points_as_they_were(tmp_path):
    t = run_sweep(show, [dict(a=np.arange(2), b=torch.ones(2), c=np.float32(1), d=(1, 2))], tmp_path/'t.db', **alone)
    assert t.kind[0]=='ndarray Tensor float32 tuple' and t.a[0]==[0, 1]

@few
@given(st.dictionaries(st.sampled_from('pqr'), st.floats() | st.integers(-2**60, 2**60) | st.text() | st.booleans() | st.none() | st.lists(st.floats()), min_size=1))
def test_results_come_back_as_they_were(tmp_path_factory, result):
    path = tmp_path_factory.mktemp('sweep')/'t.db'
    def f(x): return result
    row = run_sweep(f, [dict(x=math.inf)], path, **alone).astype(object).iloc[0]
    assert row.x==math.inf and all(np.array_equal(row[k], v, equal_nan=True) if isinstance(v, (float, list)) else row[k]==v or (v is None and row[k] is None) for k,v in result.items())

@pytest.mark.parametrize('how', [dict(n_workers=2), dict(n_workers=3, backend='threading')])
def test_workers_change_nothing(tmp_path, how):
    points = grid(x=[float(v) for v in range(12)])
    one, many = run_sweep(square, points, tmp_path/'one.db', **alone), run_sweep(square, points, tmp_path/'many.db', progress=False, **how)
    assert one.equals(many) and load_sweep(tmp_path/'one.db').equals(load_sweep(tmp_path/'many.db'))

def test_more_points_are_added_and_old_ones_kept(tmp_path):
    calls = []
    def f(x): calls.append(x); return x
    run_sweep(f, grid(x=[1, 2]), tmp_path/'t.db', **alone)
    assert run_sweep(f, grid(x=[2, 3]), tmp_path/'t.db', **alone).value.tolist()==[2, 3]
    assert calls==[1, 2, 3] and load_sweep(tmp_path/'t.db').x.tolist()==[1, 2, 3]

def test_no_points_is_an_empty_table(tmp_path):
    assert len(run_sweep(square, [], tmp_path/'t.db', **alone))==0 and len(load_sweep(tmp_path/'t.db'))==0

# Failures

def test_failures_are_kept_and_retried_when_asked(tmp_path):
    broken, calls = [True], []
    def f(x):
        calls.append(x)
        if broken[0] and x==1: raise ZeroDivisionError('one')
        return dict(y=x)
    def again(**kw):
        with warnings.catch_warnings(record=True) as said: warnings.simplefilter('always'); return run_sweep(f, grid(x=[0, 1, 2]), tmp_path/'t.db', **alone, **kw), said
    t, said = again()
    assert t.failure.tolist()[1]=='ZeroDivisionError: one' and t.y.tolist()[::2]==[0, 2] and '1 of 3 points failed' in str(said[0].message)
    broken[0] = False
    assert again()[0].failure.notna().tolist()==[False, True, False]
    t, said = again(retry=True)
    assert t.y.tolist()==[0, 1, 2] and t.failure.isna().all() and not said and Counter(calls)=={0: 1, 1: 2, 2: 1}

@pytest.mark.parametrize('result, said', [(dict(x=1), "names \\['x'\\]"), (dict(failure=1), 'failure'), (dict(y=print), 'JSON'), (object(), 'JSON')])
def test_results_that_fit_no_table_are_failures(tmp_path, result, said):
    def f(x): return result
    with pytest.warns(UserWarning, match=said): run_sweep(f, grid(x=[1]), tmp_path/'t.db', **alone)

def test_bad_input_is_refused(tmp_path):
    (tmp_path/'text').write_text('no table, but a text of some length. '*100)
    run_sweep(square, grid(x=[1]), tmp_path/'t.db', **alone)
    with sqlite3.connect(tmp_path/'other.db') as db: db.execute('create table notes (a)')
    for call, error in [(lambda: run_sweep(square, [1], tmp_path/'new.db'), ConfigError), (lambda: run_sweep(square, [dict(f=print)], tmp_path/'new.db'), ConfigError),
                        (lambda: run_sweep(show, grid(x=[1]), tmp_path/'t.db'), ConfigError), (lambda: run_sweep(square, [], tmp_path/'text'), ConfigError),
                        (lambda: run_sweep(square, [], tmp_path), ConfigError), (lambda: load_sweep(tmp_path/'new.db'), AnalogError), (lambda: load_sweep(tmp_path/'text'), AnalogError),
                        (lambda: load_sweep(tmp_path/'other.db'), AnalogError)]:
        with pytest.raises(error): call()
    assert (tmp_path/'text').read_text().startswith('no table') and not (tmp_path/'new.db').exists()

def scale(a, k): return a*k

def test_a_table_tells_functions_apart(tmp_path):
    "Another partial, another module's function of the same name, or a lambda would be given points that are not its own"
    points, path = grid(a=[1, 2]), tmp_path/'p.db'
    once = lambda **bound: run_sweep(partial(scale, **bound), points, path, **alone).value.tolist()
    assert once(k=1)==once(k=1)==[1, 2]
    for bound in (dict(k=10), dict(k=1.5)):
        with pytest.raises(ConfigError, match='holds the points of .*scale with'): once(**bound)
    namesake = lambda: 0
    namesake.__qualname__, namesake.__module__ = square.__qualname__, 'another'
    run_sweep(square, grid(x=[1]), tmp_path/'s.db', **alone)
    with pytest.raises(ConfigError, match='holds the points of'): run_sweep(namesake, grid(x=[1]), tmp_path/'s.db', **alone)
    assert run_sweep(lambda a: a, points, tmp_path/'l.db', **alone).value.tolist()==[1, 2]
    with pytest.raises(ConfigError, match='a lambda has no name'): run_sweep(lambda a: 10*a, points, tmp_path/'l.db', **alone)

def test_what_a_partial_binds_must_fit_json(tmp_path):
    with pytest.raises(ConfigError, match='the partial binds'): run_sweep(partial(scale, k=print), grid(a=[1]), tmp_path/'p.db', **alone)

def test_an_argument_named_as_a_column_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="argument 'failure'"): run_sweep(show, grid(failure=[1]), tmp_path/'t.db', **alone)
    assert not (tmp_path/'t.db').exists()

# Killed

script = '''
import os, sys, time
from analognn.sweep import grid, run_sweep

def slow(i, log):
    time.sleep(.05)
    with open(log, 'a') as f: f.write(f'{i}\\n')
    return i*i

if __name__=='__main__':
    run_sweep(slow, grid(i=range(40), log=[sys.argv[2]]), sys.argv[1], n_workers=int(sys.argv[3]), progress=False)
'''

def finished(path):
    "Results in the table, by point; read while it is being written"
    if not path.exists(): return {}
    try:
        with sqlite3.connect(path, timeout=60) as db: return {json.loads(p)['i']: json.loads(v)['value'] for p,v in db.execute('select point, value from points where value is not null')}
    except sqlite3.OperationalError: return {}       # the table is not made yet

@pytest.mark.parametrize('n_workers, goals', [(1, [6, 14]), (2, [8])])
def test_a_killed_sweep_loses_nothing_and_doubles_nothing(tmp_path, n_workers, goals):
    (tmp_path/'s.py').write_text(script)
    table, log = tmp_path/'t.db', tmp_path/'log'
    command = [sys.executable, tmp_path/'s.py', table, log, str(n_workers)]
    for goal in goals:
        p = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic()+40
        while len(finished(table))<goal and time.monotonic()<deadline: time.sleep(.01)
        os.killpg(p.pid, signal.SIGKILL); p.wait()
        kept = finished(table)
        assert goal<=len(kept)<40 and all(v==i*i for i,v in kept.items())
    subprocess.run(command, check=True)
    t, runs = load_sweep(table), Counter(map(int, log.read_text().split()))
    assert t.i.tolist()==list(range(40)) and t.value.tolist()==[i*i for i in range(40)]
    assert set(runs)==set(range(40)) and sum(runs.values())<=40+len(goals)*n_workers       # a kill repeats what was running, no more

def test_two_sweeps_share_a_table(tmp_path):
    points, results = grid(x=[float(v) for v in range(30)]), []
    work = lambda: results.append(run_sweep(square, points, tmp_path/'t.db', **alone))
    both = [threading.Thread(target=work) for _ in range(2)]
    for t in both: t.start()
    for t in both: t.join()
    assert len(results)==2 and all(r.value.tolist()==[v*v for v in range(30)] for r in results) and len(load_sweep(tmp_path/'t.db'))==30

# Results as they come

def test_results_come_as_they_are_finished():
    late = threading.Event()
    def f(i):
        if i==0: assert late.wait(30)
        return i*i
    seen = []
    for i,v in as_done(f, range(5), 2, 'threading', progress=False):
        seen.append((i, v))
        if len(seen)==4: late.set()
    assert seen==[(1, 1), (2, 4), (3, 9), (4, 16), (0, 0)]

def dies(i):
    if i==1: os.kill(os.getpid(), signal.SIGKILL)
    return i

def test_a_local_worker_that_dies_is_an_error_and_what_was_done_stays(tmp_path):
    with pytest.raises(EngineError, match='worker process died'): run_sweep(dies, grid(i=[0, 1, 2, 3]), tmp_path/'t.db', 2, progress=False)
    done = load_sweep(tmp_path/'t.db')                 # the worker may die before any other point is done
    assert done.empty or set(done.value)<={0, 2, 3} and done.failure.isna().all()

@pytest.mark.parametrize('how, said', [(dict(backend='slurm'), "backend is 'slurm'; allowed: loky, threading, dask, ray"), (dict(address='tcp://a:1'), 'address'), (dict(backend='loky', address='tcp://a:1'), 'address'),
                                       (dict(n_workers=-1), 'n_workers is -1')])
def test_bad_workers_are_refused(tmp_path, how, said):
    with pytest.raises(ConfigError, match=said): run_sweep(square, grid(x=[1]), tmp_path/'t.db', progress=False, **how)

@pytest.mark.parametrize('backend, extra', [('dask', 'sweep'), ('ray', 'ray')])
def test_a_missing_extra_is_named(monkeypatch, backend, extra):
    monkeypatch.setattr('analognn.core.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'analognn\[{extra}\]'"): pmap(square, [1], backend=backend, progress=False)

def numbers(i, log):
    "Numbers whose last bits depend on the order of the sums, and a line in a log"
    g = torch.Generator().manual_seed(i)
    a = torch.randn(300, 300, generator=g)
    time.sleep(.03)
    with open(log, 'a') as f: f.write(f'{i}\n')
    return dict(norm=(a@a).norm().item(), mean=a.exp().mean().item(), noise=np.random.default_rng(i).normal(size=3))

def logged(log): return Counter(map(int, log.read_text().split())) if log.exists() else Counter()

@pytest.fixture(scope='module')
def cluster():
    "A Dask cluster of three worker processes on this machine"
    distributed = pytest.importorskip('distributed', reason='dask is not installed: clusters were not tested')
    import dask
    with dask.config.set({'distributed.scheduler.allowed-failures': 1}), distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None, silence_logs=50) as c: yield c


def test_a_killed_worker_of_a_cluster_loses_and_doubles_nothing(cluster, tmp_path):
    "One of three workers is killed when a third of the points is done; rows, order and bits are those of a plain loop"
    points, log, alone_log = range(40), tmp_path/'log', tmp_path/'alone'
    pids = {w.process.pid for w in cluster.workers.values()}
    def kill():
        while len(logged(log))<13: time.sleep(.01)
        os.kill(min(pids), signal.SIGKILL)
    killer = threading.Thread(target=kill)
    killer.start()
    there = run_sweep(partial(numbers, log=str(log)), grid(i=points), tmp_path/'dask.db', backend='dask', address=cluster.scheduler_address, progress=False)
    killer.join()
    here = run_sweep(partial(numbers, log=str(alone_log)), grid(i=points), tmp_path/'one.db', **alone)
    assert there.equals(here) and there.failure.isna().all() and there.i.tolist()==list(points)
    assert load_sweep(tmp_path/'dask.db').equals(load_sweep(tmp_path/'one.db'))
    assert set(logged(log))==set(points) and min(pids) not in {w.process.pid for w in cluster.workers.values() if w.process}

def kills(i):
    if i==2: os.kill(os.getpid(), signal.SIGKILL)
    return i

def test_a_point_that_kills_every_worker_is_a_failure_and_no_more(cluster, tmp_path):
    with pytest.warns(UserWarning, match='1 of 5 points failed, the first with KilledWorker'):
        t = run_sweep(kills, grid(i=range(5)), tmp_path/'t.db', backend='dask', address=cluster.scheduler_address, progress=False)
    assert t.value.dropna().tolist()==[0, 1, 3, 4]

def test_a_coordinator_of_a_cluster_that_is_killed_goes_on(cluster, tmp_path):
    (tmp_path/'s.py').write_text(script.replace('n_workers=int(sys.argv[3])', "backend='dask', address=sys.argv[3]"))
    table, log = tmp_path/'t.db', tmp_path/'log'
    command = [sys.executable, tmp_path/'s.py', table, log, cluster.scheduler_address]
    p = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic()+40
    while len(finished(table))<8 and time.monotonic()<deadline: time.sleep(.01)
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    kept = finished(table)
    assert 8<=len(kept)<40
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    t = load_sweep(table)
    assert t.i.tolist()==list(range(40)) and t.value.tolist()==[i*i for i in range(40)]
    assert all(logged(log)[i]==1 for i in kept)              # what was in the table is not computed again

def test_an_address_without_a_scheduler_is_refused(tmp_path, monkeypatch):
    pytest.importorskip('distributed', reason='dask is not installed: clusters were not tested')
    monkeypatch.setattr('analognn.core._dask_client.__wrapped__.__defaults__', (.5,))
    start = time.monotonic()
    with pytest.raises(ConfigError, match="'tcp://127.0.0.1:9': no Dask scheduler answers"): run_sweep(square, grid(x=[1]), tmp_path/'t.db', backend='dask', address='tcp://127.0.0.1:9', progress=False)
    assert time.monotonic()-start<15

def test_ray_gives_the_same(tmp_path):
    pytest.importorskip('ray', reason='ray is not installed: its clusters were not tested')
    points = grid(i=range(12), log=[str(tmp_path/'log')])
    assert run_sweep(numbers, points, tmp_path/'ray.db', 2, 'ray', progress=False).equals(run_sweep(numbers, points, tmp_path/'one.db', **alone))

# Specs

def test_all_points_of_a_spec_share_what_is_common(tmp_path):
    (tmp_path/'s.yaml').write_text('study: geosparse\ncommon: {task: field, epochs: 3}\ngrids: [{seed: [0, 1]}]')
    assert load_spec(tmp_path/'s.yaml').common==dict(task='field', epochs=3)
    (tmp_path/'s.yaml').write_text('study: geosparse\ncommon: {tusk: field}\ngrids: [{seed: [0, 1]}]')
    with pytest.raises(ConfigError, match='tusk: unknown key'): load_spec(tmp_path/'s.yaml')

def test_a_point_that_a_spec_names_twice_is_there_once(tmp_path):
    (tmp_path/'s.yaml').write_text('study: geosparse\ncommon: {task: field}\ngrids: [{seed: [0, 1]}, {seed: [1, 2], task: [field]}]')
    assert [p['seed'] for p in _points_of(load_spec(tmp_path/'s.yaml'))]==[0, 1, 2]
