import pickle, subprocess, sys, warnings

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import analognn
from analognn.calibrate import (HMAC, PINC, Affine, Ensemble, GaussianProcess, Isotonic, Learned, Polynomial, Wrapped, bench_calibration, calibrators, compare_calibrators,
                                error_variance, least_squares, monomials)
from analognn.core import ConfigError, ShapeError, stream
from analognn.nn import MLP, as_designed, draw
from analognn.nonideal import Hardware

each = pytest.mark.parametrize('cal', [Affine(), Polynomial(), Learned(epochs=20), Polynomial(3, alpha=.1, per_output=True), Learned(epochs=20, per_output=True),
                                         HMAC(), HMAC(per_output=True), PINC(), PINC(per_output=True), Isotonic(), Isotonic(per_output=True)], ids=str)

@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    ideal = rng.uniform(-1.5, 1.5, (300, 3))
    return np.tanh(ideal@(np.eye(3)+.1*rng.normal(size=(3, 3)))), ideal

def rms_error(cal, analog, ideal): return ((cal.predict(analog)-ideal)**2).mean()**.5

@pytest.mark.parametrize('cal', [Affine(), Polynomial(alpha=1e-3), Learned(epochs=10), HMAC(), PINC(), Isotonic(), Wrapped(), Wrapped(Ridge()), Ensemble(n_members=5),
                                 Ensemble(PINC(), 3), GaussianProcess(tune_on=20)], ids=str)
def test_scikit_learn_accepts_them(cal):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*does not inherit')    # on purpose: see the chapter
        results = check_estimator(cal, on_skip=None)
    assert sum(r['status']=='passed' for r in results)>40

def test_importing_and_using_them_needs_no_scikit_learn():
    code = '''import sys, numpy as np
from analognn.calibrate import calibrators
x = np.random.default_rng(0).normal(size=(20, 3))
for name in ('affine', 'hmac', 'polynomial', 'learned', 'pinc'): calibrators[name]().fit(x, 2*x).predict(x)
assert not {'sklearn', 'pandas', 'scipy.stats', 'matplotlib'} & {*sys.modules}'''
    subprocess.run([sys.executable, '-c', code], check=True)

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000))
def test_affine_errors_are_undone(n, seed):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    ideal = rng.normal(size=(30, n))
    analog = ideal@q*rng.uniform(.2, 3, n)+rng.normal(size=n)
    np.testing.assert_allclose(Affine().fit(analog, ideal).predict(analog), ideal, atol=1e-10)

def test_affine_is_scikit_learns_regression(pairs):
    expected = LinearRegression().fit(*pairs)
    cal = Affine().fit(*pairs)
    np.testing.assert_allclose(cal.predict(pairs[0]), expected.predict(pairs[0]), atol=1e-12)
    np.testing.assert_allclose(cal.fitted_[0][0].T, expected.coef_, atol=1e-12)
    assert cal.score(*pairs)==pytest.approx(expected.score(*pairs))

@pytest.mark.parametrize('degree, alpha', [(1, 0.), (2, 0.), (3, .02)])
def test_polynomial_is_scikit_learns_pipeline(pairs, degree, alpha):
    fit = Ridge(alpha*len(pairs[0])) if alpha else LinearRegression()
    expected = make_pipeline(StandardScaler(), PolynomialFeatures(degree, include_bias=False), fit).fit(*pairs)
    np.testing.assert_allclose(Polynomial(degree, alpha).fit(*pairs).predict(pairs[0]), expected.predict(pairs[0]), atol=1e-10)

def test_monomials_are_scikit_learns(pairs):
    np.testing.assert_allclose(monomials(pairs[0], 4), PolynomialFeatures(4, include_bias=False).fit_transform(pairs[0]))

def test_small_voltages_are_no_problem(pairs):
    analog, ideal = pairs
    np.testing.assert_allclose(Polynomial(3).fit(1e-9*analog, ideal).predict(1e-9*analog), Polynomial(3).fit(analog, ideal).predict(analog), atol=1e-9)

@each
def test_on_its_own_data_no_worse_than_none(cal, pairs):
    analog, ideal = pairs
    assert rms_error(clone(cal).fit(analog, ideal), analog, ideal)<((analog-ideal)**2).mean()**.5

def test_learned_beats_affine_on_saturation(pairs):
    analog, ideal = pairs
    fit = lambda cal: rms_error(cal.fit(analog[:200], ideal[:200]), analog[200:], ideal[200:])
    assert fit(Learned())<.8*fit(Affine())

def test_learned_starts_from_the_affine_fit(pairs):
    np.testing.assert_allclose(Learned(epochs=0).fit(*pairs).predict(pairs[0]), Affine().fit(*pairs).predict(pairs[0]), atol=1e-12)

def test_learned_depends_on_its_seed_alone(pairs):
    run = lambda seed: Learned(epochs=20, seed=seed).fit(*pairs).predict(pairs[0])
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = run(0)
    torch.manual_seed(7); assert np.array_equal(run(0), first) and not np.array_equal(run(1), first)
    torch.set_num_threads(2)
    try: assert np.array_equal(run(0), first) and torch.get_num_threads()==2
    finally: torch.set_num_threads(threads)
    torch.random.set_rng_state(state); run(0)
    assert torch.equal(torch.random.get_rng_state(), state)

@each
def test_outputs_of_per_output_do_not_mix(cal, pairs):
    analog, ideal = pairs
    other = analog.copy(); other[:, 0] = 0
    moved = np.abs(clone(cal).fit(analog, ideal).predict(analog)-clone(cal).fit(other, ideal).predict(other)).max(0)
    assert moved[0]>1e-3 and (moved[1:]>1e-3).all()!=cal.per_output and (not cal.per_output or (moved[1:]==0).all())

@each
def test_tensors_arrays_lists_and_tables(cal, pairs):
    analog, ideal = pairs
    expected = clone(cal).fit(analog, ideal).predict(analog)
    assert type(expected) is np.ndarray and expected.dtype==np.float64
    tensors = torch.from_numpy(analog).requires_grad_(), torch.from_numpy(ideal)
    table = pd.DataFrame(analog, columns=list('abc'))
    for x,y in (tensors, (analog.tolist(), ideal.tolist()), (table, ideal)): assert np.array_equal(clone(cal).fit(x, y).predict(x), expected)
    single = clone(cal).fit(analog.astype(np.float32), ideal.astype(np.float32)).predict(analog.astype(np.float32))
    assert single.dtype==np.float64 and np.abs(single-expected).max()<1e-3

def test_names_of_columns_are_kept(pairs):
    analog, ideal = pairs
    cal = Affine().fit(pd.DataFrame(analog, columns=list('abc')), ideal)
    assert list(cal.feature_names_in_)==list('abc')
    with pytest.raises(ValueError, match='feature names'): cal.predict(pd.DataFrame(analog, columns=list('cba')))

@each
def test_shape_of_targets_is_the_shape_of_predictions(cal, pairs):
    analog, ideal = pairs
    x = analog[:, :1] if cal.per_output else analog
    assert clone(cal).fit(x, ideal[:, 0]).predict(x[:5]).shape==(5,)
    assert clone(cal).fit(x, ideal[:, :1]).predict(x[:5]).shape==(5, 1)

@each
def test_copies(cal, pairs):
    cal = clone(cal).fit(*pairs)
    assert np.array_equal(pickle.loads(pickle.dumps(cal)).predict(pairs[0]), cal.predict(pairs[0]))
    assert is_regressor(cal) and eval(repr(cal)).get_params()==cal.get_params()
    with pytest.raises(NotFittedError, match='call fit'): clone(cal).predict(pairs[0])

def test_grid_search_and_pipeline(pairs):
    search = GridSearchCV(make_pipeline(StandardScaler(), Polynomial()), dict(polynomial__degree=[1, 3]), cv=3).fit(*pairs)
    assert search.best_params_==dict(polynomial__degree=3)

def test_constant_outputs_are_no_problem(pairs):
    analog, ideal = pairs[0].copy(), pairs[1]
    analog[:, 1] = 2.5
    for name in calibrators: assert np.isfinite(calibrators[name]().fit(analog, ideal).predict(analog)).all()

def test_ridge_shrinks(pairs):
    sizes = [np.linalg.norm(least_squares(*pairs, alpha=a)[0]) for a in (0., .1, 1., 10.)]
    assert sizes==sorted(sizes, reverse=True) and sizes[-1]<.2*sizes[0]

x3 = np.zeros((4, 3))
@pytest.mark.parametrize('call, says', [
    (lambda: Affine().fit(x3), 'y is None'), (lambda: Affine().fit(x3, x3[:2]), 'inconsistent numbers of samples'), (lambda: Affine().fit(x3*np.nan, x3), 'X contains NaN'),
    (lambda: Affine().fit(x3, x3+np.inf), 'y contains infinity'), (lambda: Affine().fit(x3[0], x3[0]), 'Expected 2D array'), (lambda: Affine().fit(x3[:0], x3[:0]), r'0 sample\(s\)'),
    (lambda: Affine().fit(x3, np.zeros((4, 3, 2))), 'dim 3'), (lambda: Affine().fit(x3, x3).predict(x3[:, :2]), 'expecting 3 features'), (lambda: Affine().fit(x3, x3).predict(x3*np.nan), 'NaN'),
    (lambda: Affine(per_output=True).fit(x3, x3[:, :2]), 'X has 3 columns and y 2'), (lambda: Polynomial(0).fit(x3, x3), 'degree is 0'), (lambda: Polynomial(1.5).fit(x3, x3), 'degree is 1.5'),
    (lambda: HMAC().fit(x3, x3, variance=np.ones(3)), r'variance has shape \(3,\); expected \(4,\) or \(4, 3\)'), (lambda: HMAC().fit(x3, x3, variance=x3), 'variance runs from 0.0 to 0.0; allowed'),
    (lambda: HMAC().fit(x3, x3, variance=x3*np.nan), 'variance runs from nan'), (lambda: HMAC(shared=True).fit(x3, x3[:, :2]), 'X has 3 columns and y 2; with shared'),
    (lambda: PINC(knots=0).fit(x3, x3), 'knots is 0'), (lambda: PINC(folds=1).fit(x3, x3), 'folds is 1'), (lambda: PINC(penalties=()).fit(x3, x3), r'penalties is \(\)'), (lambda: PINC(penalties=(0.,)).fit(x3, x3), r'penalties is \(0.0,\)'),
    (lambda: PINC(bounds=(1, -1)).fit(x3, x3), r'bounds is \(1, -1\)'), (lambda: PINC(bounds=(np.nan, 1)).fit(x3, x3), 'bounds is'), (lambda: PINC(bounds=3).fit(x3, x3), 'bounds is 3'),
    (lambda: Wrapped(3).fit(x3, x3), 'estimator is 3'), (lambda: Ensemble(n_members=1).fit(x3, x3), 'n_members is 1'), (lambda: GaussianProcess(tune_on=-1).fit(x3, x3), 'tune_on is -1'),
    (lambda: error_variance(np.ones((2, 3)), None, np.ones((4, 2))), r'weight has shape \(2, 3\) and x \(4, 2\)'), (lambda: error_variance(np.ones((2, 3)), np.ones(3), np.ones((4, 3))), r'bias has shape \(3,\)'),
    (lambda: error_variance(np.ones((2, 3)), None, np.ones((4, 3)), offset=-1.), 'offset is -1.0'),
    (lambda: compare_calibrators(counts=()), r'counts is \(\)'), (lambda: compare_calibrators(counts=(1, 5)), 'counts is'), (lambda: compare_calibrators(chips=1), 'chips is 1'), (lambda: compare_calibrators(redraws=1), 'redraws 1'),
    (lambda: compare_calibrators(spread=-1.), 'spread is -1'), (lambda: compare_calibrators(hardware=Hardware()), 'hardware is'), (lambda: compare_calibrators(baseline='ols'), "unknown baseline 'ols'"),
    (lambda: Polynomial(alpha=-1).fit(x3, x3), 'alpha is -1'), (lambda: Affine().set_params(degree=2), 'Affine has no degree; known: per_output')])
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says): call()

def test_at_the_front_door(): assert analognn.Affine is Affine and analognn.Learned is Learned and analognn.Polynomial is Polynomial


# HMAC

@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 40), q=st.integers(1, 4), seed=st.integers(0, 10_000), v=st.floats(1e-12, 1e12), per_output=st.booleans())
def test_hmac_of_equal_variances_is_least_squares_to_the_last_bit(n, q, seed, v, per_output):
    x, y = np.random.default_rng(seed).normal(size=(2, n, q))
    ordinary = Affine(per_output=per_output).fit(x, y).predict(x)
    for variance in (None, np.full(n, v), np.full((n, q), v), np.tile(v*np.arange(1, q+1), (n, 1))):
        assert np.array_equal(HMAC(per_output=per_output).fit(x, y, variance=variance).predict(x), ordinary)

@settings(max_examples=30, deadline=None)
@given(n=st.integers(6, 40), q=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_hmac_is_scikit_learns_weighted_regression(n, q, seed):
    rng = np.random.default_rng(seed)
    x, y, v = rng.normal(size=(n, q)), rng.normal(size=(n, q)), rng.uniform(.01, 3, (n, q))
    expected = np.stack([LinearRegression().fit(x, y[:, j], sample_weight=1/v[:, j]).predict(x) for j in range(q)], 1)
    np.testing.assert_allclose(HMAC().fit(x, y, variance=v).predict(x), expected, atol=1e-8)
    np.testing.assert_allclose(HMAC().fit(x, y, variance=torch.from_numpy(1e-6*v)).predict(x), expected, atol=1e-8)
    pooled = LinearRegression().fit(x.reshape(-1, 1), y.ravel(), sample_weight=1/v.ravel())
    np.testing.assert_allclose(HMAC(shared=True).fit(x, y, variance=v).predict(x), pooled.predict(x.reshape(-1, 1)).reshape(n, q), atol=1e-8)

def test_error_variance_is_that_of_many_chips():
    layer = MLP([4, 2], hardware=Hardware(mismatch=.02, offset=.01, read_noise=.02), generator=stream(3, 'weights')).double()
    x = torch.randn(5, 4, generator=stream(3, 'x'), dtype=torch.float64)
    with torch.no_grad(): errors = np.stack([(draw(layer, generator=stream(k, 'chip'))(x)-as_designed(layer)(x)).numpy() for k in range(800)])
    np.testing.assert_allclose((errors**2).mean(0), error_variance(layer[0].weight, layer[0].bias, x, .02, .01, .02), rtol=.2)

def test_error_variance_term_by_term():
    w, x = np.array([[1., -2.]]), np.array([[3., .5], [0., 0.]])
    assert error_variance(w, None, x, mismatch=.1).tolist()==pytest.approx(np.array([[.1], [0.]]))
    assert error_variance(w, [-1.], x, offset=.1).tolist()==pytest.approx(np.array([[.25], [.25]]))
    assert error_variance(w, None, x, read_noise=.1).tolist()==pytest.approx(np.array([[.01], [.01]]))

# Monotone maps

columns = st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=n, max_size=n)]*2))

@settings(max_examples=60, deadline=None)
@given(columns, st.integers(1, 12), st.none() | st.tuples(st.floats(-5, 0), st.floats(0, 5)))
def test_pinc_is_monotone_and_bounded(pair, knots, bounds):
    x, y = (np.array(v)[:, None] for v in pair)
    cal = PINC(bounds, knots, per_output=True).fit(x, y)
    low, high = bounds or (3*y.min()-2*y.max(), 3*y.max()-2*y.min())
    out = cal.predict(np.linspace(x.min()-2*np.ptp(x)-1, x.max()+2*np.ptp(x)+1, 400)[:, None])[:, 0]
    steps, tiny = np.diff(out), 1e-9*max(1., np.abs(out).max())
    assert (steps>=-tiny).all() or (steps<=tiny).all()
    assert low<=out.min() and out.max()<=high

def test_pinc_is_smooth_within_its_bounds(pairs):
    analog, ideal = pairs
    fine = np.linspace(-1.2, 1.2, 4001)[:, None]
    slope = np.diff(PINC(bounds=(-100, 100)).fit(analog[:, :1], ideal[:, :1]).predict(fine)[:, 0])/np.diff(fine[:, 0])
    assert np.abs(np.diff(slope)).max()<.01*slope.max()

def test_pinc_beats_affine_on_saturation_and_a_cubic_on_few(pairs):
    analog, ideal = (a[:, :1] for a in pairs)
    error = lambda cal, n: rms_error(cal.fit(analog[:n], np.arctanh(analog[:n])), analog[200:], np.arctanh(analog[200:]))
    assert error(PINC(), 200)<.4*error(Affine(), 200) and error(PINC(), 6)<error(Polynomial(3), 6)

def test_pinc_chooses_a_line_for_a_line(pairs):
    rng, (analog, _) = np.random.default_rng(1), pairs
    noisy = 2*analog+.3*rng.normal(size=analog.shape)
    assert rms_error(PINC(per_output=True).fit(analog, noisy), analog, Affine(per_output=True).fit(analog, noisy).predict(analog))<.05

def test_pinc_does_not_depend_on_the_order_of_samples(pairs):
    analog, ideal = pairs
    order = np.random.default_rng(0).permutation(len(analog))
    np.testing.assert_allclose(PINC().fit(analog[order], ideal[order]).predict(analog), PINC().fit(analog, ideal).predict(analog), atol=1e-8)

def test_isotonic_is_scikit_learns(pairs):
    analog, ideal = pairs
    expected = np.stack([IsotonicRegression(out_of_bounds='clip').fit(a, b).predict(a) for a,b in zip(analog.T, ideal.T)], 1)
    np.testing.assert_allclose(Isotonic(per_output=True).fit(analog, ideal).predict(analog), expected, atol=1e-12)

# Adapters and spreads

def test_wrapped_takes_any_regressor(pairs):
    analog, ideal = pairs
    np.testing.assert_allclose(Wrapped().fit(analog, ideal).predict(analog), Affine().fit(analog, ideal).predict(analog), atol=1e-12)
    search = GridSearchCV(Wrapped(Ridge()), dict(estimator__alpha=[1e-6, 1e6]), cv=3).fit(analog, ideal)
    assert search.best_params_==dict(estimator__alpha=1e-6)
    assert Wrapped().set_params(estimator__alpha=2., estimator=Ridge()).estimator.alpha==2.
    model = Ridge(); Wrapped(model).fit(analog, ideal)
    assert not hasattr(model, 'coef_')

@pytest.mark.parametrize('cal', [GaussianProcess(tune_on=30), GaussianProcess(per_output=True, tune_on=30), Ensemble(n_members=5), Ensemble(PINC(per_output=True), 4)], ids=str)
def test_spreads_have_the_shape_of_predictions(cal, pairs):
    analog, ideal = (a[:60] for a in pairs)
    mean, std = cal.fit(analog, ideal).predict(analog, return_std=True)
    assert mean.shape==std.shape==ideal.shape and (std>0).all() and np.array_equal(mean, cal.predict(analog))
    mean, std = clone(cal).set_params(**{k: False for k in cal.get_params() if k.endswith('per_output')}).fit(analog, ideal[:, 0]).predict(analog[:7], return_std=True)
    assert mean.shape==std.shape==(7,)

def test_ensemble_depends_on_its_seed_alone(pairs):
    analog, ideal = pairs
    run = lambda seed: Ensemble(n_members=3, seed=seed).fit(analog, ideal).predict(analog)
    assert np.array_equal(run(0), run(0)) and not np.array_equal(run(0), run(1))

def test_spread_of_a_gaussian_process_grows_away_from_the_samples(pairs):
    analog, ideal = (a[:80, :1] for a in pairs)
    _, std = GaussianProcess().fit(analog, ideal).predict(np.array([[0.], [3.]]), return_std=True)
    assert std[1]>std[0]

# The comparison

def test_comparison_uses_the_same_draws_for_all():
    cals = dict(none=None, affine=Affine(per_output=True), twin=Affine(per_output=True), hmac=HMAC(per_output=True))
    table = compare_calibrators(cals, (5, 20), 3, 2, spread=1.)
    assert isinstance(table, pd.DataFrame) and len(table)==8
    twin, affine, none = (table[table.calibrator==k] for k in ('twin', 'affine', 'none'))
    assert (twin.difference==0).all() and twin.rmse.tolist()==affine.rmse.tolist() and twin.variance_ratio.tolist()==pytest.approx([1, 1])
    assert (none.variance==0).all() and none.variance_ratio.isna().all() and none.rmse.nunique()==1
    assert not table.drop(columns=['variance_ratio', 'ratio_low', 'ratio_high']).isna().any().any() and (table.rmse_low<=table.rmse).all()
    alone = compare_calibrators(dict(affine=Affine(per_output=True)), (5, 20), 3, 2, spread=1.)
    assert alone.rmse[0]==affine.rmse.iloc[0]
    assert compare_calibrators(cals, (5, 20), 3, 2, spread=1., n_workers=2).equals(table)

def test_bench_runs():
    result = bench_calibration('quick')
    assert {*result}=={'alike', 'unequal', 'saturating', 'slow', 'claims'} and len(result['claims']['1']['hmac 50, affine 500'])==3
