"Learning by spike times: the loss, the loop, its folder and command; detectors"
import math, subprocess, sys
import pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn.core import ConfigError, stream
from analognn.first_spike import ClockedDetector, SpikeDetector, order_patterns, train_detector
from analognn.spice import run_ngspice
from analognn.temporal import (Knob, Stimulus, TemporalConfig, all_knobs, anchor, around, energy_weight_at, gradient_by_adjoint, gradient_by_differences, loss_terms, measure,
                               moved, published_knobs, run_temporal, simulate_stimulus, step_of, total)

program = [sys.executable, '-c', 'import sys; from analognn.cli import main; sys.exit(main())']
short = dict(t_stop_ns=30., train=[4.5, 5.5], holdout=[6.5], expected='anchor', iters=2, engine='transient')

def table(path): return pd.read_csv(path/'temporal_gradient_learning.csv')
def files(path): return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob('*') if p.is_file() and p.name!='manifest.json'}

# The loss

spike_times = st.lists(st.floats(1., 50.), min_size=4, max_size=4)

@given(spike_times, spike_times, st.lists(st.integers(0, 30), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_loss_by_a_loop(first, target, count):
    cfg = TemporalConfig()
    as_row = lambda v: torch.tensor([v], dtype=torch.float64)
    got = loss_terms(cfg, dict(first=as_row(first), count=as_row(count), energy=torch.tensor([120.], dtype=torch.float64)), as_row(target), as_row([15.]*4), 134., 2.)
    late = [max(0., a+.2-b) for a,b in zip(first, first[1:])]
    wanted = sum((a-b)**2 for a,b in zip(first, target))/4, 12*sum(abs(c-15) for c in count), 35*sum(v*v for v in late), 2*120/134
    assert [v.item() for v in got.values()]==pytest.approx(wanted, rel=1e-12, abs=1e-9)

def test_a_failed_simulation_is_a_number():
    nothing = dict(first=torch.full((1, 4), math.nan), count=torch.zeros(1, 4), energy=torch.tensor([math.nan]))
    terms = loss_terms(TemporalConfig(), nothing, torch.zeros(1, 4), torch.full((1, 4), 15.), 134., 2.)
    assert [v.item() for v in terms.values()]==[400., 720., 0., 2.]

def failing(monkeypatch, at=None):
    "Let `transient` fail, everywhere or where the first pulse is at `at` ns"
    from analognn import temporal
    from analognn.core import ConvergenceError
    real = temporal.transient
    def fail(ckt, *how):
        td = torch.as_tensor(ckt.components['vpre_0'].volt.td).flatten()*1e9
        if at is None or any(abs(td-at)<1e-9): raise ConvergenceError('no way')
        return real(ckt, *how)
    monkeypatch.setattr(temporal, 'transient', fail)

def test_a_run_that_does_not_converge_leaves_its_reason(monkeypatch):
    failing(monkeypatch)
    m = simulate_stimulus((TemporalConfig(**short), dict(r_fb=1.), 5.))
    assert m['reason']==['ConvergenceError: no way'] and m['first'].isnan().all() and m['count'].sum()==0

def test_a_stimulus_that_fails_leaves_the_others_their_gradients(monkeypatch):
    cfg = TemporalConfig(**{**short, 'method': 'adjoint'})
    anchored, x = anchor(cfg), dict(r_fb=1.1, rleak=8., iin_amp=1.75)
    failing(monkeypatch, at=4.5)
    g, m = gradient_by_adjoint(cfg, anchored, x, 0)
    assert m['reason']==['ConvergenceError: no way', ''] and m['how']==['transient']*2
    alone = cfg.model_copy(update=dict(train=[5.5]))
    other, _ = gradient_by_adjoint(alone, {**anchored, 'target': dict(train=anchored['target']['train'][1:]), 'expected': dict(train=anchored['expected']['train'][1:])}, x, 0)
    for k in g: assert g[k]==pytest.approx(other[k]/2, rel=1e-9) and other[k]!=0

def test_the_rung_of_ngspice_is_in_the_trace(ngspice, tmp_path, monkeypatch):
    from analognn import spice
    monkeypatch.setattr(spice, 'transient_rungs', {'source stepping': spice.transient_rungs['source stepping']})
    out = run_temporal(TemporalConfig(**{**short, 'engine': 'ngspice', 'iters': 0}), tmp_path/'out')
    assert set(pd.read_csv(out/'temporal_gradient_trace.csv').how)=={'ngspice, source stepping'}

@given(st.floats(-1e6, 1e6), st.floats(.5, 2.))
@settings(deadline=None)
def test_steps_stay_in_bounds(g, x):
    cfg, knob = TemporalConfig(knobs={'r_fb': Knob(max_step=.3)}), Knob(max_step=.3)
    new = moved({'r_fb': x}, {'r_fb': g}, cfg)['r_fb']
    assert .5<=new<=2. and abs(new-x)<=.3+1e-12 and (new-x)*g<=0
    low, high, span = around({'r_fb': x}, 'r_fb', knob)
    assert .5<=low['r_fb']<high['r_fb']<=2. and span==high['r_fb']-low['r_fb']

def test_energy_weight_schedule():
    cfg = TemporalConfig(iters=4, energy_weight=2., energy_weight_end=1.)
    assert [energy_weight_at(cfg, k) for k in range(5)]==[2., 1.75, 1.5, 1.25, 1.]
    assert energy_weight_at(TemporalConfig(), 6)==2.

def test_stress_modes_of_the_source(ngspice):
    m, = measure(TemporalConfig(), [dict(iin_amp=1.8)], [4.5, 5.5, 7.5])
    terms = lambda **kw: loss_terms(TemporalConfig(**kw), m, torch.zeros(3, 4), torch.ones(3, 4), 134., 2.)
    assert terms()['count'].mean().item()==672.
    assert terms(order_margin_ns=5.)['order'].mean().item()==pytest.approx(1514.8, rel=5e-3)

def test_absolute_mode_of_the_source(ngspice):
    cfg = TemporalConfig(target_mode='absolute', energy_weight=.03)
    a = anchor(cfg)
    m, = measure(cfg, [dict(iin_amp=1.8)], [4.5, 5.5, 7.5])
    assert a['target']['train'][2].tolist()==pytest.approx([9.388+2.5, 11.896+2.5, 12.985+2.5, 13.640+2.5])
    assert 0<total(loss_terms(cfg, m, a['target']['train'], a['expected']['train'], a['energy_ref'], .03)).item()<.15

# Gradients

def test_adjoint_of_many_knobs_against_differences():
    names = ['iin_amp', 'r_fb', 'Rcouple_1.ohm', 'Msyn_2.w', 'Mreset_0.w', 'Ma_up_3.w']
    knobs = {n: v.model_copy(update=dict(step=1e-6, high=10.)) for n,v in (all_knobs() | published_knobs).items() if n in names}
    cfg = TemporalConfig(**{**short, 'method': 'adjoint', 'knobs': knobs})
    anchored, x = anchor(cfg), {k: 1.75 if k=='iin_amp' else 1.01 for k in knobs}
    exact, _ = gradient_by_adjoint(cfg, anchored, x, 0)
    close, _ = gradient_by_differences(cfg, anchored, x, 0)
    for k in names: assert exact[k]==pytest.approx(close[k], rel=2e-5, abs=1e-5)

# A run

@pytest.fixture(scope='module')
def finished(tmp_path_factory): return run_temporal(TemporalConfig(**short), tmp_path_factory.mktemp('run')/'out')

def test_files_of_a_run(finished):
    names = set(files(finished))
    assert {'temporal_gradient_learning.csv', 'temporal_gradient_trace.csv', 'temporal_gradient_learning_summary.md', 'temporal_gradient_learning_loss.svg', 'config.yaml'}<=names
    assert {f'netlists/iteration_{k}.{e}' for k in range(3) for e in ('cir', 'scs')}<=names
    t = table(finished)
    assert t.iter.tolist()==[0, 1, 2] and (t[['timing_pct', 'count_pct', 'order_pct', 'energy_pct']].sum(axis=1)-100).abs().max()<1e-6
    assert TemporalConfig.load(finished/'config.yaml')==TemporalConfig(**short)

def test_netlist_of_an_iteration_runs(finished, ngspice): assert run_ngspice((finished/'netlists'/'iteration_1.cir').read_text())[0]['time'][-1]==pytest.approx(3e-8)

def test_workers_do_not_matter(finished, tmp_path): assert files(run_temporal(TemporalConfig(**short), tmp_path/'two', workers=2))==files(finished)

@pytest.mark.parametrize('method', ['differences', 'adjoint'])
def test_interrupted_and_resumed(method, tmp_path, monkeypatch):
    from analognn import temporal
    cfg = TemporalConfig(**{**short, 'method': method})
    whole, real = run_temporal(cfg, tmp_path/'whole'), temporal.iteration
    def interrupted(cfg, anchored, state, k, workers):
        if k==1: raise KeyboardInterrupt
        return real(cfg, anchored, state, k, workers)
    monkeypatch.setattr(temporal, 'iteration', interrupted)
    with pytest.raises(KeyboardInterrupt): run_temporal(cfg, tmp_path/'cut')
    monkeypatch.setattr(temporal, 'iteration', lambda cfg, a, s, k, w: real(cfg, a, s, k, w) if k else pytest.fail('iteration 0 was done'))
    assert files(run_temporal(cfg, tmp_path/'cut'))==files(whole)

def test_workers_are_counted_from_one(tmp_path):
    with pytest.raises(ConfigError, match='workers is 0'): run_temporal(TemporalConfig(**short), tmp_path/'out', workers=0)
    assert not (tmp_path/'out').exists()

def test_folder_in_use(finished):
    with pytest.raises(ConfigError, match='finished'): run_temporal(TemporalConfig(**short), finished)

def test_patterns_train_too(tmp_path):
    pair = Stimulus(delay=[5., 6., 5., 5.], height=[1., 1., 0., 0.])
    t = table(run_temporal(TemporalConfig(**{**short, 'train': [pair, 5.], 'order_weight': 0., 'method': 'adjoint'}), tmp_path/'out'))
    assert t.loss.iloc[-1]<t.loss.iloc[0]

@pytest.mark.slow
@pytest.mark.parametrize('split, figures, rel', [('all', [3.008759, 2.290754, 2.991241, 2.276373], .01), ('train', [3., 2.274472, 2.982752, 2.257778], 1e-4)])
def test_published_run(split, figures, rel, ngspice, tmp_path):
    t = table(run_temporal(TemporalConfig(anchor_split=split), tmp_path/'out', workers=2))
    assert [t.loss[0], t.loss[6], t.holdout_loss[0], t.holdout_loss[6]]==pytest.approx(figures, rel=rel)

@pytest.mark.slow
def test_stress_and_absolute_modes_learn(ngspice, tmp_path):
    order = table(run_temporal(TemporalConfig(anchor_split='all', order_margin_ns=5., iters=1), tmp_path/'order', workers=2))
    absolute = table(run_temporal(TemporalConfig(target_mode='absolute', energy_weight=.03, iters=4), tmp_path/'absolute', workers=2))
    assert order.order[1]<order.order[0] and (absolute.loss.diff().dropna()<0).all()

# Bad input

@pytest.mark.parametrize('given, said', [
    (dict(train=[-1.]), 'delay holds -1'), (dict(train=[float('nan')]), 'train'), (dict(train=['x']), 'train'), (dict(train=[]), 'train'), (dict(t_stop_ns=4.), 'before t_stop_ns'),
    (dict(knobs={'r_fb': dict(low=2., high=1.)}), 'low below high'), (dict(knobs={'r_fb': dict(start=-3.)}), 'within the bounds'), (dict(knobs={'r_fb': dict(step=0.)}), 'step'),
    (dict(knobs={'Rnone.ohm': {}}), 'unknown knob'), (dict(target_mode='later'), 'target_mode'), (dict(shift_ns=[1.]), 'shift_ns'), (dict(knobs={'iin_amp': dict(high=float('inf'))}), 'high'),
    (dict(train=[dict(height=[0., 0., 0., 0.])]), 'no input fires')])
def test_bad_configurations_are_named(given, said):
    with pytest.raises(ConfigError, match=said): TemporalConfig.make({**short, **given})

def test_no_spikes_at_the_start():
    silent = TemporalConfig.make({**short, 'knobs': dict(iin_amp=dict(start=.3, low=.1, high=1.8))})
    with pytest.raises(ConfigError, match='no spikes'): anchor(silent)

def test_command(tmp_path):
    argv = ['temporal', '--iters', '1', '--train', '4.5', '--holdout', '6', '--t-stop-ns', '30', '--method', 'adjoint', '--out', 'out']
    r = subprocess.run([*program, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert r.returncode==0 and r.stdout.strip().splitlines()[-1]=='results: out' and (tmp_path/'out'/'temporal_gradient_learning.csv').exists()
    again = subprocess.run([*program, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode==2 and '--force' in again.stderr

# Detectors

def test_patterns_are_their_classes():
    t, y = order_patterns(500, stream(1), jitter_ns=0.)
    gap = t[:, 1]-t[:, 0]
    assert torch.equal(y, torch.bucketize(-gap, torch.tensor([-1.6, 0., 1.6], dtype=torch.float64)))

def test_detector_repeats_itself_and_learns():
    def run():
        model = SpikeDetector(generator=stream(0, 'init'))
        return train_detector(model, stream(0, 'train'), steps=4, mismatch=.05, batch=16), model.log_scale.detach()
    (a, x), (b, y) = run(), run()
    assert a==b and torch.equal(x, y)

def test_clock_hides_what_lies_within_a_tick():
    model = ClockedDetector(1., generator=stream(0))
    assert torch.equal(model(torch.tensor([[2.1, 3.2]]).double()), model(torch.tensor([[2.9, 3.9]]).double()))

def test_energy_of_the_clocked_detector_by_hand():
    "In 45 nm: 40 ticks of 8-bit additions for each GHz, and 36 products"
    slow, fast = (ClockedDetector(f).energy(45, generator=stream(0)) for f in (1., 2.))
    assert fast.value-slow.value==pytest.approx(40*.1e-12*8/32, rel=1e-6)
    add = lambda n_in: .1e-12*(16+math.log2(n_in))/32
    assert slow.value==pytest.approx(40*.1e-12*8/32+12*(.2e-12+add(2))+24*(.2e-12+add(6)), rel=1e-6)
    assert slow.low<slow.value<slow.high
    with pytest.raises(ConfigError, match='node is 44'): ClockedDetector(1.).energy(44, generator=stream(0))
