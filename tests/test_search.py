"Architecture search: dominance, hypervolume, early stopping, resumption, the command"
import itertools, os, runpy, signal, sqlite3, subprocess, sys, time

import numpy as np, pandas as pd, pytest, torch, yaml
from hypothesis import given, settings, strategies as st

from analognn.cli import main
from analognn.core import ConfigError, ShapeError, read_json, stream
from analognn.energy import energy_nodes
from analognn.memory import PCM
from analognn.nn import MLP
from analognn.nonideal import Hardware
from analognn.search import (Candidate, Objectives, SearchConfig, SearchSpace, accuracy_of_chips, all_candidates, area_constants, array_area, candidates_table, chip_buffers, composite_score, evaluate_candidate, hypervolume,
                             in_arrays, is_hopeless, open_study, pareto_front, replay_stops, run_search, search_candidates, search_data, search_trials, sparse_mlp)

few = settings(max_examples=60, deadline=None)

@st.composite
def points(draw, most=8):
    "Costs on a coarse grid, so that ties and equal points come up"
    n, m = draw(st.integers(0, most)), draw(st.integers(2, 4))
    return np.array([[draw(st.integers(0, 6)) for _ in range(m)] for _ in range(n)], dtype=float).reshape(n, m)

def dominates(a, b): return all(a<=b) and any(a<b)

# Dominance and hypervolume

@few
@given(points())
def test_a_front_is_what_nothing_dominates(c):
    on = pareto_front(c)
    assert on.tolist()==[not any(dominates(a, b) for a in c) for b in c]
    assert all(any(dominates(a, b) for a in c[on]) for b in c[~on])       # whatever is off it is dominated by a member

@few
@given(points(5))
def test_hypervolume_is_that_of_a_union_of_boxes(c):
    "By inclusion and exclusion, which is slow and plain"
    r = np.full(c.shape[1], 5.)
    boxes = [b for b in c if (b<r).all()]
    union = sum((-1)**(k+1)*sum(np.prod(r-np.max(some, 0)) for some in itertools.combinations(boxes, k)) for k in range(1, len(boxes)+1))
    assert hypervolume(c, r)==pytest.approx(union)

@few
@given(points(), st.data())
def test_hypervolume_grows_with_points_and_ignores_the_dominated(c, data):
    r = np.full(c.shape[1], 6.)
    new = np.array([data.draw(st.integers(0, 6)) for _ in r], dtype=float)
    more = np.vstack([c, new])
    before, after = hypervolume(c, r), hypervolume(more, r)
    inside, weakly = (new<r).all(), any((a<=new).all() for a in c)
    assert (after==pytest.approx(before)) if weakly or not inside else after>before
    assert hypervolume(c[pareto_front(c)], r)==pytest.approx(before)

@few
@given(points(), st.permutations(range(4)), st.floats(-3, 3), st.floats(.1, 10))
def test_hypervolume_does_not_know_order_or_units(c, order, shift, scale):
    r, columns = np.full(c.shape[1], 6.), [k for k in order if k<c.shape[1]]
    assert hypervolume(c[::-1][:, columns]*scale+shift, r*scale+shift)==pytest.approx(hypervolume(c, r)*scale**len(r), abs=1e-6)

@pytest.mark.parametrize('call, error, words', [(lambda: pareto_front([[1, np.nan]]), ConfigError, 'NaN'), (lambda: pareto_front(3.), ShapeError, 'costs has shape'),
                                               (lambda: hypervolume([[1, 2]], [1]), ShapeError, 'reference has shape'), (lambda: hypervolume([[1, 2, 3]], [4, 4]), ShapeError, 'costs has shape'),
                                               (lambda: composite_score([[1, 2]]), ShapeError, 'costs has shape')])
def test_bad_costs_are_refused(call, error, words):
    with pytest.raises(error, match=words): call()

# Early stopping

look4 = st.lists(st.floats(-1, 1), min_size=4, max_size=4)

@few
@given(look4, st.lists(look4, max_size=5), st.floats(0, .5), st.floats(0, .5))
def test_a_wider_margin_stops_fewer(look, finished, margin, more):
    if is_hopeless(look, finished, margin+more): assert is_hopeless(look, finished, margin)
    if is_hopeless(look, finished, margin): assert any(dominates(np.array(f), np.array(look)) for f in finished) and is_hopeless(look, finished+[look], margin)

@few
@given(st.lists(st.tuples(look4, look4), min_size=1, max_size=12))
def test_who_never_gains_more_than_the_margin_is_never_missed(pairs):
    "If training improves nothing by more than the margin, and area not at all, then no member of the front is stopped"
    looks, finals = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    finals = np.maximum(finals, looks-np.array([.1, .1, .1, 0]))
    finals[:, 3] = looks[:, 3]
    assert not (replay_stops(looks, finals, .1) & pareto_front(finals)).any()

small = dict(dataset='iris', epochs=4, look_epochs=2, chips=5, look_chips=2, trials=8, population=4, space=dict(depths=[1, 2], widths=[2, 4, 8], bits=[3, 5], arrays=[2, 8], fan_ins=[None, 2]))

def searched(**change):
    cfg, study = SearchConfig.make(small | change), open_study(4)
    search_candidates(cfg, study)
    return cfg, study, candidates_table(study)

def test_stopped_candidates_are_told_as_such_and_others_are_what_they_were():
    cfg, study, table = searched(margin=0., trials=20)
    assert 0<table.stopped.sum()<20 and not table.front[table.stopped].any()
    states = {t.number: t.state.name for t in study.trials}
    assert all((states[n]=='PRUNED')==s for n, s in zip(table.trial, table.stopped))
    free, data = cfg.model_copy(update=dict(margin=None)), search_data(cfg)
    for r in table.head(5).to_dict('records'):
        e = evaluate_candidate(Candidate(tuple(r['hidden']), r['bits'], r['array'], r['activation'], None if pd.isna(r['fan_in']) else int(r['fan_in'])), free, data)
        assert list(e.look)==[r[f'look_{o}'] for o in Objectives._fields]
        if not r['stopped']: assert list(e.final)==[r[o] for o in Objectives._fields]

# The search

def test_no_candidate_is_computed_twice_and_a_small_space_ends():
    names, study = [], open_study(1)
    def evaluate(c, finished): names.append(c); return [float(c)], None
    for _ in range(2): search_trials(study, 50, lambda trial: trial.suggest_int('a', 0, 4), evaluate, population=3)
    assert sorted(names)==[0, 1, 2, 3, 4]

@pytest.mark.parametrize('method', ['evolution', 'random'])
def test_same_seed_same_search_and_interruptions_change_nothing(tmp_path, method):
    (*_, whole), (*_, other) = searched(method=method), searched(method=method, seed=1)
    assert whole.equals(searched(method=method)[2]) and not whole.equals(other)
    for trials in (1, 5, 8):
        study = open_study(4, tmp_path/'s.db')
        study.ask()                                     # as if killed
        search_candidates(SearchConfig.make(small | dict(method=method, trials=trials)), study)
    assert candidates_table(open_study(4, tmp_path/'s.db')).equals(whole)

@pytest.mark.parametrize('name', ['a?b.db', 'a#b%41.db', 'a{b}.db'])
def test_a_study_is_kept_in_the_file_that_was_named(tmp_path, name):
    open_study(1, tmp_path/name)
    assert [p.name for p in tmp_path.iterdir()]==[name]

def test_a_study_without_candidates_has_no_table():
    with pytest.raises(ConfigError, match='study holds no candidate'): candidates_table(open_study(4))

script = '''
import sys, time
from analognn.search import Objectives, open_study, search_trials

def genes(trial): return tuple(trial.suggest_int(k, 0, 15) for k in 'ab')

def slow(c, finished):
    time.sleep(.05)
    with open(sys.argv[2], 'a') as f: f.write(f'{c}\\n')
    o = Objectives(1-c[0]/16, 1-abs(c[1]-c[0])/16, 1+c[1], 17-c[0])
    return o.costs(), dict(fields=dict(a=c[0], b=c[1]), look=o._asdict(), final=o._asdict(), finished=len(finished))

def go_on(file): search_trials(open_study(4, file), 24, genes, slow, population=4, seed=3)

if __name__=='__main__': go_on(sys.argv[1])
'''

def completed(file):
    "Finished trials of a database that another process writes"
    try:
        with sqlite3.connect(f'file:{file}?mode=ro', uri=True, timeout=60) as db: return db.execute("select count(*) from trials where state='COMPLETE'").fetchone()[0]
    except sqlite3.OperationalError: return 0       # it is not made yet

def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    (tmp_path/'s.py').write_text(script)
    db, log, once = tmp_path/'s.db', tmp_path/'log', tmp_path/'once'
    p, deadline = subprocess.Popen([sys.executable, tmp_path/'s.py', db, log], start_new_session=True, stderr=subprocess.DEVNULL), time.monotonic()+100
    while completed(db)<6 and time.monotonic()<deadline: time.sleep(.01)
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    assert 6<=completed(db)<24
    go_on = runpy.run_path(str(tmp_path/'s.py'))['go_on']
    monkeypatch.setattr(sys, 'argv', ['', '', str(log)]); go_on(db)
    monkeypatch.setattr(sys, 'argv', ['', '', str(once)]); go_on(tmp_path/'whole.db')
    told = lambda file: [(t.params, t.values, t.user_attrs) for t in open_study(4, file).trials if t.state.name!='FAIL']
    killed, whole = told(db), told(tmp_path/'whole.db')
    assert sum(1 for t in killed if t[1])==24 and killed==whole
    assert candidates_table(open_study(4, db)).equals(candidates_table(open_study(4, tmp_path/'whole.db')))
    lines, wanted = log.read_text().splitlines(), once.read_text().splitlines()
    assert set(lines)==set(wanted) and len(wanted)==24 and len(lines)<=24+1       # a kill repeats what was running, no more

# Candidates

@pytest.mark.parametrize('change, words', [(dict(space=dict(widths=[0])), 'space.widths.0: 0 given'), (dict(space=dict(bits=[])), 'space.bits: \\[\\] given'), (dict(space=dict(depths=[2, 2])), 'depths holds a value twice'),
                                           (dict(space=dict(width=[2])), 'space.width: unknown key'), (dict(space=dict(fan_ins=[0])), 'fan_ins.0'), (dict(look_epochs=6), 'look_epochs is 6'), (dict(mismatch=.3), 'mismatch: 0.3'),
                                           (dict(trials=0), 'trials: 0'), (dict(population=1), 'population: 1'), (dict(node=28), 'node: 28'), (dict(method='annealing'), 'method'), (dict(margin=-.1), 'margin: -0.1')])
def test_bad_configurations_are_refused(change, words):
    with pytest.raises(ConfigError, match=words): SearchConfig.make(small | change)

def test_defaults_are_what_they_print():
    assert SearchConfig.make(yaml.safe_load(SearchConfig().commented()))==SearchConfig()
    assert len(set(map(str, all_candidates(SearchSpace()))))==len(all_candidates(SearchSpace()))

@few
@given(st.integers(1, 64), st.integers(1, 64), st.integers(2, 15), st.sampled_from(energy_nodes))
def test_area_grows_with_all_that_is_built(n_in, n_out, bits, node):
    c = {k: v.value for k, v in area_constants(node).items()}
    a = array_area(n_in, n_out, c, node, bits)
    assert 0<a<min(array_area(n_in+1, n_out, c, node, bits), array_area(n_in, n_out+1, c, node, bits), array_area(n_in, n_out, c, node, bits+1))
    assert a<array_area(n_in, n_out-n_out//2, c, node, bits)+array_area(n_in, n_out//2, c, node, bits) or n_out<2        # two arrays have two sets of input converters

@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 5), st.sampled_from([None, 1, 3]), st.sampled_from(['relu', 'tanh', 'sigmoid']), st.integers(1, 8), st.integers(0, 999))
def test_arrays_compute_what_the_network_does(hidden, n_in, n_out, fan_in, activation, array, seed):
    model, x = sparse_mlp(hidden, n_in, n_out, activation, fan_in, generator=stream(seed)), torch.randn(7, n_in, generator=stream(seed, 'x'))
    layers = [m for m in model if hasattr(m, 'weight')]
    assert all((m.weight!=0).sum(1).max()<=(fan_in or m.in_features) for m in layers[:-1]) and (layers[-1].weight!=0).all()
    fine = in_arrays(model, array, 16, Hardware(), x, generator=stream(seed))
    torch.testing.assert_close(fine(x), model(x).detach(), atol=2e-3, rtol=1e-3)
    quiet = accuracy_of_chips(fine, x, model(x).argmax(1), 3, generator=stream(seed))
    assert quiet.shape==(3,) and (quiet==quiet[0]).all()

def test_chips_that_cannot_be_stacked_are_refused():
    model = MLP([4, 3], hardware=Hardware(memory=PCM()), generator=stream(0))
    with pytest.raises(ConfigError, match='stuck cells or a memory'): chip_buffers(model, 2, generator=stream(0))
    with pytest.raises(ShapeError, match='5 inputs and 4 labels'): accuracy_of_chips(MLP([4, 3]), torch.ones(5, 4), torch.zeros(4), 2, generator=stream(0))

# The command

def test_the_command(tmp_path, capsys):
    file, out = tmp_path/'s.yaml', tmp_path/'run'
    file.write_text(yaml.safe_dump(small | dict(trials=6)))
    assert main(['search', str(file), '--out', str(out)])==0
    said = capsys.readouterr().out
    assert '6 candidates' in said and said.endswith(f'results: {out}\n')
    front = pd.read_csv(out/'front.csv')
    for o in Objectives._fields: assert ((front[f'{o}_low']<=front[o]) & (front[o]<=front[f'{o}_high'])).all()
    assert len(pd.read_csv(out/'candidates.csv'))==6 and read_json(out/'manifest.json')['finished']
    assert main(['search', str(file), '--out', str(out)])==2 and 'finished run' in capsys.readouterr().err
    file.write_text('trails: 3')
    assert main(['search', str(file)])==2 and 'trails: unknown key' in capsys.readouterr().err
    assert main(['config', 'search'])==0 and yaml.safe_load(capsys.readouterr().out)==SearchConfig().model_dump()
