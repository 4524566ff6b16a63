"Pulses: what the lines send, and that the kernel does what pulse by pulse does"
import copy, json, math, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy.stats import ks_2samp

from analognn import pulses
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep, ExpStep, Ideal, LinearStep, OneSided, PiecewiseStep, PowStep, ReferencePair, SoftBounds, SoftBoundsReference, Vector, device_presets, preset
from analognn.pulses import PulseTrain, plain_lines, plain_reads, plain_update, pulsed_update, read_while_updating, update_lines

reference = json.loads((Path(__file__).parent/'aihwkit_statistics.json').read_text())['pulse_train']
exact  = dict(dw_min_dtod=0., up_down_dtod=0., w_max_dtod=0., w_min_dtod=0., dw_min_std=0.)
counter = ConstantStep(dw_min=.001, w_max=1000., w_min=-1000., **exact)      # its weight is a number of pulses
quiet  = dict(dw_min=.01, dw_min_std=0.)
single = {'constant': ConstantStep(**quiet), 'linear': LinearStep(gamma_up=.5, gamma_down=.7, **quiet), 'linear, additive': LinearStep(gamma_up=.5, mult_noise=False, **quiet),
    'soft': SoftBounds(**quiet),
          'soft, additive': SoftBounds(mult_noise=False, **quiet), 'soft reference': SoftBoundsReference(reference_std=.05, **quiet), 'exponential': ExpStep(**quiet),
          'power': PowStep(pow_gamma=2., **quiet),
          'piecewise': PiecewiseStep(piecewise_up=(1.5, 1., .3), piecewise_down=(.2, 1.), **quiet)}
several = {'vector': Vector((ConstantStep(**quiet), SoftBounds(**quiet), LinearStep(**quiet)), (.5, -.3, 1.)),
    'reference pair': ReferencePair((SoftBounds(**quiet, up_down=.3),)*2, subtract_symmetry_point=True),
           'one-sided': OneSided((ConstantStep(**quiet), SoftBounds(**quiet))), 'copy inverted': OneSided((LinearStep(**quiet),)*2, copy_inverted=True)}
everyone = single | several
each        = pytest.mark.parametrize('device', everyone.values(), ids=everyone)
each_single = pytest.mark.parametrize('device', single.values(), ids=single)
both        = pytest.mark.parametrize('update', [plain_update, pulsed_update])
det  = PulseTrain('deterministic_implicit')
noisy = lambda device, std: replace(device, dw_min_std=std)

def tile(device, *shape, seed=0, dtype=torch.float32): return device.populate(shape, generator=stream(seed, 'tile'), dtype=dtype)
def start(state, seed=0):
    "Weights all over between the bounds, as one reads them"
    return state.write(torch.randn(state.shape, generator=stream(seed, 'start')).to(next(state.buffers()).dtype)*.3)
def batch(B, n_out, n_in, seed=0):
    g = stream(seed, 'batch')
    return torch.randn(B, n_in, generator=g), torch.randn(B, n_out, generator=g)

# Numbers of pulses

def by_hand(x, d, lr, g, *, desired_bl=31, fixed_bl=True, update_management=True, update_bl_management=True, um_grad_scale=1., pulse_type=None):
    "BL, p_x, p_d of one sample, as the facts page writes them"
    x_max, d_max = max(map(abs, x)), max(map(abs, d))*um_grad_scale
    k = lr*x_max*d_max/g
    bl = min(math.ceil(k*(1-1e-6)), desired_bl) if update_management and update_bl_management else desired_bl
    if not update_management and not fixed_bl and g*bl<lr: bl = math.ceil(lr/g)
    A = B = math.sqrt(lr/(g*bl))
    if update_management:
        d_v = d_max*desired_bl/k if k>desired_bl else d_max
        A, B = A*math.sqrt(x_max/d_v), B*math.sqrt(d_v/x_max)
    return bl, np.clip(np.abs(x)*B, 0, 1), np.clip(np.abs(d)*A, 0, 1)

x4, d3 = [.2, -.5, 1., .05], [.4, -.1, .02]
plans = {'as usual': dict(lr=.1), 'mean count': dict(lr=.1, pulse_type='mean_count'), 'mean count, 8': dict(lr=.02, pulse_type='mean_count', desired_bl=8, update_bl_management=False),
    'bl 100': dict(lr=1., desired_bl=100), 'bl 100, saturated': dict(lr=.09, desired_bl=100, um_grad_scale=3.),
    'many slots': dict(lr=.05, fixed_bl=False, update_management=False, update_bl_management=False),
    'bl 5 fixed': dict(lr=.1, desired_bl=5, update_bl_management=False), 'um_grad_scale .1': dict(lr=.1, um_grad_scale=.1), 'one slot': dict(lr=.002, desired_bl=31),
    'bl 32': dict(lr=.2, desired_bl=32)}
train_of = lambda plan: PulseTrain(**{k: v for k,v in plan.items() if k in PulseTrain.__dataclass_fields__})

def sampled(update, train, lr, repeats):
    "Signed numbers of pulses (repeats, n_out, n_in) of one update"
    x, d, g, state = torch.tensor([x4]), torch.tensor([d3]), stream(0, train.pulse_type), tile(counter, 3, 4)
    return torch.stack([update(torch.zeros(3, 4), state, x, d, lr, train, generator=g) for _ in range(repeats)]).double().numpy()/.001

@both
@pytest.mark.parametrize('name', plans)
def test_moments_of_the_numbers_of_pulses(name, update):
    plan, train = plans[name], train_of(plans[name])
    bl, px, pd = by_hand(x4, d3, plan['lr'], .001, **{k: getattr(train, k) for k in PulseTrain.__dataclass_fields__})
    repeats = 20 if train.pulse_type=='mean_count' else 600 if update is pulsed_update else 1200//bl
    n = sampled(update, train, plan['lr'], repeats)
    if train.pulse_type=='mean_count':
        assert np.allclose(n, -np.outer(np.sign(d3), np.sign(x4))*np.floor(np.outer(np.floor(bl*pd+.500001), np.floor(bl*px+.500001))/bl+.500001), atol=1e-3)
        return
    p = np.outer(pd, px)
    mean, var = bl*p, bl*p*(1-p)
    assert (abs(abs(n).mean(0)-mean)<=5*(var/repeats)**.5+1e-4*bl).all() and (n*np.outer(d3, x4)<=0).all()
    fourth = var*(1+3*var-6*p*(1-p))      # central moment of a binomial
    assert (abs(n.var(0)-var)<=5*((fourth-var**2).clip(0)/repeats)**.5+1e-2).all()
    assert np.allclose(n, np.round(n), atol=1e-2) and abs(n).max()<=bl+.01
    c = abs(n)-abs(n).mean(0)
    for got, want, v in (((c[:, 0, 0]*c[:, 0, 1]).mean(), bl*pd[0]*(1-pd[0])*px[0]*px[1], var[0, 0]*var[0, 1]),
        ((c[:, 0, 1]*c[:, 1, 1]).mean(), bl*px[1]*(1-px[1])*pd[0]*pd[1], var[0, 1]*var[1, 1]),
                         ((c[:, 0, 0]*c[:, 1, 1]).mean(), 0., var[0, 0]*var[1, 1])):
        assert abs(got-want)<=5*((v+want**2)/repeats)**.5+want/repeats+1e-3

@both
@pytest.mark.parametrize('name', reference)
def test_moments_of_the_reference(name, update):
    r, repeats = reference[name], 20 if name=='MeanCount' else 600 if update is pulsed_update else 60
    n, var = sampled(update, train_of(r['setup']), r['lr'], repeats).reshape(repeats, -1), np.array(r['var_pulses'])
    assert (abs(n.mean(0)-r['mean_pulses'])<=5*(var*(1/repeats+1/4000))**.5+2e-3).all()
    assert (abs(n.var(0)-var)<=(var+.1)*5*(3/repeats+3/4000)**.5+2e-3).all()
    for want, (a, b) in ((r['cov_row0_c0c2'], (0, 2)), (r['cov_col0_r0r1'], (0, 4))):
        assert abs(np.cov(n[:, a], n[:, b])[0, 1]-want)<=5*(2*var[a]*var[b]*(1/repeats+1/4000))**.5+2e-3

@given(st.integers(1, 100), st.sampled_from([1., .5, .1, 3.]), st.floats(1e-4, 10.), st.integers(0, 99), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_plans_are_those_of_the_facts_page(desired_bl, um_grad_scale, lr, seed, um, ublm):
    (x,), (d,) = batch(1, 3, 4, seed)
    train = PulseTrain(desired_bl=desired_bl, um_grad_scale=um_grad_scale, update_management=um, update_bl_management=ublm)
    bl, px, pd = by_hand(x.tolist(), d.tolist(), lr, .001, desired_bl=desired_bl, um_grad_scale=um_grad_scale, update_management=um, update_bl_management=ublm)
    plan = train.plan(x[None].double(), d[None].double(), lr, .001)
    assert plan.bl.item()==bl
    torch.testing.assert_close(plan.p_x[0], torch.tensor(px)*x.sign()); torch.testing.assert_close(plan.p_d[0], torch.tensor(pd)*d.sign())

def test_each_sample_has_a_plan_of_its_own():
    x, d = batch(5, 3, 4)
    rates = torch.tensor([[.1], [.01], [0.], [1.], [.1]])
    all_, ones = PulseTrain().plan(x, d, rates, .001), [PulseTrain().plan(x[b:b+1], d[b:b+1], rates[b].item(), .001) for b in range(5)]
    for a, o in zip(all_, zip(*ones)): torch.testing.assert_close(a, torch.cat(o))

@both
@pytest.mark.parametrize('pulse_type', ['none', 'stochastic_compressed'])
def test_exact_updates(update, pulse_type):
    x, d = batch(6, 3, 4)
    for device, train in ((counter, PulseTrain('none')), (Ideal(), PulseTrain(pulse_type))):
        w = update(torch.ones(3, 4), tile(device, 3, 4), x, d, .1, train, generator=stream(0))
        torch.testing.assert_close(w, 1-.1*d.mT@x)

def test_exact_updates_end_at_the_bounds():
    s = tile(ConstantStep(), 3, 4)
    w = pulsed_update(torch.zeros(3, 4), s, torch.ones(1, 4), -torch.ones(1, 3), 10., PulseTrain('none'), generator=stream(0))
    assert torch.equal(w, s.max_bound)

# The order of samples

@both
@each
def test_a_batch_is_its_samples_one_after_another(device, update):
    state = tile(device, 7, 9)
    x, d = batch(5, 7, 9)
    w = start(state)
    one_by_one, whole, twin = w.clone(), w.clone(), copy.deepcopy(state)
    for b in range(5): update(one_by_one, state, x[b:b+1], d[b:b+1], .3, det, generator=stream(0))
    assert torch.equal(one_by_one, update(whole, twin, x, d, .3, det, generator=stream(0)))

@both
def test_the_order_matters(update):
    state, x, d = tile(SoftBounds(**quiet), 7, 9), *batch(5, 7, 9)
    forth, back = (update(torch.zeros(7, 9), state, x[i], d[i], .3, det, generator=stream(0)) for i in (range(5), range(4, -1, -1)))
    assert (forth-back).abs().max()>1e-3

# The kernel and the plain way

def agree(device, n_out, n_in, x, d, lr, train, atol=2e-6, seed=0):
    "The largest step of both; they must be equal"
    state = tile(device, n_out, n_in, seed=seed)
    w = start(state, seed)
    slow = plain_update(w.clone(), copy.deepcopy(state), x, d, lr, train, generator=stream(0))
    assert pulses._fits_kernel(w, state, train)
    fast = pulsed_update(w.clone(), state, x, d, lr, train, generator=stream(0))
    torch.testing.assert_close(fast, slow, rtol=0, atol=atol)
    return (fast-w).abs().max().item()

sizes = st.integers(1, 300)
@given(st.sampled_from(sorted(everyone)), sizes, sizes, st.integers(0, 4), st.sampled_from(['deterministic_implicit', 'mean_count']), st.sampled_from([1, 3, 31]),
    st.floats(0, 1), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_the_kernel_equals_the_plain_way(name, n_out, n_in, B, pulse_type, bl, lr, seed):
    agree(everyone[name], n_out, n_in, *batch(B, n_out, n_in, seed), lr, PulseTrain(pulse_type, desired_bl=bl), seed=seed)

@each
def test_the_kernel_equals_the_plain_way_on_wide_tiles(device): assert agree(device, 3, 300, *batch(2, 3, 300), .3, det)>.005

@each
@pytest.mark.parametrize('what', ['x', 'd', 'lr'])
def test_nothing_in_nothing_done(device, what):
    x, d = batch(2, 5, 6)
    if what=='x': x = x*0
    if what=='d': d = d*0
    for train in (det, PulseTrain(), PulseTrain('mean_count'), PulseTrain('stochastic'), PulseTrain(update_management=False, update_bl_management=False)):
        state = tile(device, 5, 6)
        w = start(state)
        assert torch.equal(pulsed_update(w.clone(), state, x, d, 0. if what=='lr' else .5, train, generator=stream(0)), w)

@pytest.mark.parametrize('bl', [2, 5, 31, 100])
@each
def test_many_pulses_in_one_step_are_many_pulses(device, bl):
    g = stream(0)
    x, d = (torch.randn(1, n, generator=g).sign() for n in (33, 20))       # probabilities are 0 and 1: the trains are not random
    assert agree(device, 20, 33, x, d, 100., PulseTrain(desired_bl=bl), atol=.0035 if isinstance(device, PiecewiseStep) else .0005)>.01     # of steps of .01; midpoints don't see kinks

@pytest.mark.parametrize('columns', [True, False])
@each
def test_lines_read_in_between(device, columns):
    state, x, d = tile(device, 6, 9), *batch(4, 6, 9)
    w, lines = start(state), torch.tensor([2, -1, 5, 0])
    slow_w, fast_w = w.clone(), w.clone()
    slow = plain_reads(slow_w, copy.deepcopy(state), x, d, .3, lines, det, columns=columns, generator=stream(0))
    fast = read_while_updating(fast_w, state, x, d, .3, lines, det, columns=columns, generator=stream(0))
    last = fast_w[:, 0] if columns else fast_w[0]
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-6); torch.testing.assert_close(fast_w, slow_w, rtol=0, atol=2e-6)
    torch.testing.assert_close(fast[3], last, rtol=0, atol=2e-6)
    assert not fast[1].any()

@pytest.mark.parametrize('columns', [True, False])
@pytest.mark.parametrize('train', [det, PulseTrain('mean_count', desired_bl=7), PulseTrain('mean_count', desired_bl=1, update_management=False, update_bl_management=False)])
@each
def test_updates_of_lines(device, train, columns):
    state, lines = tile(device, 6, 9), [4, 0, 3]
    w, values = start(state), torch.randn(3, 6 if columns else 9, generator=stream(1))
    slow = plain_lines(w.clone(), copy.deepcopy(state), lines, values, .1, train, columns=columns, generator=stream(0))
    fast = update_lines(w.clone(), state, lines, values, .1, train, columns=columns, generator=stream(0))
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-6)
    touched = ((fast-w)!=0).any(0 if columns else 1).nonzero().flatten().tolist()
    assert set(touched)<={0, 3, 4} and touched

def test_lines_get_what_was_asked_for():
    w, values = torch.zeros(3, 5), torch.tensor([[.01, -.02, .03]])
    update_lines(w, tile(counter, 3, 5), [3], values, 1., det, generator=stream(0))
    torch.testing.assert_close(w[:, 3], values[0], rtol=0, atol=.0011)

alike = single | {'exponential, noise of its own': ExpStep(dw_min_std_add=.02, dw_min_std_slope=.05, **quiet), 'write noise': SoftBounds(write_noise_std=2., **quiet)}
@pytest.mark.parametrize('std', [.3, 3.])
@pytest.mark.parametrize('at', [.9, -.5])
@pytest.mark.parametrize('device', alike.values(), ids=alike)
def test_the_kernel_has_the_distribution_of_the_plain_way(device, at, std):
    device = replace(device, dw_min_std=std, dw_min_dtod=0., up_down_dtod=0., w_max_dtod=0., w_min_dtod=0., **dict(reference_std=0.) if hasattr(device, 'reference_std') else {})
    if isinstance(device, LinearStep): device = replace(device, gamma_up_dtod=0., gamma_down_dtod=0.)
    if isinstance(device, PowStep): device = replace(device, pow_gamma_dtod=0.)
    x, d = torch.ones(3, 80), torch.tensor([[-1., 1.], [-1., -1.], [-1., 1.]]).repeat_interleave(40, 1)      # half up, half down and up
    def run(update, seed):
        return update(torch.full((80, 80), .6*at), tile(device, 80, 80), x, d, 100., PulseTrain(desired_bl=6), generator=stream(seed, 'run')).numpy()
    fast, slow = run(pulsed_update, 1), run(plain_update, 2)
    for half in (slice(0, 40), slice(40, 80)): assert ks_2samp(fast[half].ravel(), slow[half].ravel(), method='asymp').pvalue>1e-4

@pytest.mark.parametrize('name', several)
def test_compositions_have_the_distribution_of_the_plain_way(name):
    device = replace(several[name], devices=[noisy(d, 1.) for d in several[name].devices])
    x, d = torch.ones(3, 80), torch.tensor([[-1.], [1.], [-1.]]).expand(3, 80)
    fast, slow = (update(torch.zeros(80, 80), tile(device, 80, 80), x, d, 100., PulseTrain(desired_bl=6),
        generator=stream(1, update.__name__)).numpy() for update in (pulsed_update, plain_update))
    assert ks_2samp(fast.ravel(), slow.ravel(), method='asymp').pvalue>1e-4

@each_single
def test_one_and_two_threads_give_the_same_bits(device):
    state, (x, d) = tile(noisy(device, .3), 400, 420), batch(2, 400, 420)
    def run(n):
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try: return pulsed_update(torch.zeros(400, 420), state, x, d, .1, generator=stream(0))
        finally: torch.set_num_threads(before)
    assert pulses._threads(2, 420, 400) and torch.equal(run(1), run(2))

@each
def test_the_same_generator_gives_the_same_bits(device):
    device = replace(device, devices=[noisy(d, .3) for d in device.devices]) if hasattr(device, 'devices') else noisy(device, .3)
    run = lambda seed: pulsed_update(torch.zeros(20, 30), tile(device, 20, 30), *batch(4, 20, 30), .1, generator=stream(seed))
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))

@given(st.sampled_from(sorted(single)), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.sampled_from([0., .3, 3., 30.]), st.sampled_from([1, 7, 31, 70]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_never_out_of_bounds(name, n_out, n_in, B, std, bl, seed):
    state = tile(replace(single[name], dw_min_std=std, dw_min=.05), n_out, n_in, seed=seed)
    w = start(state, seed)
    pulsed_update(w, state, *batch(B, n_out, n_in, seed), 3., PulseTrain(desired_bl=bl), generator=stream(seed))
    v = w+getattr(state, 'reference', 0.)
    assert (v<=state.max_bound+1e-6).all() and (v>=state.min_bound-1e-6).all() and torch.isfinite(w).all()

def test_double_precision_takes_the_plain_way(monkeypatch):
    monkeypatch.setattr(pulses, '_run', lambda *a, **k: pytest.fail('the kernel is for float32'))
    x, d = batch(3, 8, 9)
    for device in everyone.values():
        double, single_ = tile(device, 8, 9, dtype=torch.float64), tile(device, 8, 9)
        for s in (double, single_): s.write(torch.zeros(8, 9, dtype=next(s.buffers()).dtype))
        slow = plain_update(torch.zeros(8, 9), single_, x, d, .1, det, generator=stream(0))
        fast = pulsed_update(torch.zeros(8, 9, dtype=torch.float64), double, x.double(), d.double(), .1, det, generator=stream(0))
        assert fast.dtype==torch.float64
        torch.testing.assert_close(fast.float(), slow, rtol=0, atol=1e-5)

_memory = '''
import resource, torch
from analognn.core import stream
from analognn.devices import SoftBounds
from analognn.pulses import pulsed_update
torch.set_num_threads(1)
s, w, peak = SoftBounds().populate((400, 400), generator=stream(0)), torch.zeros(400, 400), []
for B in (8, 512):
    for _ in range(2): pulsed_update(w, s, torch.randn(B, 400), torch.randn(B, 400), .001, generator=stream(1))
    peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peak)
'''

@pytest.mark.skipif(sys.platform!='linux', reason='ru_maxrss is in other units')
def test_no_memory_for_each_crosspoint_and_sample():
    small, large = map(int, subprocess.run([sys.executable, '-c', _memory], capture_output=True, text=True, check=True).stdout.split())
    assert large-small < 30_000       # KiB; one byte for each crosspoint and sample would be 79,000

@pytest.mark.parametrize('name', device_presets)
def test_presets_take_updates(name):
    device = preset(name)
    state = tile(device, 20, 30)
    w = state.write(torch.zeros(20, 30))
    pulsed_update(w, state, torch.ones(8, 30), -torch.ones(8, 20), 1., generator=stream(0))
    assert torch.isfinite(w).all() and w.mean()>0

@pytest.mark.parametrize('update, train', [(plain_update, PulseTrain()), (pulsed_update, PulseTrain()),
    *[(pulsed_update, PulseTrain(t)) for t in ('mean_count', 'deterministic_implicit', 'stochastic', 'none')]])
def test_empty_batches(update, train):
    w = torch.zeros(3, 4)
    assert not update(w, tile(counter, 3, 4), torch.zeros(0, 4), torch.zeros(0, 3), .1, train, generator=stream(0)).any()

# Errors

@pytest.mark.parametrize('kw', [dict(pulse_type='stochastik'), dict(desired_bl=0), dict(desired_bl=1.5), dict(desired_bl=True), dict(um_grad_scale=0.),
    dict(um_grad_scale=math.nan), dict(um_grad_scale=math.inf)])
def test_nonsense_trains_are_refused(kw):
    with pytest.raises(ConfigError, match=next(iter(kw))): PulseTrain(**kw)

nan, ok_x, ok_d = torch.full((2, 4), math.nan), torch.ones(2, 4), torch.ones(2, 3)
@both
@pytest.mark.parametrize('x, d, lr, error', [(nan, ok_d, .1, ConfigError), (ok_x, nan[:, :3], .1, ConfigError), (ok_x[:, :3], ok_d, .1, ShapeError),
    (ok_x, ok_d[:1], .1, ShapeError), (ok_x[0], ok_d[0], .1, ShapeError),
                                             (ok_x, ok_d, -.1, ConfigError), (ok_x, ok_d, math.nan, ConfigError), (ok_x, ok_d, math.inf, ConfigError)])
def test_what_does_not_fit_changes_nothing(x, d, lr, error, update):
    w = torch.zeros(3, 4)
    with pytest.raises(error): update(w, tile(ConstantStep(), 3, 4), x, d, lr, generator=stream(0))
    assert not w.any()

@both
def test_weights_must_fit(update):
    with pytest.raises(ShapeError, match='take'): update(torch.zeros(4, 3), tile(ConstantStep(), 3, 4), ok_x, ok_d, .1, generator=stream(0))
