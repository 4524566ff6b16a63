"Recovery of every device class from noisy curves"
import math
from dataclasses import replace
import numpy as np, pytest, torch
from analognn.core import ConfigError, ShapeError, stream
from analognn.device_fit import DeviceFit, fit_device
from analognn.devices import ConstantStep, ExpStep, LinearStep, PiecewiseStep, PowStep, SoftBounds, SoftBoundsReference

truths = [ConstantStep(dw_min=.01, up_down=.1), LinearStep(dw_min=.01, gamma_up=.3, gamma_down=.5), LinearStep(dw_min=.01, gamma_up=.3, gamma_down=.5, mult_noise=False),
          SoftBounds(dw_min=.01, up_down=-.1), SoftBounds(dw_min=.01, mult_noise=False), SoftBoundsReference(dw_min=.01),
          ExpStep(dw_min=.01, a=.5, b=0., A_up=.2, gamma_up=2., A_down=.3, gamma_down=1.5), PowStep(dw_min=.015, pow_gamma=1.5),
          PiecewiseStep(dw_min=.015, piecewise_up=(1., 1.5, .5), piecewise_down=(.5, 1., 1.5))]
two_cycles = torch.tensor([1.]*300+[-1.]*400+[1.]*400+[-1.]*400)

def curves(device, signs, n=60, start=0., seed=0, generator=None):
    "Like `response`, for any directions"
    g = stream(seed, 'test_fit')
    state = device.populate((1, n), generator=g)
    w = [state.write(torch.full((1, n), start))]
    for s in signs.tolist(): w.append(state.pulse(w[-1], s, generator=g))
    return torch.cat(w)

def near(i, truth, share, floor=0.):
    "Within the interval, or within a share of the truth"
    truth = np.asarray(truth)
    return np.all(((i.low<=truth)&(truth<=i.high)) | (abs(i.mean-truth)<=share*abs(truth)+floor))

@pytest.mark.parametrize('truth', truths, ids=lambda d: f"{type(d).__name__}-{getattr(d, 'mult_noise', '')}")
def test_recovers(truth):
    fit = fit_device(curves(truth, two_cycles), type(truth), sign=two_cycles, nodes=3)
    assert isinstance(fit, DeviceFit) and type(fit.device) is type(truth) and fit.residual<.05
    for name, i in fit.intervals.items():
        share, floor = (.25, .03) if name.endswith('_dtod') else (.1, .03)      # of 90 intervals some miss, by little
        assert near(i, getattr(truth, name), share, floor), (name, getattr(truth, name), i)
        assert np.allclose(getattr(fit.device, name), i.mean)
    if hasattr(truth, 'mult_noise'): assert fit.device.mult_noise==truth.mult_noise
    assert set(fit.undetermined).isdisjoint(fit.intervals)

def test_devices_one_by_one():
    truth = SoftBounds(dw_min=.01, dw_min_std=0.)
    fit = fit_device(truth.response(300, 300, 20, generator=stream(1)), 'SoftBounds')
    state = truth.populate((1, 20), generator=stream(1))
    for name, value in fit.per_device.items(): torch.testing.assert_close(value.float(), getattr(state, name)[0], rtol=1e-3, atol=1e-5)

def test_sign_given_or_guessed():
    m = truths[0].response(300, 300, 40, generator=stream(2))
    guessed, given = fit_device(m, ConstantStep), fit_device(m, ConstantStep, sign=[1]*300+[-1]*300)
    assert abs(guessed.device.dw_min/given.device.dw_min-1)<.01 and abs(guessed.device.w_max/given.device.w_max-1)<.01

def test_bounds_out_of_reach():
    m = ConstantStep(dw_min=.001).response(100, 100, 30, generator=stream(3))
    fit = fit_device(m, ConstantStep)
    assert {'w_max', 'w_min', 'w_max_dtod', 'w_min_dtod'}<=set(fit.undetermined) and fit.device.w_max==.6 and fit.per_device['max_bound'].isnan().all()
    assert near(fit.intervals['dw_min'], .001, .1)

def test_some_bounds_out_of_reach():
    "Slow devices do not come to their bounds; the mean of those seen would be too low"
    truth = ConstantStep(dw_min=.01)
    fit = fit_device(curves(truth, torch.tensor([1.]*100+[-1.]*150), n=200), ConstantStep, sign=[1]*100+[-1]*150)
    assert .5<fit.per_device['max_bound'].isfinite().double().mean()<.9
    assert near(fit.intervals['w_max'], .6, .05) and fit.per_device['max_bound'].nanmean()<.58

def test_one_device_has_no_spread():
    fit = fit_device(SoftBounds(dw_min=.01).response(300, 300, 1, generator=stream(4)), SoftBounds)
    assert 'dw_min_dtod' in fit.undetermined and fit.device.dw_min_dtod==.3 and fit.intervals['dw_min'].high==math.inf

def test_stuck_devices_count_as_corrupt():
    m = SoftBounds(dw_min=.01).response(300, 300, 40, generator=stream(5))
    m[:, :10] = .05
    fit = fit_device(m, SoftBounds)
    assert fit.device.corrupt_devices_prob==.25 and fit.per_device['dwmin_up'][:10].isnan().all() and near(fit.intervals['dw_min'], .01, .1)

def test_node_without_pulses():
    "Up from 0: the up steps at low weights are not seen"
    truth = replace(truths[-1], w_max_dtod=0., w_min_dtod=0.)
    fit = fit_device(truth.response(400, 400, 40, generator=stream(6)), PiecewiseStep, nodes=5)
    assert np.isnan(fit.intervals['piecewise_up'].mean[0]) and 'piecewise_up' in fit.undetermined and np.isfinite(fit.device.piecewise_up).all()

def test_reference_is_a_shift():
    truth = SoftBoundsReference(dw_min=.01, reference_mean=.1)
    fit = fit_device(truth.response(300, 300, 60, generator=stream(7)), SoftBoundsReference)
    assert near(fit.intervals['w_max'], .5, .1) and near(fit.intervals['w_min'], -.7, .1) and 'reference_mean' in fit.undetermined

good = SoftBounds(dw_min=.01).response(30, 30, 4, generator=stream(8))
@pytest.mark.parametrize('args, kw, error, text', [
    ((good, 'Softbounds'), {}, ConfigError, 'SoftBounds'), ((good, torch.nn.Linear), {}, ConfigError, 'kind'),
    ((good[:, 0], SoftBounds), {}, ShapeError, 'measured'), ((good[:, :0], SoftBounds), {}, ShapeError, 'measured'), ((good/0, SoftBounds), {}, ConfigError, 'NaN'),
    ((good[:36], SoftBounds), {}, ConfigError, '10 or more'), ((good, SoftBounds), dict(sign=[1]*59), ShapeError, 'sign'), ((good, SoftBounds), dict(sign=[0]*60), ConfigError, 'sign'),
    ((good+5, SoftBounds), {}, ConfigError, 'one side of 0'), ((0*good, SoftBounds), dict(sign=[1]*30+[-1]*30), ConfigError, 'never changes'), ((good, PiecewiseStep), dict(nodes=1), ConfigError, 'nodes')])
def test_refuses(args, kw, error, text):
    with pytest.raises(error, match=text): fit_device(*args, **kw)

def test_steps_that_the_curves_do_not_settle_are_refused():
    "Curves that bend and end far from a bound say nothing about a power law's distance to it"
    up = torch.linspace(0., 1., 21, dtype=torch.float64)[:, None]**torch.tensor([2.9, 3., 3.1], dtype=torch.float64)
    w = torch.cat([up, up.flip(0)[1:]])-.5
    with pytest.raises(ConfigError, match='does not settle the steps of PowStep'): fit_device(w, 'PowStep')
