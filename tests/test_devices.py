"Devices: populations and pulses as the field's reference simulator measured them, and as the formulas say"
import copy, io, json, math
from dataclasses import fields, replace
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import devices
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import (ConstantStep, ExpStep, Ideal, LinearStep, OneSided, PiecewiseStep, PowStep, ReferencePair, SoftBounds, SoftBoundsReference, Vector, device_presets,
    preset, response,
                              symmetry_point)

reference = json.loads((Path(__file__).parent/'aihwkit_statistics.json').read_text())['devices']
no_spread = dict(dw_min_dtod=0., up_down_dtod=0., w_max_dtod=0., w_min_dtod=0.)
exact     = no_spread | dict(dw_min_std=0.)
variants  = {'dtod+c2c': {}, 'c2c': no_spread, 'none': exact}
everyone  = {'constant': ConstantStep(), 'linear': LinearStep(gamma_up=.5, gamma_down=.7), 'linear, additive': LinearStep(gamma_up=.3, mult_noise=False, write_noise_std=2.),
             'soft': SoftBounds(), 'soft reference': SoftBoundsReference(reference_std=.05, slope_up_dtod=.1, write_noise_std=1.),
             'exponential': ExpStep(dw_min_std_add=.01, dw_min_std_slope=.02),
             'power': PowStep(pow_gamma=2., pow_up_down=.1, pow_up_down_dtod=.05), 'piecewise': PiecewiseStep(piecewise_up=(1.5, 1., .3), piecewise_down=(.2, 1.)),
             'leaking': LinearStep(lifetime=50., lifetime_dtod=.2, diffusion=.01, diffusion_dtod=.2, reset=.05, reset_dtod=.02),
             'vector': Vector((ConstantStep(), SoftBounds(), LinearStep()), (.5, -.3, 1.)), 'reference pair': ReferencePair(subtract_symmetry_point=True),
             'one-sided': OneSided(refresh_every=2),
             'copy inverted': OneSided(copy_inverted=True, refresh_every=2), 'ideal': Ideal()}
singles   = {k: v for k,v in everyone.items() if hasattr(v, 'w_max')}
each        = pytest.mark.parametrize('device', everyone.values(), ids=everyone)
each_single = pytest.mark.parametrize('device', singles.values(), ids=singles)
each_known  = pytest.mark.parametrize('name', reference)

def known(name, **change): return getattr(devices, reference[name]['setup']['device'])(**reference[name]['setup']['parameters'] | change)
def tile(device, *shape, seed=0, dtype=torch.float32): return device.populate(shape, generator=stream(seed, 'tile'), dtype=dtype)
def somewhere(state, seed=0):
    "Weights all over between the bounds, as one reads them"
    share = torch.rand(state.shape, generator=stream(seed, 'somewhere')).to(state.max_bound)
    return state.min_bound+share*(state.max_bound-state.min_bound)-getattr(state, 'reference', 0.)

def assert_alike(sample, mean, std, n, spread=.05, atol=1e-7):
    "Mean within 5 standard errors of both samples, spread within 5%"
    sample = sample.double().flatten()
    assert abs(sample.mean()-mean) <= 5*std*(1/n+1/len(sample))**.5+atol
    assert abs(sample.std()-std) <= spread*std+atol

# The reference simulator's statistics

@pytest.mark.parametrize('name, hidden', [(n, h) for n,r in reference.items() for h in r['hidden']])
def test_populations_have_the_statistics_of_the_reference(name, hidden):
    have, want = getattr(tile(known(name), 100, 100), hidden), reference[name]['hidden'][hidden]
    for q, p in (('q05', .05), ('q50', .5), ('q95', .95)): assert abs((have<want[q]).double().mean()-p) < 5*(p*(1-p)*2/10000)**.5, q
    if not ('slope' in hidden and name=='SoftBounds' or hidden=='reference'): assert_alike(have, want['mean'], want['std'], 10000)     # quotients have heavy tails

@pytest.mark.parametrize('variant', variants)
@pytest.mark.parametrize('sign, word', [(1, 'up'), (-1, 'down')])
@each_known
def test_one_pulse_has_the_statistics_of_the_reference(name, sign, word, variant):
    state, want = tile(known(name, **variants[variant]), 100, 100), reference[name][f'one_pulse_{word}_{variant}']
    w = state.pulse(state.write(torch.zeros(100, 100)), sign, generator=stream(1))
    assert_alike(w, want['mean'], want['std'], 10000)
    if not want['std']: assert abs(w-want['mean']).max()<1e-7

@pytest.mark.parametrize('name, variant', [(n, k.removeprefix('response_')) for n,r in reference.items() for k in r if k.startswith('response')])
def test_response_curves_of_the_reference(name, variant):
    curve = response(known(name, **variants[variant]), 150, 150, 2500, generator=stream(2))
    for phase, n, mean, std in reference[name][f'response_{variant}']: assert_alike(curve[n+150*(phase=='down')], mean, std, 2500, spread=.08, atol=2e-4)     # 2% of a pulse

@each_known
def test_alternating_pulses_end_where_those_of_the_reference_do(name):
    state, want, g = tile(known(name, **no_spread), 50, 50), reference[name]['alternating_600_from_0.4'], stream(3)
    w = state.write(torch.full((50, 50), .4))
    for _ in range(600):
        for sign in (1, -1): w = state.pulse(w, sign, generator=g)
    assert_alike(w, want['mean'], want['std'], 10000, spread=.08)

# Formulas

def by_formula(dev, s, w):
    "Steps up and down from `w`, as the facts page writes them"
    lo, hi, up, down = s.min_bound, s.max_bound, s.dwmin_up, s.dwmin_down
    R = hi-lo
    if isinstance(dev, SoftBounds): return up*(1-w/hi), -down*(1-w/lo)
    if isinstance(dev, LinearStep): return up+s.slope_up*w, -(down+s.slope_down*w)
    if isinstance(dev, ExpStep):
        z = 2*dev.a*w/R+dev.b
        return up*(1-dev.A_up*(dev.gamma_up*z).exp()).clamp(min=0), -down*(1-dev.A_down*(-dev.gamma_down*z).exp()).clamp(min=0)
    if isinstance(dev, PowStep): return up*((hi-w)/R)**s.gamma_up, -down*((w-lo)/R)**s.gamma_down
    if isinstance(dev, PiecewiseStep):       # nodes (1.5, 1, .3) and (.2, 1)
        t = (w-lo)/R
        return up*torch.where(t<.5, 1.5-t, 1-.7*(2*t-1)), -down*(.2+.8*t)
    return up.expand_as(w), -down

@each_single
def test_a_pulse_without_noise_is_the_formula(device):
    device = replace(device, dw_min_std=0., **(dict(write_noise_std=0.) if hasattr(device, 'write_noise_std') else {}))
    state = tile(device, 40, 50, dtype=torch.float64)
    w, ref = somewhere(state), getattr(state, 'reference', 0.)
    for sign, step in zip((1, -1), by_formula(device, state, w+ref)):
        torch.testing.assert_close(state.pulse(w, sign, generator=stream(0)), (w+ref+step).clamp(state.min_bound, state.max_bound)-ref, rtol=0, atol=1e-12)

@pytest.mark.parametrize('device, size', [
    (ConstantStep(dw_min_std=2.), lambda dw, w: 2*dw), (LinearStep(gamma_up=.5, gamma_up_dtod=0., dw_min_std=2.), lambda dw, w: 2*dw),
    (LinearStep(gamma_up=.5, gamma_up_dtod=0., dw_min_std=2., mult_noise=False), lambda dw, w: .002), (SoftBounds(dw_min_std=2.), lambda dw, w: 2*dw),
    (SoftBoundsReference(dw_min_std=2.), lambda dw, w: .002),
    (ExpStep(dw_min_std=2., dw_min_std_add=.001, dw_min_std_slope=.01), lambda dw, w: 2*(dw+.001+.01*w)), (PowStep(dw_min_std=2., pow_gamma_dtod=0.), lambda dw, w: 2*dw)])
def test_cycle_noise_has_the_size_of_the_formula(device, size):
    state = tile(replace(device, **no_spread), 100, 100)
    w = torch.full((100, 100), .3)
    dw = by_formula(state.resistive, state, w)[0][0, 0].item()
    assert_alike(state.pulse(w, 1, generator=stream(0))-w, dw, size(dw, .3), 10000, atol=1e-8)

@pytest.mark.parametrize('up_down, up, down', [(.2, 1., .8), (-.2, .8, 1.), (0., 1., 1.)])
def test_up_down_weakens_one_direction(up_down, up, down):
    state = tile(ConstantStep(up_down=up_down, **exact), 1, 1)
    assert (state.dwmin_up.item(), state.dwmin_down.item())==pytest.approx((.001*up, .001*down))

def test_log_normal_gains_are_not_mean_corrected():
    gain = tile(ConstantStep(dw_min_dtod_log_normal=True, up_down_dtod=0.), 200, 200).dwmin_up/.001
    assert_alike(gain.log(), 0., .3, 10**9, spread=.02)
    assert gain.mean().item()==pytest.approx(math.exp(.045), abs=5*.3*1.07/200)

@pytest.mark.parametrize('own', [True, False])
def test_linear_slopes_refer_to_the_mean_bound_or_the_own(own):
    s = tile(LinearStep(gamma_up=.5, gamma_down=.2, gamma_up_dtod=0., gamma_down_dtod=0., mean_bound_reference=not own), 20, 20)
    torch.testing.assert_close(s.slope_up, -.5*s.dwmin_up/(s.max_bound if own else .6))
    torch.testing.assert_close(s.slope_down, .2*s.dwmin_down/(-s.min_bound if own else .6))

@pytest.mark.parametrize('allow', [True, False])
def test_steps_grow_towards_the_bound_only_where_allowed(allow):
    assert (tile(LinearStep(allow_increasing=allow), 50, 50).slope_up>0).any()==allow

@pytest.mark.parametrize('keep', [True, False])
def test_consistency(keep):
    s = tile(PowStep(dw_min_dtod=2., w_max_dtod=2., w_min_dtod=2., pow_gamma_dtod=2., enforce_consistency=keep), 50, 50)
    wrong = [(s.dwmin_up<0), (s.dwmin_down<0), (s.max_bound<0), (s.min_bound>0), (s.gamma_up<0)]
    assert all(v.any()!=keep for v in wrong)

@pytest.mark.parametrize('device, granularity', [(ConstantStep(), .001), (Ideal(dw_min=.01), .01), (PowStep(pow_gamma=2.), .00025),
    (PiecewiseStep(piecewise_up=(1., 3., 5.)), .003), (SoftBounds(), .001),
                                                 (Vector((ConstantStep(), ConstantStep(dw_min=.003))), .002), (OneSided(), .001)])
def test_granularity(device, granularity): assert device.granularity==pytest.approx(granularity)

def test_granularity_of_exponential_steps_is_the_step_at_zero():
    up, down = tile(ExpStep(**exact), 1, 1).resistive.steps(tile(ExpStep(**exact), 1, 1), torch.zeros(1, 1))
    assert ExpStep().granularity==pytest.approx((up-down).item()/2)

# Symmetry points

@pytest.mark.parametrize('device', [SoftBounds(up_down=.1), SoftBoundsReference(up_down=.1, reference_mean=.1, reference_std=.05)])
def test_symmetry_point_of_soft_bounds(device):
    s = tile(device, 30, 40, dtype=torch.float64)
    want = (s.dwmin_up-s.dwmin_down)/(s.dwmin_up/s.max_bound-s.dwmin_down/s.min_bound)-getattr(s, 'reference', 0.)
    torch.testing.assert_close(symmetry_point(s), want, rtol=0, atol=1e-12)

def test_symmetry_point_of_linear_steps():
    s = tile(LinearStep(gamma_up=.5, gamma_down=.3, up_down=-.2), 30, 40, dtype=torch.float64)
    crossing = (s.dwmin_down-s.dwmin_up)/(s.slope_up-s.slope_down)
    torch.testing.assert_close(symmetry_point(s), crossing.clamp(s.min_bound, s.max_bound), rtol=0, atol=1e-12)
    assert crossing.abs().min()<.1

def test_subtracted_symmetry_points_are_at_zero():
    s = tile(SoftBoundsReference(up_down=.2, subtract_symmetry_point=True), 30, 40, dtype=torch.float64)
    torch.testing.assert_close(symmetry_point(s), torch.zeros(30, 40, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(s.pulse(s.pulse(torch.zeros(30, 40, dtype=torch.float64), 0, generator=stream(0)), 0, generator=stream(0)), torch.zeros(30, 40, dtype=torch.float64))

# Write noise, stuck devices

noisy = LinearStep(dw_min=.01, gamma_up_dtod=0., gamma_down_dtod=0., write_noise_std=3., **exact)

def test_write_noise_is_redrawn_only_where_there_was_a_pulse():
    s, g = tile(noisy, 20, 20), stream(0)
    w = s.pulse(torch.zeros(20, 20), 1, generator=g)
    sign = torch.randint(-1, 2, (20, 20), generator=g)
    after = s.pulse(w, sign, generator=g)
    assert torch.equal(after==w, sign==0)
    torch.testing.assert_close(s.clean(after), .01+.01*sign, rtol=0, atol=1e-6)       # the noise that stays is known

@pytest.mark.parametrize('pulses', [1, 20])
def test_write_noise_neither_adds_up_nor_shifts_the_mean(pulses):
    s, g = tile(noisy, 100, 100), stream(0)
    w = torch.zeros(100, 100)
    for _ in range(pulses): w = s.pulse(w, 1, generator=g)
    assert_alike(w, pulses*.01, .03, 10000)
    torch.testing.assert_close(s.clean(w), torch.full_like(w, pulses*.01), rtol=0, atol=1e-6)

def test_writing_clears_the_write_noise():
    s = tile(noisy, 5, 5)
    s.pulse(torch.zeros(5, 5), 1, generator=stream(0))
    assert torch.equal(s.write(torch.full((5, 5), .1)), torch.full((5, 5), .1)) and not s.write_noise.any()

@pytest.mark.parametrize('device', [pytest.param(d, id=k) for k,
    d in (singles | {'soft reference, same slopes': SoftBoundsReference()}).items()])
def test_stuck_devices_stay(device):
    quiet = dict(write_noise_std=0.) if hasattr(device, 'write_noise_std') else {}
    s = tile(replace(device, corrupt_devices_prob=.3, corrupt_devices_range=.1, **quiet), 60, 60)
    stuck = s.max_bound==s.min_bound
    assert stuck.double().mean().item()==pytest.approx(.3, abs=5*(.21/3600)**.5) and not s.dwmin_up[stuck].any() and not s.dwmin_down[stuck].any()
    at = s.write(torch.zeros(60, 60))
    after = s.pulse(s.pulse(at, 1, generator=stream(1)), -1, generator=stream(2))
    assert torch.equal(after[stuck], at[stuck]) and (at+getattr(s, 'reference', 0.))[stuck].abs().max()<=.1+1e-6
    assert at[stuck].std()>.04 and torch.isfinite(after).all()

# Time, and resets

def test_weights_decay_to_the_reset_weight():
    s = tile(ConstantStep(lifetime=10., reset=.1), 4, 4)
    s.max_bound.fill_(1.); s.min_bound.fill_(-1.)
    w = torch.full((4, 4), .5)
    for _ in range(7): s.relax(w, generator=stream(0))
    torch.testing.assert_close(w, torch.full((4, 4), .1+.4*.9**7))

def test_diffusion_is_a_random_walk():
    s, w, g = tile(Ideal(diffusion=.01), 100, 100), torch.zeros(100, 100), stream(0)
    for _ in range(9): s.relax(w, generator=g)
    assert_alike(w, 0., .03, 10**9, spread=.03)

def test_time_differs_from_device_to_device():
    s = tile(Ideal(lifetime=100., lifetime_dtod=.1, diffusion=.01, diffusion_dtod=.2, reset=.2, reset_dtod=.05), 100, 100)
    for sample, mean, std in ((1/s.decay_rate, 100., 10.), (s.diffusion_rate, .01, .002), (s.reset_bias, .2, .05)): assert_alike(sample, mean, std, 10**9)

def test_diffusion_ends_at_the_bounds():
    s = tile(ConstantStep(diffusion=.5), 20, 20)
    w = s.relax(torch.zeros(20, 20), generator=stream(0))
    assert (w<=s.max_bound).all() and (w>=s.min_bound).all() and (w==s.max_bound).any()

def test_resets():
    s = tile(Ideal(reset=.2, reset_dtod=.05, reset_std=.03), 100, 100)
    which = torch.rand(100, 100, generator=stream(1))<.5
    w, again = (s.reset(torch.full((100, 100), 9.), which, generator=stream(i)) for i in (2, 3))
    assert (w[~which]==9).all()
    assert_alike(w[which], .2, (.05**2+.03**2)**.5, 10**9)
    assert_alike((w-again)[which], 0., .03*2**.5, 10**9)

# Several devices in one

@given(st.sampled_from(['vector', 'reference pair', 'one-sided', 'copy inverted']), st.lists(st.sampled_from(['pulse', 'write', 'relax', 'reset']), max_size=12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_one_reads_the_weighted_sum_of_the_hidden_weights(name, actions, seed):
    state, g = tile(replace(everyone[name], devices=[replace(d, dw_min=.1) for d in everyone[name].devices]), 3, 4, seed=seed), stream(seed, 'actions')
    w = state.write(torch.zeros(3, 4))
    for a in actions:
        if a=='pulse': w = state.pulse(w, torch.randint(-1, 2, (3, 4), generator=g), generator=g)
        if a=='write': w = state.write(torch.randn(3, 4, generator=g)*.2)
        if a=='relax': state.relax(w, generator=g)
        if a=='reset': state.reset(w, torch.rand(3, 4, generator=g)<.5, generator=g)
        torch.testing.assert_close(w, sum(v*h for v,h in zip(state.resistive.weights, state.hidden)), rtol=0, atol=1e-6)

@pytest.mark.parametrize('name', ['vector', 'reference pair', 'one-sided', 'copy inverted'])
def test_compositions_show_what_was_written(name):
    w = torch.linspace(-.1, .1, 12).view(3, 4)
    one = ConstantStep(w_max_dtod=0., w_min_dtod=0.)
    state = tile(replace(everyone[name], devices=[one]*len(everyone[name].devices)), 3, 4)
    if name!='reference pair': torch.testing.assert_close(state.write(w), w)
    else: torch.testing.assert_close(tile(replace(everyone[name], devices=[one]*2, subtract_symmetry_point=False), 3, 4).write(w), w)

@pytest.mark.parametrize('name', ['one-sided', 'copy inverted'])
def test_one_sided_devices_never_go_back(name):
    state, g = tile(replace(everyone[name], devices=[ConstantStep(dw_min=.02, dw_min_std=0.)]*2, refresh_every=0), 5, 6), stream(1)
    away = torch.tensor([1., -1. if name=='copy inverted' else 1.]).view(2, 1, 1)
    w, before = state.write(torch.zeros(5, 6)), state.hidden*away
    for _ in range(40):
        sign = torch.randint(-1, 2, (5, 6), generator=g)
        w = state.pulse(w, sign, generator=g); state.relax(w, generator=g)
        after = state.hidden*away
        assert (after>=before).all() and not (after>before)[0][sign<=0].any() and not (after>before)[1][sign>=0].any()
        before = after

@pytest.mark.parametrize('name', ['one-sided', 'copy inverted'])
def test_full_pairs_are_refreshed(name):
    state, g = tile(replace(everyone[name], devices=[ConstantStep(dw_min=.01, reset_std=0., **exact)]*2, refresh_every=3), 2, 2), stream(1)
    w, busy = torch.zeros(2, 2), torch.tensor([[1, 1], [0, 0]])
    for sign, n in ((1, 55), (-1, 50)):
        for _ in range(n): w = state.pulse(w, sign*busy, generator=g)
    before = state.hidden.abs().amax(0)
    for _ in range(2): state.relax(w, generator=g)
    assert torch.equal(state.hidden.abs().amax(0), before)
    state.relax(w, generator=g)
    assert before[0].min()>.5 and state.hidden.abs().max()<.071 and abs(w[0]-.05).max()<.011 and not w[1].any()

def test_a_copy_inverted_has_the_parameters_of_its_original():
    first, second = tile(OneSided((ConstantStep(), ConstantStep(dw_min=.9)), copy_inverted=True), 4, 5).devices
    assert all(torch.equal(a, b) for a,b in zip(first.buffers(), second.buffers()))

def test_zero_shifting_puts_the_reference_at_the_symmetry_point():
    state = tile(ReferencePair((SoftBounds(up_down=.2),)*2, subtract_symmetry_point=True), 6, 7)
    w = state.write(torch.zeros(6, 7))
    reachable = state.hidden[1]!=state.devices[1].clip(state.hidden[1]*1e9)
    torch.testing.assert_close(state.hidden[0][reachable], symmetry_point(state.devices[0])[reachable])
    before = state.hidden[1].clone()
    state.pulse(w, 1, generator=stream(0))
    assert torch.equal(state.hidden[1], before) and reachable.any()

def test_negative_weights_of_the_sum_reverse_pulses():
    state = tile(Vector((ConstantStep(**exact),)*2, (1., -1.)), 2, 2)
    state.pulse(torch.zeros(2, 2), 1, generator=stream(0))
    torch.testing.assert_close(state.hidden, torch.stack([torch.full((2, 2), .001), torch.full((2, 2), -.001)]))

# Copies

def saved(state):
    buffer, other = io.BytesIO(), tile(state.resistive, *state.shape, seed=7)
    torch.save(state.state_dict(), buffer); buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other

@pytest.mark.parametrize('copied', [copy.deepcopy, saved, lambda s: copy.deepcopy(s).to('cpu'), lambda s: copy.deepcopy(s).double().float()],
    ids=['deepcopy', 'state_dict', 'to', 'double and back'])
@each
def test_copies_go_on_with_the_same_bits(device, copied):
    def go_on(state, w, g):
        for i in range(6): w = state.relax(state.pulse(w, 1 if i%3 else -1, generator=g), generator=g)
        return w
    state = tile(device, 4, 5)
    w = go_on(state, state.write(torch.zeros(4, 5)), stream(0))
    other = copied(state)
    assert torch.equal(go_on(state, w.clone(), stream(1)), go_on(other, w.clone(), stream(1)))
    assert all(torch.equal(a, b) for a,b in zip(state.buffers(), other.buffers()))

@each
def test_the_same_generator_gives_the_same_bits(device):
    run = lambda seed: response(device, 5, 5, 20, generator=stream(seed))
    assert torch.equal(run(0), run(0)) and (isinstance(device, Ideal) and type(device) is Ideal or not torch.equal(run(0), run(1)))

# Errors

@pytest.mark.parametrize('make', [
    lambda: ConstantStep(dw_min=0), lambda: ConstantStep(dw_min=-1.), lambda: ConstantStep(dw_min=math.nan), lambda: ConstantStep(dw_min='1'), lambda: ConstantStep(dw_min=True),
    lambda: ConstantStep(dw_min_std=-.1),
    lambda: ConstantStep(w_max=-1.), lambda: ConstantStep(w_min=.1), lambda: ConstantStep(w_max=math.inf), lambda: ConstantStep(up_down=math.nan),
    lambda: ConstantStep(corrupt_devices_prob=1.1),
    lambda: ConstantStep(corrupt_devices_range=-.1), lambda: Ideal(lifetime=-1.), lambda: Ideal(reset=math.inf), lambda: SoftBounds(w_max_dtod=-.1), lambda: SoftBounds(write_noise_std=-1.),
    lambda: PiecewiseStep(piecewise_up=()), lambda: PiecewiseStep(piecewise_down=(1., math.nan)), lambda: Vector(()), lambda: Vector((ConstantStep(),), (1., 2.)),
    lambda: Vector((ConstantStep(),), (0.,)),
    lambda: OneSided(refresh_every=-1), lambda: OneSided(refresh_every=1.5), lambda: preset('ReRamZZ'), lambda: response(ConstantStep(), -1, 0, generator=stream(0)),
    lambda: symmetry_point(tile(Ideal(), 2, 2))])
def test_nonsense_is_refused(make):
    with pytest.raises(ConfigError, match='allowed|unknown'): make()

numbers = [(cls, f.name) for cls in (Ideal, ConstantStep, LinearStep, SoftBounds, SoftBoundsReference, ExpStep, PowStep, PiecewiseStep,
    OneSided) for f in fields(cls) if isinstance(f.default, float) or f.name=='weights']
@pytest.mark.parametrize('cls, name', numbers)
def test_nan_is_refused_everywhere(cls, name):
    with pytest.raises(ConfigError, match=name): cls(**{name: (math.nan, 1.) if name=='weights' else math.nan})

@pytest.mark.parametrize('shape', [(0, 3), (3,), (2, -1), (2., 3)])
def test_shapes_are_checked(shape):
    with pytest.raises(ShapeError, match='allowed'): ConstantStep().populate(shape, generator=stream(0))

@each
def test_weights_must_fit_their_devices(device):
    for act in (lambda s, w: s.pulse(w, 1, generator=stream(0)), lambda s, w: s.write(w), lambda s, w: s.relax(w, generator=stream(0)), lambda s, w: s.reset(w, w>0, generator=stream(0))):
        with pytest.raises(ShapeError, match='take'): act(tile(device, 2, 3), torch.zeros(3, 2))

def test_unknown_presets_are_answered_with_the_known():
    with pytest.raises(ConfigError, match='EcRam'): preset('EcRan')

@pytest.mark.parametrize('name', device_presets)
def test_presets_answer_to_pulses(name):
    curve = response(preset(name), 30, 30, 30, generator=stream(0))
    assert torch.isfinite(curve).all() and curve[30].mean()>0 and curve[-1].mean()<curve[30].mean()

@pytest.mark.parametrize('name, field, value', [('ReRamES', 'A_up', -1.18445), ('ReRamSB', 'w_min', -.75), ('Capacitor', 'lifetime', 1e6), ('EcRam', 'gamma_down', .5085),
    ('EcRamMO', 'dw_min', .00028214),
                                                ('ReRamArrayOM', 'dw_min', .0949), ('ReRamArrayHfO2', 'write_noise_std', .5841), ('GokmenVlasov', 'dw_min', .0016),
                                                ('Idealized', 'up_down_dtod', 0.)])
def test_presets_have_published_parameters(name, field, value): assert getattr(preset(name), field)==value
