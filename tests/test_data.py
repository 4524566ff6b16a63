import gzip, struct, subprocess, sys
from collections import Counter
from urllib.error import URLError

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import data
from analognn.core import AnalogError, ConfigError, ShapeError, stream
from analognn.data import dataset_names, load_dataset, noisy_xor, read_idx, stratified_order, write_idx

small = ('xor', 'iris', 'wine', 'breast_cancer', 'digits')
idx_files = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
few = settings(max_examples=40, deadline=None)

def parts(d): return (d.x_train, d.y_train), (d.x_val, d.y_val), (d.x_test, d.y_test)

@pytest.mark.parametrize('name', ['iris', 'wine', 'breast_cancer', 'digits'])
def test_tables_are_those_of_scikit_learn(name):
    import sklearn.datasets
    theirs = getattr(sklearn.datasets, f'load_{name}')()
    ours = data._loaders[name](0, None)
    assert np.array_equal(ours.x.reshape(len(ours.x), -1), theirs.data) and np.array_equal(ours.y, theirs.target)
    assert ours.classes==tuple(map(str, theirs.target_names))

@pytest.mark.parametrize('name', ['wine', 'breast_cancer', 'iris'])
def test_columns_are_named_in_their_order(name):
    import sklearn.datasets
    theirs = getattr(sklearn.datasets, f'load_{name}')().feature_names
    for mine,full in zip(data._columns[name], theirs, strict=True):
        words = lambda s: sorted(s.replace(' (cm)', '').replace('_', ' ').split())      # scikit-learn says both 'mean radius' and 'radius error'
        assert words(mine)==words(full)

def test_moved_tables_are_asked_for(monkeypatch):
    usual = load_dataset('wine')
    monkeypatch.setitem(data._files, 'wine', 'gone.csv')
    assert torch.equal(load_dataset('wine').x_train, usual.x_train)

def test_loading_needs_no_scikit_learn():
    code = "import sys; from analognn.data import load_dataset; load_dataset('iris'); print('sklearn' in sys.modules, 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split()==['False', 'False']

@pytest.mark.parametrize('name', small)
def test_parts_make_up_the_whole(name):
    whole, d = data._loaders[name](0, None), load_dataset(name, dtype=torch.float64)
    raw = torch.cat([x*d.scale+d.mean for x,_ in parts(d)])
    rows = lambda x, y: Counter((int(c), *(round(float(v), 6)+0. for v in r)) for r,c in zip(x, y))
    assert rows(raw, torch.cat([y for _,y in parts(d)]))==rows(whole.x.reshape(len(whole.y), -1), whole.y)
    assert [len(y) for _,y in parts(d)]==[len(whole.y)-2*round(.2*len(whole.y)), *[round(.2*len(whole.y))]*2]

@few
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_order_is_a_permutation_with_stratified_stretches(counts, seed):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order, n = stratified_order(y, stream(seed, 'test')), len(y)
    assert torch.equal(order.sort()[0], torch.arange(n))
    for start,stop in ((0, n//3), (n//3, n//2), (n//2, n)):
        got, m = y[order[start:stop]].bincount(minlength=len(counts)), stop-start
        for c,k in enumerate(counts): assert abs(int(got[c])-k*m/n) <= 1+len(counts)*k/n    # rounding at both ends, and of all classes together

@few
@given(seed=st.integers(0, 2**40), split=st.integers(0, 2**40), test=st.floats(.1, .4), val=st.just(0.) | st.floats(.05, .4))
def test_splits_are_disjoint_and_stratified(seed, split, test, val):
    y = data._loaders['iris'](0, None).y
    train, v, t = data._cut(torch.as_tensor(y), test, val, stream(seed, 'split', 'iris', split))
    assert sorted(torch.cat([train, v, t]).tolist())==list(range(150))
    for part in (train, v, t):
        counts = np.bincount(y[part.numpy()], minlength=3)
        assert counts.max()-counts.min() <= 2

@pytest.mark.parametrize('name', small)
@pytest.mark.parametrize('scale', ['standard', 'minmax'])
def test_scaler_sees_the_training_part_alone(name, scale):
    d, raw = load_dataset(name, scale=scale, dtype=torch.float64), load_dataset(name, scale=None, dtype=torch.float64)
    x, fixed = raw.x_train, raw.x_train.amax(0)==raw.x_train.amin(0)
    mean, spread = (x.mean(0), x.std(0, correction=0)) if scale=='standard' else (x.amin(0), x.amax(0)-x.amin(0))
    assert torch.allclose(d.mean, mean) and torch.allclose(d.scale[~fixed], spread[~fixed]) and (d.scale[fixed]==1).all()
    for (a,_),(b,_) in zip(parts(d), parts(raw)): assert torch.allclose(a, (b-d.mean)/d.scale) and a.isfinite().all()

def test_scaler_ignores_what_happens_in_the_test_part(monkeypatch):
    usual = load_dataset('iris')
    table = data._loaders['iris'](0, None)
    _, _, test = data._cut(torch.as_tensor(table.y), .2, .2, stream(0, 'split', 'iris', 0))
    spoiled = table.x.copy(); spoiled[test.numpy()] = 1e6
    monkeypatch.setitem(data._loaders, 'iris', lambda seed, root: table._replace(x=spoiled))
    d = load_dataset('iris')
    assert torch.equal(d.x_train, usual.x_train) and torch.equal(d.mean, usual.mean) and not torch.equal(d.x_test, usual.x_test)

def test_same_seed_same_bits_whatever_else_changes():
    a, b = load_dataset('digits', seed=3, split=2), load_dataset('digits', seed=3, split=2, scale=None, downsample_size=4, dtype=torch.float64)
    assert torch.equal(a.y_train, b.y_train) and torch.equal(a.y_test, b.y_test)
    assert all(torch.equal(x, y) for p,q in zip(parts(a), parts(load_dataset('digits', seed=3, split=2))) for x,y in zip(p, q))
    assert not torch.equal(a.y_test, load_dataset('digits', seed=3, split=1).y_test)
    assert not torch.equal(load_dataset('xor', seed=1).x_train, load_dataset('xor', seed=2).x_train)

def test_global_randomness_is_left_alone():
    torch.manual_seed(0); before = torch.get_rng_state()
    load_dataset('xor'); load_dataset('digits', subset_size=100)
    assert torch.equal(torch.get_rng_state(), before)

def test_splits_differ_from_one_another():
    splits = [frozenset(map(tuple, load_dataset('wine', split=k, scale=None).x_test.tolist())) for k in range(6)]
    shared = [len(a & b)/len(a) for i,a in enumerate(splits) for b in splits[:i]]
    assert .05 < np.mean(shared) < .4            # two independent fifths share a fifth

def test_subset_is_stratified_and_shared_by_splits():
    a, b = (load_dataset('digits', subset_size=200, split=k, scale=None) for k in (0, 1))
    both = [sorted(tuple(r) for x,_ in parts(d) for r in x.tolist()) for d in (a, b)]
    assert both[0]==both[1] and len(both[0])==200
    counts = torch.cat([y for _,y in parts(a)]).bincount()
    assert counts.min()>=18 and counts.max()<=22

def test_downsampling_keeps_the_mean():
    d, s = load_dataset('digits', scale=None), load_dataset('digits', scale=None, downsample_size=4)
    assert s.n_features==16 and s.feature_names[5]=='pixel_1_1'
    assert torch.allclose(d.x_test.mean(1), s.x_test.mean(1), atol=1e-5)

def test_dataset_is_frozen_and_typed():
    d = load_dataset('iris', dtype=torch.float16)
    assert {d.x_train.dtype, d.mean.dtype, d.scale.dtype}=={torch.float16} and d.y_train.dtype==torch.int64
    assert (d.n_features, d.n_classes, len(d.feature_names), len(d.class_names))==(4, 3, 4, 3)
    with pytest.raises(AttributeError): d.name = 'other'

@pytest.mark.parametrize('bad, said', [
    (dict(name='mnst'), "'mnist'"), (dict(scale='std'), 'scale'), (dict(test_size=-.1), 'test_size'), (dict(test_size=1.), 'leave something'),
    (dict(subset_size=0), 'subset_size'), (dict(subset_size=4, test_size=.1), 'leaves none'), (dict(subset_size=4, test_size=.25), 'too few'), (dict(downsample_size=2), 'no images'),
    (dict(name='digits', downsample_size=9), '1 to 8'), (dict(name='digits', downsample_size=0), '1 to 8'), (dict(seed=.5), 'stream'), (dict(split=None), 'stream'),
    (dict(dtype=torch.int32), 'dtype')])
def test_bad_arguments_are_refused(bad, said):
    with pytest.raises(ConfigError, match=said): load_dataset(**{'name': 'iris', **bad})

def test_noise_of_xor():
    x, y = noisy_xor(40000, noise=.2)
    off = x-(2.*(x>0)-1)
    assert abs(off.std()-.2)<.005 and torch.equal(y.bincount(), torch.tensor([20000, 20000]))

# IDX

@pytest.mark.parametrize('dtype', ['u1', 'i1', 'i2', 'i4', 'f4', 'f8'])
@pytest.mark.parametrize('shape', [(7,), (2, 3), (2, 3, 4), (0, 5)])
def test_idx_comes_back(tmp_path, dtype, shape):
    a = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    for suffix in ('', '.gz'):
        f = write_idx(tmp_path/'a', a)
        if suffix: f = tmp_path/'b'; f.write_bytes(gzip.compress((tmp_path/'a').read_bytes()))
        b = read_idx(f)
        assert np.array_equal(a, b) and b.dtype==a.dtype and b.dtype.isnative and b.flags.writeable

@pytest.mark.parametrize('content, error', [
    (b'', ConfigError), (b'\0\0', ConfigError), (b'\x89PNG', ConfigError), (b'\0\0\x07\x01'+b'\0'*4, ConfigError), (b'\0\1\x08\x01'+b'\0'*4, ConfigError),
    (b'\0\0\x08\x03\0\0', ShapeError), (b'\0\0\x08\x01\0\0\0\5abcd', ShapeError), (b'\0\0\x08\x01\0\0\0\5abcdef', ShapeError),
    (b'\0\0\x0e\x03'+struct.pack('>3I', *[2**32-1]*3), ShapeError), (gzip.compress(b'\0\0\x08\x01\0\0\0\5abcde', mtime=0)[:-9], ConfigError), (b'\x1f\x8bnonsense', ConfigError)])
def test_bad_idx_is_refused(tmp_path, content, error):
    (tmp_path/'f').write_bytes(content)
    with pytest.raises(error, match='f '): read_idx(tmp_path/'f')

@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_give_an_array_or_a_clear_error(tmp_path_factory, content):
    f = tmp_path_factory.getbasetemp()/'fuzz'; f.write_bytes(b'\0\0'+content)
    try: assert isinstance(read_idx(f), np.ndarray)
    except (ConfigError, ShapeError): pass

def test_missing_idx_and_unknown_types(tmp_path):
    with pytest.raises(ConfigError, match='nothing_here'): read_idx(tmp_path/'nothing_here')
    with pytest.raises(ConfigError, match='complex128'): write_idx(tmp_path/'f', np.zeros(2, complex))

def idx_set(root, n=60, side=28, zipped=False):
    rng = np.random.default_rng(0)
    for k,(f,m) in enumerate(zip(idx_files, (n, n, n//6, n//6))):
        write_idx(root/f, rng.integers(0, 256, (m, side, side)).astype('u1') if k%2==0 else (np.arange(m)%10).astype('u1'))
        if zipped: (root/f'{f}.gz').write_bytes(gzip.compress((root/f).read_bytes())); (root/f).unlink()

@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_images_from_files(tmp_path, name):
    for sub,zipped in (('plain', False), ('zipped', True)): (tmp_path/sub).mkdir(); idx_set(tmp_path/sub, zipped=zipped)
    a, b = (load_dataset(name, root=tmp_path/sub, scale=None, downsample_size=7) for sub in ('plain', 'zipped'))
    assert torch.equal(a.x_test, b.x_test) and (a.n_features, a.n_classes, len(a.y_train)+len(a.y_val)+len(a.y_test))==(49, 10, 70)

def test_image_files_that_do_not_fit(tmp_path):
    idx_set(tmp_path)
    write_idx(tmp_path/idx_files[1], np.zeros(59, 'u1'))
    with pytest.raises(ShapeError, match='labels'): load_dataset('mnist', root=tmp_path)
    write_idx(tmp_path/idx_files[1], np.full(60, 10, 'u1'))
    with pytest.raises(ConfigError, match='labels'): load_dataset('mnist', root=tmp_path)
    write_idx(tmp_path/idx_files[0], np.zeros((60, 27, 27), 'u1'))
    with pytest.raises(ShapeError, match='27'): load_dataset('mnist', root=tmp_path)

def test_without_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def offline(*a, **k): raise URLError('no route')
    monkeypatch.setattr('sklearn.datasets.fetch_openml', offline)
    (tmp_path/idx_files[0]).write_bytes(b'')
    with pytest.raises(AnalogError, match='no route') as e: load_dataset('mnist', root=tmp_path)
    assert str(e.value).startswith('mnist is') and str(tmp_path) in str(e.value) and 't10k-labels-idx1-ubyte' in str(e.value) and 'root=' in str(e.value) and idx_files[0] not in str(e.value)

def test_fetched_images_are_kept_as_files(tmp_path, monkeypatch):
    asked, rng = [], np.random.default_rng(0)
    x, y = rng.integers(0, 256, (70, 784)), np.arange(70)%10
    def fetch(name, **k): asked.append(name); return x.astype(float), y.astype(str)
    monkeypatch.setattr('sklearn.datasets.fetch_openml', fetch)
    first, again = (load_dataset('fashion_mnist', root=tmp_path/'new') for _ in range(2))
    assert asked==['Fashion-MNIST'] and torch.equal(first.x_train, again.x_train)
    assert np.array_equal(read_idx(tmp_path/'new'/idx_files[0]), x[:60].reshape(-1, 28, 28)) and np.array_equal(read_idx(tmp_path/'new'/idx_files[3]), y[60:])
