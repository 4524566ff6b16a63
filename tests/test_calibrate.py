import pickle, subprocess, sys, warnings

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import analognn
from analognn.calibrate import Affine, Learned, Polynomial, calibrators, least_squares, monomials

each = pytest.mark.parametrize('cal', [Affine(), Polynomial(), Learned(epochs=20), Polynomial(3, alpha=.1, per_output=True), Learned(epochs=20, per_output=True)], ids=str)

@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    ideal = rng.uniform(-1.5, 1.5, (300, 3))
    return np.tanh(ideal@(np.eye(3)+.1*rng.normal(size=(3, 3)))), ideal

def rms_error(cal, analog, ideal): return ((cal.predict(analog)-ideal)**2).mean()**.5

@pytest.mark.parametrize('cal', [Affine(), Polynomial(alpha=1e-3), Learned(epochs=10)], ids=str)
def test_scikit_learn_accepts_them(cal):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*does not inherit')    # on purpose: see the chapter
        results = check_estimator(cal, on_skip=None)
    assert sum(r['status']=='passed' for r in results)>40

def test_importing_and_using_them_needs_no_scikit_learn():
    code = '''import sys, numpy as np
from analognn.calibrate import calibrators
x = np.random.default_rng(0).normal(size=(20, 3))
for c in calibrators.values(): c().fit(x, 2*x).predict(x)
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
    (lambda: Polynomial(alpha=-1).fit(x3, x3), 'alpha is -1'), (lambda: Affine().set_params(degree=2), 'Affine has no degree; known: per_output')])
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says): call()

def test_at_the_front_door(): assert analognn.Affine is Affine and analognn.Learned is Learned and analognn.Polynomial is Polynomial
