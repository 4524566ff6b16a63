"Trackers, composed configurations, interactive figures"
import math, re, subprocess, sys

import pytest
from hypothesis import given, settings, strategies as st

from analognn.core import AnalogError, ConfigError, read_json
from analognn.pipeline import PipelineConfig, run_pipeline
from analognn.track import compose, flat, log_mlflow, plotly_ladder, plotly_repeats, run_numbers, save_html

@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A finished run"
    small = PipelineConfig.make(dict(model=dict(hidden=[6], epochs=20), run=dict(repeats=2, engine='nodal'), calibration=dict(methods=['affine'])))
    return run_pipeline(small, tmp_path_factory.mktemp('finished')/'run')

trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.text('abc', min_size=1, max_size=3), inner, min_size=1, max_size=3), max_leaves=8)

@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text('abc', min_size=1), trees, max_size=3))
def test_a_flat_table_leads_to_every_leaf(tree):
    for name,value in flat(tree).items():
        inner = tree
        for k in name.split('.'): inner = inner[k]
        assert inner==value and not isinstance(value, dict)
    leaves = lambda t: sum(map(leaves, t.values())) if isinstance(t, dict) else 1
    assert len(flat(tree))==leaves(tree)

# MLflow

@pytest.fixture(scope='module')
def mlflow():
    return pytest.importorskip('mlflow', reason='mlflow is not installed: tracking was not tested')

def test_a_run_in_mlflow_is_the_run_on_disk(mlflow, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri, results = f'sqlite:///{tmp_path}/runs.db', read_json(finished/'results.json')
    first, second = log_mlflow(finished, uri), log_mlflow(finished, uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(first)
    assert first!=second and run.info.status=='FINISHED' and run.info.run_name=='run' and run.data.tags['digest']==read_json(finished/'manifest.json')['digest']
    assert run.data.params=={k: str(v) for k,v in flat(results['config']).items()} and run.data.params['hardware.mismatch']=='0.01'
    assert run_numbers(results).items()<=run.data.metrics.items()
    assert run.data.metrics['ladder/nodal/rmse']==results['ladder']['levels'][-1]['rmse'] and run.data.metrics['accuracy/test']==results['baseline']['accuracy']['test']
    assert [(m.step, m.value) for m in client.get_metric_history(first, 'training/loss')]==list(enumerate(results['baseline']['history']['loss']))
    logged = {f.path for f in client.list_artifacts(first)}
    assert logged=={p.name for p in finished.iterdir()}

def test_only_finished_runs_are_logged(mlflow, tmp_path):
    with pytest.raises(AnalogError, match='results.json'): log_mlflow(tmp_path, f'sqlite:///{tmp_path}/runs.db')
    assert not (tmp_path/'runs.db').exists()

def test_a_store_that_is_none_is_an_error(mlflow, finished, tmp_path):
    with pytest.raises(AnalogError, match='nowhere'): log_mlflow(finished, 'nowhere://here')

# Hydra

@pytest.fixture
def folder(tmp_path):
    pytest.importorskip('hydra', reason='hydra is not installed: composition was not tested')
    files = {'config.yaml': 'defaults: [{hardware: good}, _self_]\nrun: {repeats: 3}\nmodel: {hidden: [4], lr: 1e-3}', 'hardware/good.yaml': 'mismatch: 1e-3\nv_max: 2.\nv_range: ${hardware.v_max}',
             'hardware/bad.yaml': 'mismatch: .1\ngain: .inf'}
    for name, text in files.items(): (tmp_path/name).parent.mkdir(exist_ok=True); (tmp_path/name).write_text(text)
    return tmp_path

def test_a_composed_configuration_is_that_of_one_file(folder):
    assert compose(PipelineConfig, folder)==PipelineConfig.make(dict(run=dict(repeats=3), model=dict(hidden=[4], lr=1e-3), hardware=dict(mismatch=1e-3, v_max=2., v_range=2.)))
    changed = compose(PipelineConfig, folder, overrides=['hardware=bad', 'run.repeats=9', 'model.hidden=[5,6]', '+dataset.name=wine'])
    assert changed==PipelineConfig.make(dict(run=dict(repeats=9), model=dict(hidden=[5, 6], lr=1e-3), hardware=dict(mismatch=.1, gain=math.inf), dataset=dict(name='wine')))

@pytest.mark.parametrize('name, overrides, said', [('config', ['hardware=none_such'], 'none_such'), ('config', ['hardware.mismatch=.5'], 'hardware.mismatch: 0.5 given'), ('missing', [], 'missing'),
                                                   ('config', ['run.repeat=1'], 'repeat'), ('config', ['+run.repeat=1'], 'run.repeat: unknown key'), ('config', ['run.repeats=[1'], "input '[1'"),
                                                   ('config', ["run.repeats='3'"], "run.repeats: '3' given"), ('config', ['run.repeats=???'], 'run.repeats'), ('config', ['run.repeats=${nothing}'], 'nothing')])
def test_bad_compositions_are_refused(folder, name, overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)): compose(PipelineConfig, folder, name, overrides)

@pytest.mark.parametrize('text', ['run: {_target_: os.system, _args_: ["touch done"]}', 'hydra: {callbacks: {x: {_target_: os.system, command: "touch done"}}}',
                                  'dataset: {name: "${${dataset.root}:touch done}", root: shell}', 'dataset: {name: "${ ${dataset.root}:touch done}", root: shell}', 'defaults: [_self_, {x: "${shell:b}"}]',
                                  'defaults: [_self_, {hardware: "${oc.env:HOME}"}]', 'dataset: {root: "${shell:${dataset.name}}"}', 'dataset: {root: "$${dataset.name}{shell:touch done}"}',
                                  'dataset: {root: "${oc.env:HOME}"}', 'dataset: {root: "a${oc.decode:1}"}', 'dataset: {root: "${shell:touch done}"}', 'run: !!python/object/apply:os.system ["touch done"]'])
def test_nothing_in_the_files_is_executed(folder, monkeypatch, text):
    from omegaconf import OmegaConf
    called = []
    OmegaConf.register_new_resolver('shell', called.append)
    monkeypatch.chdir(folder)
    monkeypatch.setattr('os.system', called.append)
    (folder/'evil.yaml').write_text(text)
    try:
        if text.startswith('hydra'): assert compose(PipelineConfig, folder, 'evil')==PipelineConfig()
        else:
            with pytest.raises(ConfigError): compose(PipelineConfig, folder, 'evil')
    finally: OmegaConf.clear_resolver('shell')
    assert not called and not (folder/'done').exists()

def test_an_override_calls_nothing(folder, monkeypatch):
    monkeypatch.setenv('WHICH', 'good')
    for override in ('hardware=${oc.env:WHICH}', 'hardware.mismatch=${oc.env:WHICH}', '+dataset.name="${${run.engine}:WHICH}"'):
        with pytest.raises(ConfigError): compose(PipelineConfig, folder, overrides=[override])

def test_inside_of_hydra_nothing_is_composed(folder):
    import hydra
    with hydra.initialize_config_dir(str(folder), version_base='1.3'):
        with pytest.raises(ConfigError, match='initialised already'): compose(PipelineConfig, folder)
        assert hydra.compose('config').run.repeats==3

def test_hydra_is_left_as_it_was(folder):
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
    compose(PipelineConfig, folder)
    with pytest.raises(ConfigError): compose(PipelineConfig, folder, 'missing')
    assert OmegaConf.has_resolver('oc.env') and not GlobalHydra.instance().is_initialized()

# plotly

def test_figures_hold_the_numbers_of_the_results(finished, tmp_path):
    pytest.importorskip('plotly', reason='plotly is not installed: its figures were not tested')
    results = read_json(finished/'results.json')
    steps, accuracy = plotly_ladder(results['ladder']).data[1], plotly_ladder(results['ladder']).data[2]
    assert [v or 0. for v in steps.x]==[s['rmse'] for s in results['ladder']['between']] and list(accuracy.x)==[100*l['accuracy'] for l in results['ladder']['levels']]
    means = {f'{what}, {name}': (mean, mean-low, mean+high) for what, t in zip(('accuracy', 'rmse (V)'), plotly_repeats(results['repeats']).data)
             for name, mean, low, high in zip(t.y, t.x, t.error_x.arrayminus, t.error_x.array)}
    assert means.keys()=={r['quantity'] for r in results['repeats']}
    for r in results['repeats']: assert means[r['quantity']]==pytest.approx((r['mean'], r['low'], r['high']))
    page = save_html(plotly_ladder(results['ladder']), tmp_path/'l.html').read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)=', page)

# The command

program = [sys.executable, '-c', 'import sys; from analognn.cli import main; sys.exit(main())']

def test_run_is_tracked_and_overridden(mlflow, tmp_path):
    words = ['run', '--out', 'out', '--engine', 'nodal', '--repeats', '1', '--override', 'model.epochs=5', '--override', 'hardware.mismatch=2e-2', '--override', 'calibration.methods=[affine]', '--track', 'mlflow:sqlite:///runs.db']
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert done.stdout.strip().endswith('report.html') and read_json(tmp_path/'out'/'results.json')['config']['hardware']['mismatch']==.02
    client = mlflow.MlflowClient(tracking_uri=f'sqlite:///{tmp_path}/runs.db')
    run, = client.search_runs([client.get_experiment_by_name('analognn').experiment_id])
    assert run.data.params['hardware.mismatch']=='0.02' and run.info.status=='FINISHED'

def test_a_store_that_is_none_is_found_before_the_run(mlflow, tmp_path):
    done = subprocess.run([*program, 'run', '--out', 'out', '--engine', 'nodal', '--track', 'mlflow:nowhere://here'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode==1 and 'nowhere' in done.stderr and 'Traceback' not in done.stderr and not (tmp_path/'out').exists()

def test_what_could_not_be_logged_is_not_lost(mlflow, monkeypatch, tmp_path):
    from analognn import cli, track
    def down(folder, uri): raise AnalogError('MLflow is down')
    monkeypatch.setattr(track, 'log_mlflow', down)
    with pytest.raises(AnalogError, match=r"MLflow is down; the run is finished, and log_mlflow\('there'.* logs it"): cli._tracker(f'mlflow:sqlite:///{tmp_path}/runs.db')('there')
