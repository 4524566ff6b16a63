import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import stats as scipy_stats

from analognn.core import ConfigError, ShapeError, stream
from analognn.stats import Interval, _anderson, bootstrap_interval, breusch_pagan, frame_to_latex, holm, mean_interval, normality, paired_test, proportion_interval, white

few = settings(max_examples=60, deadline=None)
numbers = st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 6)), min_size=2, max_size=12)

def ends(i): return np.array([i.mean, i.low, i.high])

@few
@given(numbers, st.floats(.5, .999))
def test_t_interval_is_that_of_scipy(x, confidence):
    i = mean_interval(x, confidence)
    if np.ptp(x)>1e-6: assert np.allclose([i.low, i.high], scipy_stats.t.interval(confidence, len(x)-1, np.mean(x), scipy_stats.sem(x)), rtol=1e-9, atol=1e-9)
    assert i.low<=i.mean<=i.high and i.n==len(x)

@few
@given(numbers, st.floats(-100, 100), st.floats(.1, 10), st.sampled_from(['t', 'bootstrap']))
def test_intervals_move_and_stretch_with_the_data(x, shift, stretch, method):
    x = np.array(x)
    a, b = mean_interval(x, method=method), mean_interval(stretch*x+shift, method=method)
    assert np.allclose(ends(b), stretch*ends(a)+shift, atol=1e-7) and np.isclose(b.sem, stretch*a.sem, atol=1e-7)

@few
@given(numbers, st.randoms())
def test_order_does_not_matter(x, random):
    y = list(x); random.shuffle(y)
    assert np.allclose(ends(mean_interval(x)), ends(mean_interval(y)))

@few
@given(numbers)
def test_more_confidence_is_wider(x):
    narrow, wide = mean_interval(x, .8), mean_interval(x, .99)
    assert wide.low<=narrow.low and narrow.high<=wide.high

def test_coverage_for_five_values():
    i = mean_interval(np.random.default_rng(1).normal(3., 2., (2000, 5)), axis=1)
    held = ((i.low<=3)&(3<=i.high)).sum()
    assert scipy_stats.binomtest(int(held), 2000, .95).pvalue > 1e-3

def test_axes_and_types():
    x = torch.randn(4, 3, 2, generator=stream(0, 'test'), requires_grad=True)
    i = mean_interval(x, axis=1)
    assert i.mean.shape==(4, 2) and i.n==3
    assert np.allclose(i.low[2, 1], mean_interval(x[2,:,1]).low) and len(str(i).splitlines())==8
    assert np.allclose(mean_interval(x, axis=-1).mean, x.detach().mean(-1))

@pytest.mark.parametrize('method', ['t', 'bootstrap'])
def test_one_value_says_nothing_about_scatter(method):
    i = mean_interval([2.], method=method)
    assert i.mean==2 and np.isnan(i.sem) and (i.low, i.high)==(-np.inf, np.inf) and i.n==1
    assert str(i)=='2.000 ± nan [-inf, inf] (n=1)'

def test_equal_values_have_no_width():
    i = mean_interval([.5]*4)
    assert (i.mean, i.sem, i.low, i.high)==(.5, 0, .5, .5)

def test_printing():
    assert str(Interval(.953, .004, .945, .961, 10))=='0.953 ± 0.004 [0.945, 0.961] (n=10)'
    assert str(Interval(1234.5, 20., 1190., 1279., 3))=='1234.500 ± 20.000 [1190.000, 1279.000] (n=3)'

@pytest.mark.parametrize('call, error', [
    (lambda: mean_interval([1, np.nan]), ConfigError), (lambda: mean_interval([1, np.inf]), ConfigError), (lambda: mean_interval([]), ShapeError), (lambda: mean_interval(3.), ShapeError),
    (lambda: mean_interval([1, 2], 0.), ConfigError), (lambda: mean_interval([1, 2], 1.), ConfigError), (lambda: mean_interval([1, 2], method='z'), ConfigError), (lambda: mean_interval([1, 2], axis=1), ShapeError),
    (lambda: bootstrap_interval([1, 2], n_resamples=0), ConfigError), (lambda: bootstrap_interval([1, 2], confidence=2), ConfigError),
    (lambda: proportion_interval(-1, 5), ConfigError), (lambda: proportion_interval(0, 0), ConfigError), (lambda: proportion_interval(1, 5, 1.5), ConfigError),
    (lambda: paired_test([1], [2]), ShapeError), (lambda: paired_test([[1, 2]], [[1, 2]]), ShapeError), (lambda: paired_test([1, np.nan], [1, 2]), ConfigError), (lambda: paired_test([1, 2], [3, 4], 'u'), ConfigError),
    (lambda: holm([-.1]), ConfigError), (lambda: holm([[.1]]), ConfigError), (lambda: holm([]), ShapeError), (lambda: holm([np.nan]), ConfigError)])
def test_bad_input_is_refused(call, error):
    with pytest.raises(error): call()

# Bootstrap

def test_bootstrap_follows_its_generator():
    x = np.random.default_rng(0).normal(size=30)
    a, b, c = (bootstrap_interval(x, np.median, generator=stream(s, 'b')) for s in (0, 0, 1))
    assert a==b and a!=c

def test_bootstrap_agrees_with_scipy():
    x = np.random.default_rng(0).gamma(2., size=60)
    ours = bootstrap_interval(x, n_resamples=4000)
    theirs = scipy_stats.bootstrap((x,), np.mean, method='percentile', n_resamples=4000).confidence_interval
    assert np.allclose([ours.low, ours.high], theirs, atol=.04)

def test_rows_are_drawn_together():
    x = np.random.default_rng(0).normal(size=(20, 1))
    i = bootstrap_interval(np.hstack([x, 2*x]), lambda rows: rows[:,1].mean()/rows[:,0].mean())
    assert np.allclose(ends(i), 2)

# Proportions

@few
@given(st.integers(1, 400), st.data())
def test_wilson_is_that_of_scipy(n, draw):
    k = draw.draw(st.integers(0, n))
    i = proportion_interval(k, n)
    assert np.allclose([i.low, i.high], scipy_stats.binomtest(k, n).proportion_ci(method='wilson'), atol=1e-9)
    assert 0<=i.low<=i.mean<=i.high<=1
    turned = proportion_interval(n-k, n)
    assert np.isclose(turned.low, 1-i.high) and np.isclose(turned.high, 1-i.low)

# Paired tests

@few
@given(numbers, st.sampled_from(['t', 'wilcoxon', 'permutation']), st.integers(0, 10**6))
def test_p_values_are_symmetric_and_in_range(a, method, seed):
    b = np.random.default_rng(seed).normal(size=len(a))
    p, q = paired_test(a, b, method), paired_test(b, a, method)
    assert 0<=p.p_value<=1 and np.isclose(p.p_value, q.p_value) and np.isclose(p.difference.mean, -q.difference.mean)

def test_t_and_wilcoxon_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12)); a += .4
    assert np.isclose(paired_test(a, b).p_value, scipy_stats.ttest_rel(a, b).pvalue)
    assert np.isclose(paired_test(a, b, 'wilcoxon').p_value, scipy_stats.wilcoxon(a, b).pvalue)

@pytest.mark.parametrize('n', [6, 40])
def test_permutation_agrees_with_scipy(n):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, n)); a += .3
    theirs = scipy_stats.permutation_test((a, b), lambda x, y, axis: np.mean(x-y, axis=axis), permutation_type='samples', vectorized=True, n_resamples=9999).pvalue
    assert np.isclose(paired_test(a, b, 'permutation').p_value, theirs, atol=1e-12 if n==6 else .03)

def test_permutation_with_many_pairs_is_never_zero_and_follows_its_generator():
    a = np.arange(50.)
    p = [paired_test(a+1, a+.1*np.sin(a), 'permutation', stream(s, 'p')).p_value for s in (0, 0)]
    assert p==[1e-4, 1e-4]

@pytest.mark.parametrize('method', ['t', 'wilcoxon', 'permutation'])
def test_no_difference_at_all(method): assert paired_test([1, 2, 3], [1, 2, 3], method).p_value==1

def test_a_difference_without_scatter_is_certain(): assert paired_test([2, 3, 4], [1, 2, 3]).p_value==0

# Holm

@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms())
def test_holm_is_monotone_larger_and_blind_to_order(p, random):
    p, adjusted = np.array(p), holm(p)
    assert (adjusted>=p).all() and (adjusted<=1).all() and (adjusted<=np.minimum(1, p*len(p))+1e-15).all()
    assert (np.diff(adjusted[p.argsort(kind='stable')])>=0).all()
    order = list(range(len(p))); random.shuffle(order)
    assert np.array_equal(holm(p[order]), adjusted[order])

def test_holm_by_hand(): assert np.allclose(holm([.005, .011, .02, .04, .13]), [.025, .044, .06, .08, .13])

# Residuals

def some_residuals(n, p, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))*np.arange(1, p+1)+3
    return rng.normal(size=n)*(1+.3*np.abs(x[:, 0])), x

@pytest.mark.parametrize('n, p', [(30, 1), (200, 2), (500, 4)])
def test_tests_of_equal_variance_are_those_of_statsmodels(n, p):
    sm = pytest.importorskip('statsmodels.stats.diagnostic')
    r, x = some_residuals(n, p)
    with_ones = np.column_stack([np.ones(n), x])
    assert np.allclose(breusch_pagan(r, x)[:2], sm.het_breuschpagan(r, with_ones)[:2], rtol=1e-7)
    assert np.allclose(white(r, x)[:2], sm.het_white(r, with_ones)[:2], rtol=1e-7)
    assert np.allclose(white(r, with_ones)[:2], white(r, x)[:2])       # a column of ones changes nothing

def test_normality_of_many_is_that_of_statsmodels():
    sm = pytest.importorskip('statsmodels.stats.diagnostic')
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=5001), rng.normal(size=5001)+.6*rng.exponential(size=5001), rng.standard_t(20, size=5001)):
        a2, p = normality(x)[:2]
        theirs = sm.normal_ad(x)
        assert np.isclose(a2, theirs[0], rtol=1e-8) and np.isclose(p, theirs[1], rtol=1e-6, atol=1e-300)
    assert normality(rng.standard_t(2, size=6000))[1]==0               # where theirs overflows

@pytest.mark.parametrize('seed', range(30))
def test_every_branch_of_the_p_value_agrees(seed):
    sm = pytest.importorskip('statsmodels.stats.diagnostic')
    x = np.random.default_rng(seed).standard_t(3+5*seed, size=40)
    assert np.allclose(_anderson(x), sm.normal_ad(x))

def test_shapiro_is_scipys():
    x = np.random.default_rng(0).normal(size=50)
    d = normality(x)
    assert d[:2]==pytest.approx(tuple(scipy_stats.shapiro(x))) and d.method=='Shapiro-Wilk' and d.n==50 and 'p = ' in str(d)

@few
@given(st.floats(.1, 100), st.floats(-100, 100))
def test_units_do_not_matter(scale, shift):
    r, x = some_residuals(60, 2)
    for test in (breusch_pagan, white): assert np.allclose(test(scale*r, scale*x+shift)[:2], test(r, x)[:2], rtol=1e-5)

@pytest.mark.parametrize('call, error, words', [
    (lambda: normality([1., 2.]), ShapeError, 'n of 3 or more'), (lambda: normality([2.]*5), ConfigError, 'values that vary'), (lambda: normality([1., 2., np.nan]), ConfigError, 'NaN'),
    (lambda: white(np.ones(3), np.ones((4, 1))), ShapeError, 'residuals have shape'), (lambda: white(np.ones(5), np.random.default_rng(0).normal(size=(5, 3))), ShapeError, 'more residuals'),
    (lambda: breusch_pagan(np.ones(5), np.ones(5)), ConfigError, 'constant columns'), (lambda: breusch_pagan(np.zeros(5), np.arange(5)), ConfigError, 'all 0'),
    (lambda: frame_to_latex([], 'c', 'l'), ShapeError, 'at least one row'), (lambda: frame_to_latex([dict(a=1)], 'c', 'a b'), ConfigError, 'label'), (lambda: frame_to_latex([dict(a=1)], 'c', 'l', digits=0), ConfigError, 'digits')])
def test_bad_residuals_and_tables_are_named(call, error, words):
    with pytest.raises(error, match=words): call()

def test_table_is_latex():
    walker = pytest.importorskip('pylatexenc.latexwalker')
    rows = [{'a_b': '50% & #1', 'c$': 1.23456789, 'd^~\\': 'x{y}'}]
    for index in (False, True):
        tex = frame_to_latex(rows, r'50% of_{a}\b', 'tab:x', index=index)
        walker.LatexWalker(tex, tolerant_parsing=False).get_latex_nodes()
        assert '1.235' in tex and r'50\% \& \#1' in tex and r'a\_b' in tex and r'50\% of\_\{a\}\textbackslash{}b' in tex and r'\midrule' in tex
    assert '$x_1$' in frame_to_latex([dict(a='$x_1$')], '$y$', 'l', escape=False)
