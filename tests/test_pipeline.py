"The pipeline and its command: resumes, repeats itself to the byte, and refuses bad input before any work is lost"
import json, os, signal, subprocess, sys, time
import pandas as pd, pytest

from analognn.core import ConfigError, EngineMissing, read_json
from analognn.pipeline import PipelineConfig, check_point, finish_pipeline_study, run_pipeline
from analognn.stats import mean_interval
from analognn.sweep import SweepSpec, _points_of

program = [sys.executable, '-c', 'import sys; from analognn.cli import main; sys.exit(main())']
small = dict(model=dict(hidden=[6], epochs=20), run=dict(repeats=2, engine='nodal'), calibration=dict(methods=['affine', 'learned'], epochs=20))

def make(**run): return PipelineConfig.make({**small, 'run': {**small['run'], **run}})

def command(*argv, cwd, **kw):
    return subprocess.run([*program, *map(str, argv)], cwd=cwd, capture_output=True, text=True, timeout=200, **kw)

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A finished run"
    return run_pipeline(make(), tmp_path_factory.mktemp('finished')/'run')

def test_same_bytes_twice_and_with_two_workers(finished, tmp_path):
    for workers in (1, 2):
        again = run_pipeline(make(workers=workers), tmp_path/str(workers))
        assert (again/'results.json').read_bytes()==(finished/'results.json').read_bytes()

def test_same_bytes_with_ngspice(ngspice, tmp_path):
    first, second = (run_pipeline(make(engine='ngspice', workers=w), tmp_path/str(w)) for w in (1, 2))
    assert (first/'results.json').read_bytes()==(second/'results.json').read_bytes()
    levels = read_json(first/'results.json')['ladder']
    assert levels['levels'][-1]['name']=='ngspice' and levels['note'] is None
    assert all(r['max_error']<1e-9 for r in levels['between'] if r['a'] in ('analog', 'closed form', 'nodal'))

def test_files_of_a_run(finished):
    names = {p.relative_to(finished).as_posix() for p in finished.rglob('*') if p.is_file()}
    assert {'results.json', 'environment.json', 'report.md', 'report.html', 'config.yaml', 'manifest.json', 'netlists/network.cir', 'netlists/network_ltspice.cir', 'netlists/neuron.cir'}<=names
    assert not any(n.startswith('stages') or '/.' in n for n in names)
    assert read_json(finished/'manifest.json')['finished'] is True
    assert PipelineConfig.load(finished/'config.yaml')==make()

def test_the_netlist_of_a_run_runs_by_hand(finished, ngspice, tmp_path):
    r = subprocess.run([ngspice, '-b', '-r', tmp_path/'out.raw', finished/'netlists'/'network.cir'], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    from analognn.spice import read_raw
    plot, = read_raw(tmp_path/'out.raw')
    assert r.returncode==0 and len(plot['v(y0)'])==read_json(finished/'results.json')['dataset']['n_test']

def test_interrupted_and_resumed(finished, tmp_path):
    "Ctrl-C in the middle of the chips: status 130, nothing half-written, and the same results in the end"
    config = tmp_path/'c.json'
    config.write_text(json.dumps({**small, 'run': dict(repeats=40, engine='nodal')}))
    p = subprocess.Popen([*program, 'run', str(config), '--out', 'out'], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path/'out'/'stages'/'chip_1.pt').exists(): time.sleep(.02); assert p.poll() is None
    p.send_signal(signal.SIGINT)
    assert 'interrupted' in p.communicate(timeout=60)[1] and p.returncode==130
    left = sorted(f.name for f in (tmp_path/'out'/'stages').iterdir())
    assert not [f for f in (tmp_path/'out').rglob('.*')] and not (tmp_path/'out'/'results.json').exists()
    before = {f: (tmp_path/'out'/'stages'/f).stat().st_mtime_ns for f in left}
    watch = subprocess.Popen([*program, 'run', str(config), '--out', 'out'], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while not (tmp_path/'out'/'stages'/f'chip_{len(left)}.pt').exists(): time.sleep(.02); assert watch.poll() is None
    assert {f: (tmp_path/'out'/'stages'/f).stat().st_mtime_ns for f in left}==before
    assert watch.communicate(timeout=120)[0].strip().endswith('report.html') and watch.returncode==0
    whole = run_pipeline(PipelineConfig.load(config), tmp_path/'whole')
    assert (whole/'results.json').read_bytes()==(tmp_path/'out'/'results.json').read_bytes()

@pytest.mark.parametrize('change', [
    dict(model=dict(hidden=[], epochs=5)), dict(dataset=dict(name='xor'), model=dict(hidden=[4], epochs=5)), dict(calibration=dict(methods=[])), dict(run=dict(repeats=1, engine='nodal')),
    dict(hardware=dict(dac_bits=None, adc_bits=None, gain='inf', v_max='inf')), dict(hardware=dict(saturation='knee', v_max='inf')), dict(hardware=dict(saturation='knee', v_max=.5)),
    dict(dataset=dict(name='digits', subset_size=150, downsample_size=4)), dict(hardware=dict(v_max=1e-3)), dict(model=dict(noise_aware=True, hidden=[4], epochs=5))], ids=str)
def test_unusual_configurations_run(change, tmp_path):
    out = run_pipeline(PipelineConfig.make({**small, **change}), tmp_path/'out')
    levels = read_json(out/'results.json')['ladder']['between']
    assert all(r['max_error']<1e-9 for r in levels if r['a'] in ('analog', 'closed form'))

def test_noise_aware_training_repeats_itself(tmp_path):
    cfg = PipelineConfig.make({**small, 'model': dict(noise_aware=True, hidden=[4], epochs=5)})
    a, b = (run_pipeline(cfg, tmp_path/n) for n in 'ab')
    assert (a/'results.json').read_bytes()==(b/'results.json').read_bytes()

def test_a_bench_writes_where_it_is_told(ngspice, tmp_path):
    said = command('bench', 'ladder', '--quick', '--out', tmp_path/'here', cwd=tmp_path)
    assert said.returncode==0 and 'closed form to nodal' in said.stdout, said.stderr
    assert (tmp_path/'here'/'ladder-quick.json').exists()

def test_folders(finished, tmp_path):
    with pytest.raises(ConfigError, match='finished run'): run_pipeline(make(), finished)
    with pytest.raises(ConfigError, match='finished run'): run_pipeline(make(seed=1), finished)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('x')
    for force in (False, True):
        with pytest.raises(ConfigError, match='not from a run'): run_pipeline(make(), tmp_path/'mine', force=force)
    assert (tmp_path/'mine'/'thesis.tex').exists()
    (tmp_path/'mine'/'manifest.json').write_text('{"name": "a web page"}')
    with pytest.raises(ConfigError, match='not from a run'): run_pipeline(make(), tmp_path/'mine', force=True)
    (tmp_path/'file').write_text('x')
    for out in (tmp_path/'file', tmp_path/'file'/'below'):
        with pytest.raises(ConfigError): run_pipeline(make(), out)

def test_ngspice_by_name_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(EngineMissing, match='apt'): run_pipeline(make(engine='ngspice'), tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_without_ngspice_the_ladder_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    out = run_pipeline(make(engine='auto'), tmp_path/'out')
    ladder = read_json(out/'results.json')['ladder']
    assert ladder['levels'][-1]['name']=='nodal' and 'not installed' in ladder['note']
    assert 'not installed' in (out/'report.html').read_text() and 'not installed' in (out/'report.md').read_text()

@pytest.mark.parametrize('text, words', [
    ('model: [', "can't be read"), ('model: {hiden: [3]}', 'model.hiden: unknown key'), ('model: {hidden: 16}', 'model.hidden'), ('model: {hidden: [4, 0]}', 'model.hidden.1: 0 given'), ('run: {timeout: .inf}', 'run.timeout'), ('run: {repeats: 0}', 'run.repeats: 0 given'),
    ('hardware: {mismatch: -0.1}', 'hardware.mismatch: -0.1 given'), ('hardware: {mismatch: .nan}', 'hardware.mismatch'), ('dataset: {name: irsi}', "dataset.name: 'irsi' given"), ('3', 'a table of keys'),
    ('circuit: {r_ref: -1.0}', 'circuit.r_ref: -1.0 given'), ('run: {seed: 1, seed: 2}', 'given twice')])
def test_bad_configurations_are_refused_by_path(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'c.yaml').write_text(text)
    with pytest.raises(ConfigError) as e: run_pipeline(PipelineConfig.load(tmp_path/'c.yaml'))
    assert words in str(e.value)
    assert not (tmp_path/'runs').exists()

def test_the_command_from_start_to_end(tmp_path):
    done = command('run', '--repeats', 2, '--engine', 'nodal', cwd=tmp_path)
    assert done.returncode==0, done.stderr
    assert 'digital test accuracy' in done.stdout and 'nodal' in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith('report: ') and (tmp_path/last.removeprefix('report: ')).exists()
    assert (tmp_path/'runs'/'latest'/'report.html').exists()

def test_the_command_refuses_in_a_line(tmp_path):
    for argv, status in ((('run', 'missing.yaml'), 2), (('run', '--engine', 'hspice'), 2), (('bench', 'nothing'), 2)):
        said = command(*argv, cwd=tmp_path)
        assert said.returncode==status and 'Traceback' not in said.stderr and len(said.stderr.splitlines())<=3, said.stderr
    missing = command('run', '--engine', 'ngspice', cwd=tmp_path, env={**os.environ, 'PATH': str(tmp_path)})
    assert missing.returncode==1 and 'apt' in missing.stderr

def test_an_unwritable_folder(tmp_path):
    said = command('run', '--out', '/proc/nothing/here', cwd=tmp_path)
    assert said.returncode==2 and "can't be written" in said.stderr

# The study

def summary_of(folder, grids, value):
    "Rows of `summary.csv` for made results"
    points = _points_of(SweepSpec(study='pipeline', grids=grids))
    finish_pipeline_study(folder, pd.DataFrame([{**p, 'q': float(value(p)), 'failure': None} for p in points]))
    return pd.read_csv(folder/'summary.csv', keep_default_na=False)

def test_chips_of_one_training_are_not_independent(tmp_path):
    rows = summary_of(tmp_path, [{'run.seed': [0, 1], 'dataset.split': [0, 1], 'chip': [0, 1, 2]}], lambda p: p['run.seed']+10*p['chip'])
    want = mean_interval([10., 10., 11., 11.])
    assert rows.n.tolist()==[4] and rows[['mean', 'low', 'high']].values.tolist()==[pytest.approx([want.mean, want.low, want.high])]
    rows = summary_of(tmp_path, [{'chip': [0, 1, 2]}], lambda p: p['chip'])
    assert rows.n.tolist()==[3] and rows['mean'].tolist()==[1.]

def test_null_is_a_setting_and_what_is_left_out_the_default(tmp_path):
    rows = summary_of(tmp_path, [{'hardware.adc_bits': [None, 4, 6], 'run.seed': [0, 1]}, {'run.seed': [0, 1]}], lambda p: {None: 0, 4: 9, 6: 100}[p['hardware.adc_bits']]+p['run.seed'])
    assert rows['hardware.adc_bits'].tolist()==['null', '4.0', '6.0'] and rows['mean'].tolist()==[.5, 9.5, 100.5] and rows.n.tolist()==[2, 2, 2]

def test_infinity_and_its_word_are_one_point():
    assert check_point({'hardware.gain': 'inf'})==check_point({'hardware.gain': float('inf')})
    assert PipelineConfig().changed({k: v for k,v in check_point({'hardware.gain': 'inf'}).items() if k!='chip'}).hardware.gain==float('inf')

def test_a_section_as_a_value_is_refused_before_anything_is_computed():
    for section in ({'epochs': 3}, {}):
        with pytest.raises(ConfigError, match='such as model.epochs'): _points_of(SweepSpec(study='pipeline', grids=[{'model': [section]}]))
