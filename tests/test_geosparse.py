"Fixed fan-in layers: connectivity, the four ways, networks, counts, tiles, estimators, the study"
import itertools, math, pickle, subprocess, sys
from copy import deepcopy

import numpy as np
import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn

from analognn.cli import main
from analognn.core import ConfigError, ShapeError, read_json, stream
from analognn.gather import bag_sum, dense_weight, edge_products, gather_sum, gathered_sum, readers_of
from analognn.geo_estimators import GeoSparseClassifier, GeoSparseRegressor
from analognn.geo_study import GeoPoint, ResidualNet, geo_point, make_rival, make_task, task_names
from analognn.geo_tiles import TiledLinear, tile_plan
from analognn.geosparse import (DropPath, FeatureNorm, GeoSparseConfig, GeoSparseLinear, GeoSparseNet, compare_params, count_params, dense_params, edge_list, geo_connectivity, index_table, match_dense_width,
                                net_params, sparse_params)
from analognn.residual import plain_rms_norm, rms_norm
from analognn.sine import SineParam, decaying_sine, fused_sine, make_activation
from analognn.sweep import load_spec, load_sweep

grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
kinds, modes = st.sampled_from(['local', 'random', 'hash']), st.sampled_from(['shift', 'wrap', 'clamp'])

# Connectivity

@given(grids, grids, kinds, modes, st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_every_unit_has_its_inputs(shape, out_shape, kind, mode, own, data):
    "In range; all different unless clamped; not itself where that is excluded; within the radius on equal grids"
    n = math.prod(shape)
    assume(n-(not own)>=1)
    k = data.draw(st.integers(1, n-(not own)))
    index = geo_connectivity(shape, k, kind, wrap_mode=mode, include_self=own, out_shape=out_shape, layer=2, seed=5)
    assert index.shape==(math.prod(out_shape), k) and index.dtype==torch.int64
    assert index.min()>=0 and index.max()<n
    if mode!='clamp': assert (index.sort(1).values.diff(dim=1)>0).all()
    if not own and shape==out_shape and mode!='clamp': assert (index!=torch.arange(n)[:, None]).all()
    assert torch.equal(index, geo_connectivity(shape, k, kind, wrap_mode=mode, include_self=own, out_shape=out_shape, layer=2, seed=5))

@pytest.mark.parametrize('k', [1, 4, 5, 8, 9, 12, 16])
def test_local_means_nearest(k):
    "Against distances written down one unit at a time"
    H, W = 6, 7
    index, r = geo_connectivity((H, W), k), next(r for r in range(9) if (2*r+1)**2>=k)
    for u in range(H*W):
        row, col = divmod(u, W)
        top, left = min(max(row-r, 0), H-2*r-1), min(max(col-r, 0), W-2*r-1)
        window = [(a, b) for a in range(top, top+2*r+1) for b in range(left, left+2*r+1)]
        nearest = sorted(window, key=lambda p: ((p[0]-row)**2+(p[1]-col)**2, p))[:k]
        assert index[u].tolist()==[a*W+b for a,b in nearest]

@pytest.mark.parametrize('kind', ['random', 'hash'])
def test_draws_are_even(kind):
    "Each of 25 places of the window equally often, and pairs of layers, seeds and units unalike"
    index = geo_connectivity((200, 200), 8, kind, radius=2, seed=1).view(200, 200, 8)[2:-2, 2:-2]
    centre = torch.arange(40_000).view(200, 200)[2:-2, 2:-2, None]
    dy, dx = (index//200-centre//200), (index%200-centre%200)
    counts = torch.bincount(((dy+2)*5+dx+2).flatten(), minlength=25).double()
    expected = counts.sum()/25
    assert ((counts-expected).abs()<5*(expected*(1-8/25))**.5).all()
    other = [geo_connectivity((50, 50), 8, kind, radius=2, **o) for o in (dict(), dict(layer=1), dict(seed=1))]
    for a, b in itertools.combinations(other, 2): assert (a!=b).any(1).double().mean()>.9

def test_hash_does_not_depend_on_other_units():
    "A unit far from the border keeps its steps when the grid gets more rows below"
    small, large = (geo_connectivity((h, 11), 6, 'hash', radius=2) for h in (12, 20))
    assert torch.equal(small[:88], large[:88])

@pytest.mark.parametrize('kind', ['local', 'random', 'hash'])
def test_a_million_units(kind): assert geo_connectivity((1000, 1000), 16, kind).shape==(10**6, 16)

def test_pyramid_halves():
    index = geo_connectivity((8, 8), 4, out_shape=(4, 4))
    for o in range(16):
        r, c = divmod(o, 4)
        assert set(index[o].tolist())=={(2*r+a)*8+2*c+b for a in (0, 1) for b in (0, 1)}

@given(grids, st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_edges_and_back(shape, k, random):
    index = geo_connectivity(shape, k, 'random', allow_repeats=True)
    src, dst = edge_list(index)
    order = list(range(len(src))); random.shuffle(order)
    assert torch.equal(index_table(src[order], dst[order], len(index)).sort(1).values, index.sort(1).values)

@pytest.mark.parametrize('arguments, words', [
    (dict(shape=(3,), k=1), 'shape is (3,)'), (dict(shape=(0, 3), k=1), 'shape is (0, 3)'), (dict(shape=(3, 3), k=0), 'k is 0'), (dict(shape=(3, 3), k=10), 'offers 9 different'), (dict(shape=(9, 9), k=10, radius=1), 'radius 1'),
    (dict(shape=(9, 9), k=9, radius=1, include_self=False), 'offers 8'), (dict(shape=(3, 3), k=1, connectivity='globl'), "unknown connectivity 'globl'"), (dict(shape=(3, 3), k=1, wrap_mode='wrp'), "did you mean 'wrap'"),
    (dict(shape=(3, 3), k=1, radius=-1), 'radius is -1'), (dict(shape=(3, 3), k=1, offsets=[(0, 0), (0, 0)]), 'a step twice'), (dict(shape=(3, 3), k=2, offsets=[(0, 0)]), 'list of offsets offers 1'),
    (dict(shape=(3, 3), k=1, offsets=[(0, 0), (4, 0)]), 'offsets span'), (dict(shape=(3, 3), k=1, offsets=[3]), 'offsets hold 3'), (dict(shape=(3, 3), k=1, offsets=[(0, 0)], radius=1), 'one of them')])
def test_bad_connectivity(arguments, words):
    with pytest.raises(ConfigError, match='.*') as e: geo_connectivity(**arguments)
    assert words in str(e.value)

# The layer

@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12), st.integers(0, 9), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_all_ways_agree(n_in, n_out, k, B, dtype):
    "Values and gradients against the dense matrix; repeats, unread inputs and no samples included"
    g = stream(0, 'ways', n_in, n_out, k, B)
    index, x = torch.randint(n_in, (n_out, k), generator=g), torch.randn(B, n_in, generator=g, dtype=dtype, requires_grad=True)
    gy, results = torch.randn(B, n_out, generator=g, dtype=dtype), {}
    first = GeoSparseLinear(n_in, n_out, index, generator=stream(1)).to(dtype)
    for way in ('gather', 'scatter', 'bag', 'kernel', 'auto'):
        layer = GeoSparseLinear(n_in, n_out, index, compute=way).to(dtype)
        layer.load_state_dict(first.state_dict())
        y = layer(x)
        results[way] = (y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), gy))
    y = x@dense_weight(index, first.weight, n_in).T+first.bias
    expected = (y, *torch.autograd.grad(y, (x, first.weight, first.bias), gy))
    for way, got in results.items():
        for a, b in zip(got, expected): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=way)

def test_threads_do_not_change_bits():
    layer = GeoSparseLinear(4096, 4096, geo_connectivity((64, 64), 8), feature_major=True)
    x, before, results = torch.randn(4096, 256, requires_grad=True), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            y = layer(x)
            results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])))
    finally: torch.set_num_threads(before)
    for a, b in zip(*results): assert torch.equal(a, b)

def test_private_operator_is_there():
    "If it goes away, bag_sum still works, by `edge_products`"
    assert hasattr(torch.ops.aten, '_embedding_bag_per_sample_weights_backward')
    g = stream(0)
    index, gy, x = torch.randint(9, (5, 3), generator=g).int(), torch.randn(5, 4, generator=g), torch.randn(9, 4, generator=g)
    w = torch.randn(5, 3, generator=g, requires_grad=True)
    y = bag_sum(x, index, w, readers_of(index, 9))
    torch.testing.assert_close(torch.autograd.grad(y, w, gy)[0], edge_products(gy, x, index))

@pytest.mark.parametrize('way', ['auto', 'bag'])
def test_half_precision_under_autocast(way):
    layer = GeoSparseLinear(36, 36, geo_connectivity((6, 6), 8), compute=way)
    x = torch.randn(5, 36, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16): y = layer(x)
    assert y.dtype==torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=.05, rtol=.05)
    y.float().sum().backward()
    assert x.grad.dtype==layer.weight.grad.dtype==torch.float32

@pytest.mark.parametrize('way', ['auto', 'bag', 'gather'])
def test_compiles_as_one_graph(way):
    net = GeoSparseNet(16, 3, GeoSparseConfig(shape=(4, 4), k=4, depth=2, activation_type='psann', residual_alpha_init=.5, drop_path=.3, compute=way)).eval()
    x = torch.randn(7, 16)
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), net(x))
    for a, b in zip(*(torch.autograd.grad(f(x).pow(2).sum(), net.parameters()) for f in (compiled, net))): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

def test_copies_pickles_and_saves(tmp_path):
    layer = GeoSparseLinear(20, 20, geo_connectivity((4, 5), 3, 'random'))
    x = torch.randn(2, 20)
    for twin in (deepcopy(layer), pickle.loads(pickle.dumps(layer))): assert torch.equal(twin(x), layer(x))
    torch.save(layer.state_dict(), tmp_path/'layer.pt')
    other = GeoSparseLinear(20, 20, geo_connectivity((4, 5), 3, 'random', seed=9))
    other.load_state_dict(torch.load(tmp_path/'layer.pt', weights_only=True))
    a, b = (torch.autograd.grad(l(x.requires_grad_()).sum(), [x, l.weight]) for l in (layer, other))
    for p, q in zip(a, b): assert torch.equal(p, q)
    assert list(layer.state_dict())==['weight', 'bias', 'index'] and layer.double().index.dtype==torch.int32

@pytest.mark.parametrize('index, words', [(torch.zeros(3, 2), 'type torch.float32'), (torch.zeros(2, 2, dtype=int), 'expected whole numbers (3, k)'), (torch.zeros(3, 0, dtype=int), 'k at least 1'), (torch.full((3, 1), 4), '0 to 3'), (torch.full((3, 1), -1), '-1')])
def test_bad_index(index, words):
    with pytest.raises((ShapeError, ConfigError)) as e: GeoSparseLinear(4, 3, index)
    assert words in str(e.value)

def test_saved_for_backward():
    "Input and weights, whatever k"
    for k in (4, 32):
        layer, sizes = GeoSparseLinear(1024, 1024, geo_connectivity((32, 32), k), feature_major=True), {}
        x = torch.randn(1024, 64, requires_grad=True)
        def note(t):
            sizes[t.data_ptr()] = t.numel()
            return t
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): layer(x)
        assert sum(sizes.values())<=1.05*(x.numel()+layer.weight.numel())

# Activations, normalisation

@pytest.mark.parametrize('mode', ['abs', 'relu', 'none'])
def test_fused_sine_is_the_formula(mode):
    g = stream(0, 'sine')
    args = [20*torch.randn(17, 65, generator=g), *(.2+torch.rand(17, generator=g) for _ in range(4))]
    args = [a.requires_grad_() for a in args]
    both = [(y := f(*args, mode), *torch.autograd.grad(y, args, torch.cos(args[0].detach()))) for f in (fused_sine, decaying_sine)]
    for a, b in zip(*both): torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)

def test_fused_sine_keeps_one_tensor():
    act, sizes = SineParam(100, feature_dim=0), []
    z = torch.randn(100, 50, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t): act(z)
    assert sum(s>=z.numel() for s in sizes)==1

def test_rms_norm_in_any_shape():
    g = stream(0, 'rms')
    for n, B in ((1, 1), (5, 0), (33, 70)):
        x, w = torch.randn(n, B, generator=g, requires_grad=True), torch.rand(n, generator=g, requires_grad=True)
        torch.testing.assert_close(rms_norm(x, w), plain_rms_norm(x, w))

def test_layer_norm_is_torchs():
    x, ours, theirs = torch.randn(30, 8), FeatureNorm('layer', 30), nn.LayerNorm(30, eps=1e-6)
    torch.testing.assert_close(ours(x), theirs(x.T).T, atol=1e-5, rtol=1e-5)

def test_drop_path_survives_a_checkpoint():
    drop, x = DropPath(.5, generator=stream(3)), torch.ones(1, 64)
    drop(x)
    saved = deepcopy(drop.state_dict())
    expected, other = drop(x), DropPath(.5, generator=stream(4))
    other.load_state_dict(saved)
    assert torch.equal(other(x), expected)

# Counts

@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(1, 3), st.integers(1, 5), st.sampled_from(['relu', 'tanh', 'gelu', 'psann', 'phase_psann']), st.sampled_from(['none', 'rms', 'layer']), st.booleans(),
       st.sampled_from(['all', 'none', 'decay', ['amplitude', 'frequency']]), st.booleans(), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_counts_are_what_is_there(shape, depth, k, activation, norm, bias, learnable, phase, n_out):
    k = min(k, math.prod(shape))
    cfg = GeoSparseConfig(shape=shape, depth=depth, k=k, activation_type=activation, norm=norm, bias=bias, activation_config=dict(learnable=learnable, phase_trainable=phase))
    net = GeoSparseNet(math.prod(shape), n_out, cfg)
    for trainable in (False, True): assert net_params(cfg, n_out, trainable)==count_params(net, trainable)
    assert count_params(net.blocks[0].fc1)==sparse_params(math.prod(shape), k, bias)

@given(st.integers(50, 10**6), st.integers(1, 500), st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_width_is_the_nearest(target, n_in, n_out, depth):
    w = match_dense_width(target, n_in, n_out, depth)
    miss = lambda v: abs(dense_params(n_in, v, depth, n_out)-target)
    assert w>=1 and miss(w)<=miss(w+1) and (w==1 or miss(w)<=miss(w-1))

def test_mismatch_warns():
    with pytest.warns(UserWarning, match=r'\+2.0%'): assert not compare_params(1000, 1020)['within']
    assert compare_params(1000, 1005)==dict(sparse=1000, dense=1005, mismatch=5, relative=.005, within=True)

# Estimators

@pytest.mark.slow
@pytest.mark.parametrize('kind', [GeoSparseRegressor, GeoSparseClassifier])
def test_scikit_learn_accepts(kind):
    from sklearn.utils.estimator_checks import check_estimator
    check_estimator(kind())

@pytest.mark.parametrize('kind, checks', [(GeoSparseRegressor, ('fit2d_1sample', 'methods_subset_invariance', 'estimators_pickle', 'regressor_multioutput', 'dict_unchanged', 'estimators_unfitted')),
                                          (GeoSparseClassifier, ('fit2d_1feature', 'methods_subset_invariance', 'estimators_pickle', 'classifiers_one_label', 'estimators_unfitted', 'n_features_in'))])
def test_scikit_learn_accepts_the_main_points(kind, checks):
    "All of them run with --slow"
    from sklearn.utils.estimator_checks import estimator_checks_generator
    ran = 0
    for estimator, check in estimator_checks_generator(kind(max_iter=10)):
        if any(c in str(check) for c in checks):
            check(estimator)
            ran += 1
    assert ran>=len(checks)-1

def test_regression_learns_and_stops():
    g = np.random.default_rng(0)
    X = g.normal(size=(600, 16))
    y = X[:, 5]*X[:, 6]+X[:, 9]
    model = GeoSparseRegressor(shape=(4, 4), max_iter=150, validation_fraction=.2, patience=8).fit(X[:500], y[:500])
    assert model.score(X[500:], y[500:])>.7 and model.n_iter_<150

# Tiles

@given(st.tuples(st.integers(2, 8), st.integers(2, 8)), st.integers(1, 4), st.integers(4, 30), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_tiles_hold_every_unit_once(shape, k, rows, cols):
    n = math.prod(shape)
    layer = GeoSparseLinear(n, n, geo_connectivity(shape, k))
    plan = tile_plan(layer, rows, cols, shape)
    assert sorted(torch.cat([u for _, u in plan.tiles]).tolist())==list(range(n))
    assert all(len(i)<=rows and len(u)<=cols and torch.isin(layer.index[u], i).all() for i, u in plan.tiles)
    assert plan.edges+plan.wasted==len(plan.tiles)*rows*cols and len(plan.tiles)>=math.ceil(n/cols)
    x = torch.randn(3, n)
    torch.testing.assert_close(TiledLinear(layer, plan)(x), layer(x), atol=1e-5, rtol=1e-5)

def test_plan_of_another_layer():
    small, large = (GeoSparseLinear(n*n, n*n, geo_connectivity((n, n), 3)) for n in (3, 4))
    with pytest.raises(ShapeError, match='9 inputs and 9 units; the layer has 16 and 16'): TiledLinear(large, tile_plan(small, 9, 3))

# The study

@pytest.mark.parametrize('name', task_names)
def test_tasks_are_the_same_again(name):
    a, b, p = make_task(name, 1, side=8, n_train=30), make_task(name, 1, side=8, n_train=30), make_task(name, 1, side=8, n_train=30, permuted=True)
    for k in a:
        assert torch.equal(a[k][0], b[k][0]) and torch.equal(a[k][1], p[k][1])
        assert not torch.equal(a[k][0], p[k][0]) and torch.equal(a[k][0].sort(1).values, p[k][0].sort(1).values)

def test_rivals_have_as_many_parameters():
    target = net_params(GeoSparseConfig(shape=(16, 16), depth=3), 1)
    for name in ('dense', 'dense residual', 'low rank'):
        assert abs(count_params(make_rival(name, target, 256, 1, 3))/target-1)<.03

def test_field_is_local():
    "Its curvature couples neighbours alone"
    x = torch.randn(1, 36, dtype=torch.float64)
    from analognn.geo_study import _field
    hessian = torch.autograd.functional.hessian(lambda v: _field(v[None].float(), stream(0)).sum().double(), x[0]).abs()>1e-6
    at = torch.tensor([divmod(i, 6) for i in range(36)])
    distance = (at[:, None]-at).abs().sum(-1)
    assert torch.equal(hessian, distance==1)

spec = '''
study: geosparse
grids:
- {task: [digits], model: [geo, dense], permuted: [false, true], seed: [0, 1], epochs: [2], lrs: [[0.01]]}
'''

def test_sweep_from_the_shell(tmp_path, capsys):
    "The files are there; a run cut short goes on and gives the same scores; one or two workers"
    (tmp_path/'spec.yaml').write_text(spec)
    assert main(['sweep', str(tmp_path/'spec.yaml'), '--out', str(tmp_path/'a'), '--workers', '1'])==0
    assert capsys.readouterr().out.strip().splitlines()[-1]==f"results: {tmp_path/'a'}"
    assert {p.name for p in (tmp_path/'a').iterdir()}>={'manifest.json', 'results.jsonl', 'summary.csv', 'by_model.json', 'scores.png', 'points.db'}
    manifest = read_json(tmp_path/'a'/'manifest.json')
    assert manifest['finished'] and manifest['environment']['versions']['torch'] and {p['amp'] for p in manifest['parameters']}=={'none'}
    assert all(p['params']>0 and abs(p['mismatch'])<.05 and p['within_1_percent']==(abs(p['mismatch'])<=.01) for p in manifest['parameters'])
    code = f"import sys; from analognn import geo_study, sweep; n = []\ndef stop(**p):\n    n.append(1)\n    if len(n)>3: raise KeyboardInterrupt\n    return geo_study.geo_point(**p)\nstop.__qualname__, stop.__module__ = 'geo_point', 'analognn.geo_study'\ngeo = sweep._studies['geosparse']; sweep._studies['geosparse'] = (stop, *geo[1:])\nsweep.run_study(sweep.load_spec({str(tmp_path/'spec.yaml')!r}), {str(tmp_path/'b')!r}, n_workers=1, progress=False)"
    assert b'KeyboardInterrupt' in subprocess.run([sys.executable, '-c', code], capture_output=True).stderr
    assert len(load_sweep(tmp_path/'b'/'points.db'))==3
    assert main(['sweep', str(tmp_path/'spec.yaml'), '--out', str(tmp_path/'b'), '--workers', '2'])==0
    a, b = (load_sweep(tmp_path/d/'points.db') for d in 'ab')
    assert a.score.tolist()==b.score.tolist() and a.test_loss.tolist()==b.test_loss.tolist()
    assert main(['sweep', str(tmp_path/'spec.yaml'), '--out', str(tmp_path/'b')])==2

def test_shipped_spec_is_whole():
    points = load_spec('geosparse')
    assert {t for g in points.grids for t in g['task']}==set(task_names)

def test_a_point_in_half_precision_and_one_that_diverges():
    few = dict(task='digits', epochs=2, depth=1, lrs=[.01])
    half = geo_point(**few, bf16=True)
    assert half['amp']=='bfloat16' and half['score']>.7
    wild = geo_point(task='field', side=8, n_train=200, epochs=3, depth=1, lrs=[1e6])
    assert not wild['all_stable']
    with pytest.raises(ConfigError, match='model'): GeoPoint.make(dict(model='sparse'))

def test_low_rank_is_low_rank():
    net = ResidualNet(12, 2, 1, rank=2)
    product = net.blocks[0][1]
    assert torch.linalg.matrix_rank(product[1].weight@product[0].weight)<=2

# Transformations

def test_many_networks_at_once():
    "vmap over parameters, values and gradients"
    net = GeoSparseNet(16, 2, GeoSparseConfig(shape=(4, 4), k=4, depth=2, activation_type='psann', residual_alpha_init=.5))
    x = torch.randn(3, 16)
    stacked = {k: torch.stack([p.detach(), 1.1*p.detach()]).requires_grad_() for k, p in net.named_parameters()}
    many = torch.vmap(lambda p: torch.func.functional_call(net, p, (x,)))(stacked)
    for i in range(2):
        one = {k: p[i].detach().requires_grad_() for k, p in stacked.items()}
        y = torch.func.functional_call(net, one, (x,))
        torch.testing.assert_close(many[i], y, atol=1e-4, rtol=1e-4)
        for a, b in zip(torch.autograd.grad(many[i].sum(), stacked.values(), retain_graph=True), torch.autograd.grad(y.sum(), one.values())): torch.testing.assert_close(a[i], b, atol=1e-4, rtol=1e-3)

def test_second_derivatives_are_refused():
    net = GeoSparseNet(16, 2, GeoSparseConfig(shape=(4, 4), k=4, depth=1, activation_type='psann', residual_alpha_init=.5))
    x = torch.randn(3, 16, requires_grad=True)
    (gx,) = torch.autograd.grad(net(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): gx.sum().backward()

def test_without_numba():
    "The same network, by what PyTorch has; the compiled way says what it needs"
    code = """
import sys
sys.modules['numba'] = sys.modules['llvmlite'] = None
import torch
from analognn.core import stream
from analognn.geosparse import GeoSparseConfig, GeoSparseNet
net = GeoSparseNet(64, 3, GeoSparseConfig(shape=(8, 8), activation_type='psann', residual_alpha_init=.5), generator=stream(0))
y = net(torch.randn(5, 64, generator=stream(1)))
y.sum().backward()
print(*y.flatten().tolist(), *net.blocks[0].fc1.weight.grad.flatten().tolist())
net.blocks[0].fc1.compute = 'kernel'
try: net(torch.randn(5, 64))
except ValueError as e: print(e, file=sys.stderr)
"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'need numba' in out.stderr
    net = GeoSparseNet(64, 3, GeoSparseConfig(shape=(8, 8), activation_type='psann', residual_alpha_init=.5), generator=stream(0))
    y = net(torch.randn(5, 64, generator=stream(1)))
    y.sum().backward()
    torch.testing.assert_close(torch.tensor([float(v) for v in out.stdout.split()]), torch.cat([y.detach().flatten(), net.blocks[0].fc1.weight.grad.flatten()]), atol=1e-4, rtol=1e-4)
