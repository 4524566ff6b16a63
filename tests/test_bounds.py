import math

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from analognn.bounds import (accuracy_floor, capacity, converter_information, cooks_distance, cramer_rao, flip_bound, flipping_error, layer_error, layer_error_bound, margins,
                             network_error_bound, r_max_of_area, reference_tradeoff, residual_panels, resistance_moments, weighted_least_squares)
from analognn.core import ConfigError, ShapeError, stream
from analognn.nn import MLP, AnalogLinear, as_designed, draw, seed_
from analognn.nonideal import Converter, Drift, Hardware

few, some = settings(max_examples=12, deadline=None), settings(max_examples=60, deadline=None)
seeds, outputs = st.integers(0, 10**6), st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=2, max_size=8)

def some_layer(seed, hardware=None):
    g = stream(seed, 'layer')
    n_out, n_in = torch.randint(1, 6, (2,), generator=g).tolist()
    l = AnalogLinear(n_in, n_out, hardware=hardware, dtype=torch.float64)
    with torch.no_grad(): l.weight.normal_(generator=g); l.bias.normal_(generator=g)
    return l, torch.randn(8, n_in, generator=g, dtype=torch.float64)+.5

@torch.no_grad()
def squared_errors(model, x, chips):
    ideal = as_designed(model)(x)
    return torch.stack([(seed_(draw(model, generator=stream(k)), stream(k, 'reads'))(x)-ideal).square().sum(1) for k in range(chips)])

@few
@given(seeds, st.sampled_from([.02, .1, .2]), st.sampled_from([0., .01]), st.sampled_from([0., .05]))
def test_bound_holds_for_random_layers(seed, mismatch, offset, noise):
    h = Hardware(mismatch=mismatch, offset=offset, weight_noise=noise, read_noise=noise, activation_noise=noise)
    l, x = some_layer(seed, h)
    e = squared_errors(l, x, 300).mean(1).numpy()
    exact, bound = layer_error(l.weight, x, h, l.bias), layer_error_bound(l.weight, x.square().mean(0).max().item(), h, l.bias)
    assert abs(e.mean()-exact.total.mean().item())<5*e.std()/300**.5
    assert all(t.mean().item()<=b*(1+1e-9) for t, b in zip(exact, bound))

@some
@given(seeds, st.floats(.001, .2))
def test_bound_is_above_the_formula_and_scales(seed, mismatch):
    l, x = some_layer(seed)
    h, x2 = Hardware(mismatch=mismatch, offset=.01), x.square().mean(0).max().item()
    assert layer_error(l.weight, x, h, l.bias).total.mean().item()<=layer_error_bound(l.weight, x2, h, l.bias).total*(1+1e-9)
    twice = layer_error(2*l.weight, x, h, 2*l.bias), layer_error(l.weight, 2*x, h)
    assert torch.allclose(twice[0].mismatch, 4*layer_error(l.weight, x, h, l.bias).mismatch)
    assert torch.allclose(twice[1].mismatch, 4*layer_error(l.weight, x, h).mismatch)

@pytest.mark.parametrize('std', [.02, .1, .2])
def test_moments_are_those_of_what_layers_draw(std):
    d = 1/(1+torch.randn(2_000_000, generator=stream(1), dtype=torch.float64).clamp(-4, 4)*std)
    m1, v = resistance_moments(std)
    assert abs(d.mean().item()-1-m1)<5*v**.5/2e6**.5 and v==pytest.approx(d.var().item(), rel=.01)

@some
@given(outputs)
def test_the_counterexample_flips_with_half_the_squared_margin(y):
    y = torch.tensor(y, dtype=torch.float64)
    top = y.argmax()
    m = margins(y[None], top[None])[0]
    if m<=0: return
    e = flipping_error(y)
    assert e.square().sum().item()==pytest.approx(m.item()**2/2)
    assert margins((y+1.001*e)[None], top[None])[0]<0                   # lost, with less than .51 margin^2
    assert flip_bound((1.001*e).square().sum()[None], m[None]).item()==1

@some
@given(outputs, seeds, st.floats(0, 3))
def test_no_error_flips_below_the_bound(y, seed, size):
    y = torch.tensor(y, dtype=torch.float64)
    e = size*torch.randn(50, len(y), generator=stream(seed), dtype=torch.float64)
    label, m = y.argmax(), margins(y[None], y.argmax()[None])
    if m[0]<=0: return
    lost = ((y+e).argmax(1)!=label).double().mean()
    assert lost<=flip_bound(e.square().sum(1).mean()[None], m)[0]+1e-12

def test_floor_of_accuracy_leaves_out_what_is_lost():
    y = torch.tensor([[1., 0.], [0., 1.], [2., 0.]])
    labels = torch.tensor([0, 0, 0])
    assert accuracy_floor(y, labels, torch.zeros(3))==pytest.approx(2/3)
    assert accuracy_floor(y, labels, torch.tensor([0., 9., 1.]))==pytest.approx((1+.5)/3)
    assert accuracy_floor(y, labels, torch.full((3,), 9.))==0

@some
@given(seeds, st.floats(.1, 10), st.floats(1e3, 1e9), st.floats(.01, 100))
def test_best_reference_is_a_minimum(seed, pelgrom, bandwidth, factor):
    l, _ = some_layer(seed)
    t = reference_tradeoff(l.weight, 1., pelgrom, bandwidth, bias=l.bias)
    r = t.best()
    assert t.error(r)<=t.error(factor*r)*(1+1e-12)
    assert t.mismatch/r==pytest.approx(t.thermal*r)
    assert t.best(r/2)==r/2 and t.best(2*r)==r

def test_area_budget(): assert r_max_of_area(1000., 10, .01)==pytest.approx(1e4)

@few
@given(seeds)
def test_bound_holds_for_random_networks(seed):
    h = Hardware(mismatch=.05, offset=.01, read_noise=.02, weight_noise=.01)
    m, x = MLP([4, 6, 5, 3], hardware=h, generator=stream(seed)).double(), torch.randn(6, 4, generator=stream(seed, 'x'), dtype=torch.float64)
    bounds = network_error_bound(m, x)
    assert [*bounds]==['0', '2', '4']
    e = squared_errors(m, x, 200)
    assert (e.mean(0)-4*e.std(0)/200**.5<bounds['4']).all()

def test_first_layer_of_a_network_is_exact():
    m, x = MLP([4, 3], hardware=Hardware(mismatch=.1), generator=stream(0)), torch.randn(5, 4, generator=stream(1))
    assert torch.allclose(network_error_bound(m, x)['0'], layer_error(m[0].weight, x, m[0].hardware, m[0].bias).total)

@some
@given(seeds, st.integers(1, 4))
def test_weighting_beats_no_weighting(seed, p):
    rng = np.random.default_rng(seed)
    x, s = rng.normal(size=(12, p)), rng.uniform(.1, 5, 12)
    pinv = np.linalg.pinv(x)
    bound = cramer_rao(x, s)
    assert np.allclose(bound, np.linalg.inv((x.T/s)@x)) and np.allclose(bound, cramer_rao(x, np.diag(s)))
    assert np.linalg.eigvalsh((pinv*s)@pinv.T-bound).min()>-1e-9
    beta = rng.normal(size=p)
    assert np.allclose(weighted_least_squares(x, x@beta, s).beta, beta)

def test_weighted_least_squares_is_that_of_statsmodels():
    sm = pytest.importorskip('statsmodels.api')
    rng = np.random.default_rng(0)
    x, s, y = rng.normal(size=(30, 3)), rng.uniform(.1, 5, 30), rng.normal(size=30)
    assert np.allclose(weighted_least_squares(x, y, s).beta, sm.WLS(y, x, weights=1/s).fit().params)
    r = y-x@np.linalg.lstsq(x, y)[0]
    assert np.allclose(cooks_distance(r, x), sm.OLS(y, x).fit().get_influence().cooks_distance[0])

@some
@given(st.integers(1, 8), st.floats(1e-4, 2))
def test_information_is_limited(bits, noise):
    i = converter_information(bits, noise, points=1024)
    assert -1e-9<=i<=min(bits, capacity(1/3/noise**2))+1e-9

def test_residual_panels():
    rng = np.random.default_rng(0)
    x = np.stack([np.ones(40), rng.normal(size=40)], 1)
    fitted = x@[1., 2.]
    for design in (None, x):
        axes = residual_panels(torch.tensor(fitted+rng.normal(size=40)), fitted, design).axes
        assert len(axes)==6 and all(a.get_xlabel() and a.get_ylabel() for a in axes)

w = torch.ones(2, 3)
@pytest.mark.parametrize('call, error, words', [
    (lambda: resistance_moments(-.1), ConfigError, 'std is -0.1'),
    (lambda: layer_error(w, torch.ones(4), Hardware()), ShapeError, r'expected \(n, 3\)'),
    (lambda: layer_error(torch.ones(3), torch.ones(1, 3), Hardware()), ShapeError, 'weight has shape'),
    (lambda: layer_error(w*math.nan, torch.ones(1, 3), Hardware()), ConfigError, 'NaN'),
    (lambda: layer_error(w, torch.ones(1, 3), None), ConfigError, 'allowed: a Hardware'),
    (lambda: layer_error(w, torch.ones(1, 3), Hardware(v_max=2.)), ConfigError, 'hardware has v_max'),
    (lambda: layer_error(w, torch.ones(1, 3), Hardware(drift=Drift(1.))), ConfigError, 'hardware has drift'),
    (lambda: layer_error(w, torch.ones(1, 3), Hardware(dac=Converter(8, .5))), ConfigError, 'dac reaches from -0.5 to 0.5'),
    (lambda: layer_error(w, -torch.ones(1, 3), Hardware(dac=Converter(8, 2., signed=False))), ConfigError, 'dac reaches from 0'),
    (lambda: layer_error_bound(w, math.inf, Hardware()), ConfigError, 'x2 is inf'),
    (lambda: layer_error_bound(w, 1., Hardware(adc=Converter(8, learned=True))), ConfigError, 'adc is'),
    (lambda: margins(torch.ones(2, 1), torch.zeros(2, dtype=torch.long)), ShapeError, 'classes of at least 2'),
    (lambda: margins(torch.ones(2, 2), torch.zeros(2)), ConfigError, 'whole numbers'),
    (lambda: flip_bound(-torch.ones(2), torch.ones(2)), ConfigError, 'negative'),
    (lambda: flipping_error(torch.ones(2, 2)), ShapeError, 'y has shape'),
    (lambda: reference_tradeoff(0*w, 1., 1.), ConfigError, 'all zero'),
    (lambda: reference_tradeoff(w, 1., 1., bandwidth=0.), ConfigError, 'bandwidth is 0'),
    (lambda: reference_tradeoff(w, 1., 1.).best(-1.), ConfigError, 'r_max is -1'),
    (lambda: r_max_of_area(1., 0, 1.), ConfigError, 'n_resistors is 0'),
    (lambda: network_error_bound(nn.Sequential(AnalogLinear(2, 2), nn.Tanh()), torch.ones(1, 2)), ConfigError, 'AnalogLinear, Tanh'),
    (lambda: cramer_rao(np.ones((2, 3)), np.ones(2)), ShapeError, 'x has shape'),
    (lambda: cramer_rao(np.eye(2), -np.eye(2)), ConfigError, 'positive definite'),
    (lambda: weighted_least_squares(np.eye(2), np.ones(3), np.ones(2)), ShapeError, 'y has shape'),
    (lambda: cooks_distance(np.ones(2), np.eye(2)), ShapeError, 'n above p'),
    (lambda: residual_panels(np.ones(4), np.zeros(4)), ShapeError, '8 or more'),
    (lambda: capacity(np.array([1., -1.])), ConfigError, 'snr is'),
    (lambda: converter_information(4, -1.), ConfigError, 'noise is -1')])
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words): call()
