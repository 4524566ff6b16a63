import itertools, json, math, os, signal, sqlite3, subprocess, sys, threading, time, warnings
from collections import Counter

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.core import AnalogError, ConfigError
from analognn.sweep import grid, load_sweep, run_sweep

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
