"Rules: the reference's trajectories, the facts page's formulas by hand, and training that can stop and go on"
import copy, io, json, math
from dataclasses import replace
from pathlib import Path

import pytest, torch

from analognn import compounds
from analognn.compounds import BufferedTransfer, ChoppedTransfer, DynamicTransfer, MixedPrecision, SingleArray, Transfer, as_rule, rule_preset
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep, Ideal, LinearStep, OneSided, ReferencePair, SoftBounds, device_presets
from analognn.nn import MLP, AnalogLinear
from analognn.optim import AnalogSGD
from analognn.pulses import PulseTrain

reference = json.loads((Path(__file__).parent/'aihwkit_statistics.json').read_text())['transfer']
dev = ConstantStep(dw_min=.001, w_max=1., w_min=-1., dw_min_dtod=0., dw_min_std=0., up_down_dtod=0., w_max_dtod=0., w_min_dtod=0., reset_std=0.)
det = PulseTrain('deterministic_implicit')
sharp = dict(fast=dev, slow=dev, train=det)
noisy = LinearStep(dw_min=.01, gamma_up=.2, gamma_down=.2, write_noise_std=1., lifetime=200., diffusion=.001)

def tile(rule, n_out=2, n_in=3, seed=0): return rule.init((n_out, n_in), generator=stream(seed, 'tile'))
def batch(B, n_out, n_in, seed=0):
    g = stream(seed, 'batch')
    return torch.randn(B, n_in, generator=g), torch.randn(B, n_out, generator=g)
def same(a, b): return all(torch.equal(u, v) for u,v in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
def close(a, b, atol=1e-6): torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=atol)

# The reference simulator's trajectories

@pytest.mark.parametrize('name', reference)
def test_trajectories_of_the_reference(name):
    r, setup = reference[name], reference[name]['setup']
    rule = getattr(compounds, setup['rule'])(**sharp, units_in_mbatch=False, **{k: setup[k] for k in ('gamma', 'in_chop_prob', 'fast_lr') if k in setup},
        **dict(transfer_update=det) if setup['rule']=='Transfer' else {})
    s, wanted = tile(rule), dict(enumerate(r['first6'])) | {23: r['at24']}
    names = dict(hidden_weights_0='fast', hidden_weights_1='slow', buffered_FP_weight_0='buffer', buffered_FP_weight='buffer', running_mean_weight='mean', past_mean_weight='past')
    for i in range(24):
        rule.update(s, torch.tensor([setup['x']]), torch.tensor([setup['d']]), .1, generator=stream(i))
        for k, v in wanted.get(i, {}).items(): close(rule.weight(s) if k=='W' else getattr(s, names[k]), v)

# What the layer sees

shapes = pytest.mark.parametrize('n_out, n_in', [(6, 6), (4, 7), (7, 4)])
lines  = pytest.mark.parametrize('columns', [True, False])
chopping = pytest.mark.parametrize('cls', [ChoppedTransfer, DynamicTransfer])

def chopped(cls, n_out, n_in, columns, gamma=.5):
    "A tile with random arrays and choppers"
    rule, g = cls(dev, dev, gamma=gamma, transfer_columns=columns, in_chop_prob=.5, out_chop_prob=.5), stream(3)
    s = tile(rule, n_out, n_in)
    s.arrays.copy_(torch.rand(s.arrays.shape, generator=g)*.4-.2)
    for c in (s.chop_in, s.chop_out): c.copy_((torch.rand(c.shape, generator=g)<.5)*2.-1)
    return rule, s

@chopping
@lines
@shapes
def test_the_visible_weight_is_the_formula(n_out, n_in, columns, cls):
    rule, s = chopped(cls, n_out, n_in, columns)
    assert (len(s.chop_in), len(s.chop_out))==((n_in, n_out) if columns else (n_out, n_in)) and len({*s.chop_in.tolist()})==len({*s.chop_out.tolist()})==2
    c_x, c_d = (s.chop_in, s.chop_out) if columns else (s.chop_out, s.chop_in)
    close(rule.weight(s), [[.5*c_d[i].item()*c_x[j].item()*s.fast[i, j].item()+s.slow[i, j].item() for j in range(n_in)] for i in range(n_out)])

@lines
@shapes
def test_layers_multiply_without_building_the_weight(n_out, n_in, columns, monkeypatch):
    rule, s = chopped(ChoppedTransfer, n_out, n_in, columns)
    layer = AnalogLinear(n_in, n_out, resistive=rule)
    layer.tile.state = s
    w, (x, d) = rule.weight(s), batch(5, n_out, n_in)
    monkeypatch.setattr(ChoppedTransfer, 'weight', lambda *a: pytest.fail('the weight was built'))
    x.requires_grad_()
    y = layer(x); y.backward(d)
    close(y, x@w.mT+layer.bias); close(x.grad, d@w)

@lines
def test_a_flip_changes_the_weight_at_once(columns):
    rule, s = chopped(ChoppedTransfer, 4, 7, columns)
    before = rule.weight(s)
    s.chop_in[2] *= -1
    change = rule.weight(s)-before
    hit = change[:, 2] if columns else change[2]
    assert hit.abs().min()>0 and torch.equal((change!=0).sum(), torch.tensor(hit.numel()))

@pytest.mark.parametrize('gamma', [0., .3])
def test_many_arrays_are_weighted_by_powers_of_gamma(gamma):
    rule = Transfer([dev, dev], dev, gamma=gamma)
    s = tile(rule)
    s.arrays.copy_(torch.randn(3, 2, 3, generator=stream(0))*.2)
    close(rule.weight(s), gamma**2*s.arrays[0]+gamma*s.arrays[1]+s.arrays[2])

@pytest.mark.parametrize('rule', [Transfer(dev, dev, gamma=.5), ChoppedTransfer(dev, dev, gamma=.5), MixedPrecision(dev), SingleArray(dev),
    Transfer(ReferencePair((SoftBounds(up_down=.3),)*2, subtract_symmetry_point=True), dev, gamma=.1)])
def test_what_is_written_is_what_the_layer_sees(rule):
    s, w = tile(rule), torch.linspace(-.4, .4, 6).view(2, 3)
    s.arrays[0] += .1
    close(rule.write(s, w), w); close(rule.weight(s), w)

@lines
def test_the_fast_array_takes_chopped_gradients(columns):
    rule = ChoppedTransfer(Ideal(), dev, in_chop_prob=0., transfer_every=0., transfer_columns=columns)
    s, (x, d) = tile(rule, 4, 7), batch(3, 4, 7)
    for c in (s.chop_in, s.chop_out): c.copy_((torch.rand(c.shape, generator=stream(4))<.5)*2.-1)
    c_x, c_d = (s.chop_in, s.chop_out) if columns else (s.chop_out, s.chop_in)
    rule.update(s, x, d, .1, generator=stream(0))
    close(s.fast, -(c_d[:, None]*(d.mT@x)*c_x))

# Which lines are read when

def reads(rule, sizes, n_out=2, n_in=3):
    "(vector, line, stage) of every read in batches of `sizes`"
    s, seen, t = tile(rule, n_out, n_in), [], 0
    for n in sizes:
        events, _ = rule._schedule(s, n, .1, stream(0, str(t)))
        seen += [(t+b, e.line, e.stage) for b, es in enumerate(events) for e in es]
        t += n
    assert int(s.counter)==t
    return seen

@pytest.mark.parametrize('fields, sizes, want', [
    (dict(units_in_mbatch=False), [4], [(0, 0), (1, 1), (2, 2), (3, 0)]),
    (dict(units_in_mbatch=False, transfer_every=2.), [5, 1, 2], [(1, 0), (3, 1), (5, 2), (7, 0)]),
    (dict(units_in_mbatch=True), [3, 3], [(2, 0), (5, 1)]),
    (dict(units_in_mbatch=True, transfer_every=.5), [3, 3], [(1, 0), (3, 1), (5, 2)]),          # ceil(1.5) = 2
    (dict(units_in_mbatch=True, transfer_every=2.), [2, 2, 2, 2], [(3, 0), (7, 1)]),
    (dict(units_in_mbatch=False, n_reads_per_transfer=2), [3], [(0, 0), (0, 1), (1, 2), (1, 0), (2, 1), (2, 2)]),
    (dict(units_in_mbatch=False, n_reads_per_transfer=9), [1], [(0, 0), (0, 1), (0, 2)]),
    (dict(units_in_mbatch=False, transfer_columns=False), [3], [(0, 0), (1, 1), (2, 0)]),
    (dict(transfer_every=0.), [9], []), (dict(transfer_lr=0.), [9], [])])
def test_lines_are_read_in_turn(fields, sizes, want): assert [e[:2] for e in reads(Transfer(**sharp, **fields), sizes)]==want

def test_lines_are_read_at_random():
    at = [k for _,k,_ in reads(Transfer(**sharp, units_in_mbatch=False, random_selection=True), [400], n_in=4)]
    assert all(70<at.count(k)<130 for k in range(4)) and at[:8]!=[0, 1, 2, 3]*2

def test_later_stages_wait_for_a_sweep():
    seen = reads(Transfer([dev, dev], dev, units_in_mbatch=False), [12])
    assert [t for t,_,stage in seen if stage==0]==[*range(12)] and [(t, k) for t,k,stage in seen if stage==1]==[(2, 0), (5, 1), (8, 2), (11, 0)]

def test_stages_have_periods_and_rates_of_their_own():
    rule = Transfer([dev, dev], dev, units_in_mbatch=False, transfer_every=[2, 3], transfer_lr=[.5, .2])
    assert [(t, stage) for t,_,stage in reads(rule, [6])]==[(1, 0), (2, 1), (3, 0), (5, 0), (5, 1)]
    assert [rule.final_transfer_lr(tile(rule), .1, stage) for stage in (0, 1)]==pytest.approx([.05, .02])

def test_three_arrays_hand_on():
    rule = Transfer([dev, dev], dev, units_in_mbatch=False, train=det, transfer_update=det, transfer_every=[1, 1], scale_transfer_lr=False, transfer_lr=[.5, .1])
    s = tile(rule, 1, 1)
    s.arrays[0] = .2
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), .1, generator=stream(0))
    assert s.arrays.flatten().tolist()==pytest.approx([.2, .031, .003], abs=2e-3) and s.arrays[2]>0       # at most 31 pulses a stage

def test_self_transfer_with_a_list_of_rates():
    rule = Transfer([dev, dev], dev, units_in_mbatch=False, no_self_transfer=False, transfer_every=[1, 1, 1], transfer_lr=[.5, .2, .1])
    rule.update(tile(rule), *batch(9, 2, 3), .1, generator=stream(0))

def test_self_transfer_writes_the_slow_array_to_itself():
    rule = Transfer(**sharp, units_in_mbatch=False, no_self_transfer=False, transfer_every=1, transfer_update=det, scale_transfer_lr=False, transfer_lr=.1)
    s = tile(rule, 1, 1)
    s.arrays[1] = .2
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), .1, generator=stream(0))
    close(s.slow, [[.22]], 1.1e-3)

# Reading meanwhile is reading in between

@lines
@pytest.mark.parametrize('gamma', [0., .3])
@pytest.mark.parametrize('every', [1., 3.])
@pytest.mark.parametrize('rule', [Transfer(**sharp, transfer_update=det), Transfer(**sharp, transfer_update=det, transfer_forward=lambda v, generator: v*.5),
    Transfer([dev, dev], dev, train=det, transfer_update=det),
                                  BufferedTransfer(**sharp), ChoppedTransfer(**sharp, in_chop_random=False, fast_lr=.1),
                                  ChoppedTransfer(**sharp, in_chop_random=False, fast_lr=.1, auto_scale=True,
                                  correct_gradient_magnitudes=True), DynamicTransfer(**sharp, in_chop_prob=.4, fast_lr=.1)],
                                  ids=['TTv1', 'scaled read', 'stages', 'TTv2', 'TTv3', 'auto', 'TTv4'])
def test_lines_read_meanwhile_are_lines_read_in_between(rule, every, gamma, columns):
    rule = replace(rule, units_in_mbatch=False, transfer_every=every, gamma=gamma, transfer_columns=columns)
    cut = copy.copy(rule)
    object.__setattr__(cut, '_in_passing', cut._cut_up)
    one, other = tile(rule, 4, 5), tile(rule, 4, 5)
    for i, n in enumerate([7, 1, 12]*5):
        x, d = batch(n, 4, 5, seed=i)
        rule.update(one, x, d, .1, generator=stream(i)); cut.update(other, x, d, .1, generator=stream(i))
    for (k, a), b in zip(one.state_dict().items(), other.state_dict().values()): close(a.double(), b.double(), 2e-6)
    assert one.slow.any()

# Choppers

def flips(rule, vectors, n_out=2, n_in=3):
    "The choppers before every vector, and the state"
    s = tile(rule, n_out, n_in)
    history = [torch.cat([*rule._signs(s)]) for _ in range(vectors) if rule._schedule(s, 1, .1, stream(0, str(int(s.counter))))]
    return torch.stack(history), s

@pytest.mark.parametrize('p', [.1, .5])
def test_choppers_flip_at_random(p):
    history, _ = flips(ChoppedTransfer(**sharp, in_chop_prob=p), 1500)
    n = (history[1:]!=history[:-1]).sum().item()
    assert abs(n-1499*p)<5*(1500*p*(1-p))**.5

@pytest.mark.parametrize('p, period', [(.5, 2), (.34, 3), (.1, 10), (1., 2), (.01, 100)])
def test_choppers_flip_regularly(p, period):
    rule = ChoppedTransfer(**sharp, in_chop_prob=p, in_chop_random=False)
    s = tile(rule)
    for t in range(3*period*2+3):          # sweeps of 3 vectors
        assert s.chop_in.tolist()==[(-1.)**((t+2-k)//3//period) for k in range(3)] or t//3%period==period-1
        rule._schedule(s, 1, .1, stream(0))
        if (t+1)%3==0: assert (s.chop_in==(-1.)**((t+1)//3//period)).all()
    assert int(s.sweeps)==2*period+1 and (s.chop_out==1).all()

def test_no_choppers_no_flips():
    history, _ = flips(ChoppedTransfer(**sharp, in_chop_prob=0.), 50)
    assert (history==1).all()

@lines
def test_choppers_across_flip_after_full_sweeps_only(columns):
    rule = ChoppedTransfer(**sharp, in_chop_prob=0., out_chop_prob=.5, transfer_columns=columns)
    s, n, at = tile(rule, 20, 30), 30 if columns else 20, []
    for t in range(3*n):
        before = s.chop_out.clone()
        rule._schedule(s, 1, .1, stream(t))
        if not torch.equal(before, s.chop_out): at.append(t+1)
    assert at==[n, 2*n, 3*n] and (s.chop_in==1).all()

def test_a_flip_takes_effect_after_the_read():
    rule = ChoppedTransfer(**sharp, in_chop_prob=1., in_chop_random=True)
    s = tile(rule)
    events, signs = rule._schedule(s, 4, .1, stream(0))
    assert [e[0].sign[0].item() for e in events]==[1., 1., 1., -1.] and [e[0].switched for e in events]==[False]*3+[True]
    assert [c.tolist() for c,_ in signs]==[[1, 1, 1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1]]

def test_agad_holds_its_writes_until_there_is_a_reference():
    rule, wrote = DynamicTransfer(**sharp, in_chop_prob=.34, fast_lr=.1), []           # N = 3
    s = tile(rule, 1, 2)
    for t in range(20):
        before = s.slow.clone()
        rule.update(s, torch.ones(1, 2), torch.ones(1, 1), .1, generator=stream(0))
        wrote.append(not torch.equal(before, s.slow))
    assert not any(wrote[:8]) and wrote[8]         # sweeps 0 to 3 are held

def test_agad_compares_with_the_mean_of_the_period_before():
    rule = DynamicTransfer(fast=Ideal(), slow=dev, in_chop_prob=.1, tail_weightening=5., scale_transfer_lr=False, transfer_lr=1e-6)
    s, mean = tile(rule, 1, 1), 0.
    for t in range(10):
        s.fast.fill_(t+1.)
        rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), .1, generator=stream(0))
        mean += .5*(t+1-mean)                      # beta = 5/10
    assert s.mean.item()==pytest.approx(mean) and s.past.item()==0 and s.chop_in.item()==-1
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), .1, generator=stream(0))
    assert s.past.item()==pytest.approx(mean) and s.mean.item()==pytest.approx(.5*mean+5)

# One transfer by hand

def transferred(rule, read=.05, H=0., lr=.1):
    "A tile 1 x 1 after one transfer of what A holds"
    s = tile(rule, 1, 1)
    s.arrays[0] = read
    if hasattr(s, 'buffer'): s.buffer.fill_(H)
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), lr, generator=stream(0))
    return s.slow.item(), s.buffer.item() if hasattr(s, 'buffer') else None

more = PulseTrain('deterministic_implicit', desired_bl=10)
two, three = (lambda **kw: BufferedTransfer(**sharp, **kw)), (lambda **kw: ChoppedTransfer(**sharp, in_chop_prob=0., **kw))
half = replace(dev, dw_min=.0005)
@pytest.mark.parametrize('rule, H, slow, kept', [         # TTv2: H' = H + .1 .05 = H + .005, n = H'/.001
    (two(transfer_update=more), 0., .005, .0005), (two(transfer_update=more, momentum=.4), 0., .005, .002), (two(), 0., .001, .0005),
    (two(transfer_update=more), -.0045, 0., .0005), (two(transfer_update=more), -.0095, -.004, -.00045),
    (two(transfer_update=more, forget_buffer=False), .0003, .005, .0053-.9*.005), (two(forget_buffer=False), 0., .001, .005-.9*.001),
    (two(transfer_update=more, thres_scale=2.), 0., .002, .0005),
    (two(transfer_update=more, thres_scale=2., forget_buffer=False, momentum=0.), 0., .002, .001), (two(transfer_update=more, step=2.), 0., .01, .0005),
    (two(transfer_update=more, scale_transfer_lr=False, transfer_lr=.02), 0., .001, .0001),
    # TTv3: H' = H + .1 .05/.001 = H + 5
    (three(transfer_update=more), 0., .005, 0.), (three(transfer_update=more, momentum=.2), .5, .005, 1.1), (three(transfer_update=more, forget_buffer=False), .25, .005, .25),
    (three(), .25, .001, 0.),
    (three(forget_buffer=False), .25, .001, 4.25), (three(transfer_update=more, forget_buffer=False, momentum=.5), .25, .005, 2.75),
    (three(transfer_update=more, no_buffer=True), 3.5, .005, 0.),
    (three(transfer_update=more, buffer_granularity=2.5), 0., .002, 0.), (three(transfer_update=more, buffer_granularity=10.), .25, 0., .75),
    (three(transfer_update=more, auto_granularity=2.), .25, .002, 0.),
    (three(transfer_update=more, buffer_granularity=4., auto_granularity=2.), .25, 0., .875), (three(transfer_update=more, correct_gradient_magnitudes=True, fast_lr=2.), .25, .002, 0.),
    (three(transfer_update=more, step=2.), 0., .01, 0.)])
def test_one_transfer_by_hand(rule, H, slow, kept):
    got = transferred(rule, .05*(1+1e-5), H)       # a hair more: no count depends on rounding
    assert got==pytest.approx((slow, kept), abs=2e-4 if type(rule) is ChoppedTransfer else 2e-7)

def test_magnitudes_are_corrected_by_both_granularities():
    rule = ChoppedTransfer(dev, half, correct_gradient_magnitudes=True, fast_lr=.5, scale_fast_lr=True, transfer_lr=.3)
    assert rule.final_transfer_lr(tile(rule), .1)==pytest.approx(.3*.1/(.001*.0005/.001)/(.5*.1))

def test_auto_granularity_counts_vectors():
    for columns, n in ((True, 7), (False, 4)):
        rule = ChoppedTransfer(dev, dev, auto_granularity=100., transfer_every=2., buffer_granularity=3., transfer_columns=columns)
        assert rule.base_buffer_granularity(tile(rule, 4, 7))==pytest.approx(3*.001*100/(n*2))

@pytest.mark.parametrize('cap, kept', [(0., 4.), (2.5, 2.5), (9., 4.)])
def test_the_buffer_is_capped(cap, kept):
    rule = DynamicTransfer(**sharp, in_chop_prob=.5, forget_buffer=False, buffer_cap=cap)
    assert transferred(rule, .05*(1+1e-5))[1]==pytest.approx(kept, abs=1e-3)          # 5, less one

def test_chopped_reads_arrive_with_their_sign():
    rule = ChoppedTransfer(**sharp, in_chop_prob=0., transfer_update=more)
    s = tile(rule, 2, 1)
    s.arrays[0], s.chop_in[0] = .0501, -1
    s.chop_out[1] = -1
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 2), .1, generator=stream(0))
    close(s.slow, [[-.005], [.005]])

def test_what_is_read_passes_the_readers_circuit():
    rule = Transfer(**sharp, transfer_update=det, transfer_forward=lambda v, generator: v+.1)
    assert transferred(rule, .05)[0]==pytest.approx(.1*.15, abs=1.1e-3)

@pytest.mark.parametrize('p', [0., 1.])
def test_lines_are_reset_after_they_were_read(p):
    rule = Transfer(fast=replace(dev, reset=.3), slow=dev, train=det, with_reset_prob=p, units_in_mbatch=False)
    s = tile(rule)
    s.arrays[0] = .5
    rule.update(s, torch.zeros(2, 3), torch.zeros(2, 2), .1, generator=stream(0))
    close(s.fast, [[.3, .3, .5]]*2 if p else [[.5]*3]*2)

# Learning rates

def test_auto_scale_keeps_running_means_of_maxima():
    rule = ChoppedTransfer(**sharp, auto_scale=True, auto_momentum=.9, fast_lr=.2)
    s, m = tile(rule), None
    for i, n in enumerate([3, 1, 2]):
        x, d = batch(n, 2, 3, seed=i)
        rates = rule._fast_rates(s, x, d, .1).flatten().tolist()
        for b in range(n):
            now = [x[b].abs().max().item(), d[b].abs().max().item()]
            m = now if m is None else [a+(1-.9)/n*(v-a) for a,v in zip(m, now)]
            assert rates[b]==pytest.approx(.2*31*.001/(m[0]*m[1]), rel=1e-5)
    assert s.maxima.tolist()==pytest.approx(m) and rule.final_fast_lr(s, .1)==pytest.approx(rates[-1], rel=1e-5)

def test_vectors_of_zeros_leave_the_maxima():
    rule = ChoppedTransfer(**sharp, auto_scale=True)
    s = tile(rule)
    rule.update(s, *batch(2, 2, 3), .1, generator=stream(0))
    before = s.maxima.clone()
    rule.update(s, torch.zeros(2, 3), torch.zeros(2, 2), .1, generator=stream(0))
    assert torch.equal(s.maxima, before) and (before>0).all()

@pytest.mark.parametrize('fast_lr', [0., .5])
@pytest.mark.parametrize('scaled', [None, True, False])
@pytest.mark.parametrize('cls, auto', [(Transfer, False), (ChoppedTransfer, False), (ChoppedTransfer, True)])
def test_fast_rates_and_the_scheduler(cls, scaled, fast_lr, auto, monkeypatch):
    rule = cls(fast=dev, slow=dev, fast_lr=fast_lr, **({} if scaled is None else dict(scale_fast_lr=scaled)), **dict(auto_scale=True) if auto else {})
    scaled = cls is Transfer if scaled is None else scaled
    layer, used = AnalogLinear(3, 2, resistive=rule), []
    true = compounds.read_while_updating
    monkeypatch.setattr(compounds, 'read_while_updating', lambda w, s, x, d, lr, *a, **k: used.append(torch.as_tensor(lr).flatten()[0].item()) or true(w, s, x, d, lr, *a, **k))
    opt = AnalogSGD(layer.parameters(), lr=.4)
    plan = torch.optim.lr_scheduler.StepLR(opt, 1, .5)
    for _ in range(4):
        opt.zero_grad(); layer(torch.ones(1, 3)).backward(torch.ones(1, 2)); opt.step(); plan.step()       # maxima 1
    unit = 31*.001 if auto and fast_lr else 1.
    assert used==pytest.approx([unit*(lr if not fast_lr else fast_lr*lr if scaled else fast_lr) for lr in (.4, .2, .1, .05)], rel=1e-5)

@pytest.mark.parametrize('scaled', [True, False])
def test_transfer_rates_and_the_optimizer(scaled):
    rule = Transfer(dev, dev, transfer_lr=.5, scale_transfer_lr=scaled)
    assert rule.final_transfer_lr(tile(rule), .1)==pytest.approx(.05 if scaled else .5)

# Mixed precision

mixed = MixedPrecision(replace(dev, dw_min=.01), train=det)

def test_gradients_add_up_and_whole_steps_move():
    s, chi, moved = tile(mixed), torch.zeros(2, 3), torch.zeros(2, 3)
    for i in range(8):
        x, d = batch(1, 2, 3, seed=i)
        mixed.update(s, x, d, .03, generator=stream(i))
        chi += .03*d.mT@x
        if i:
            n = (chi/.01).trunc()
            chi -= n*.01; moved -= n*.01
        else: assert not s.slow.any()              # none at update 0
        close(s.chi, chi, 1e-5)
    close(s.slow, moved, 1e-5)
    assert moved.abs().max()>.05

@pytest.mark.parametrize('size, every, want', [(1, 1, [1, 2, 3, 4, 5]), (3, 1, [3]), (1, 2, [2, 4]), (3, 0, [])])
def test_transfers_every_so_many_batches(size, every, want, monkeypatch):
    rule, moves = replace(mixed, transfer_every=every), []
    s = tile(rule)
    monkeypatch.setattr(MixedPrecision, '_move', lambda self, s, g: moves.append(round(s.chi[0, 0].item())-1))       # vectors seen before the last
    for _ in range(6//size): rule.update(s, torch.ones(size, 3), torch.ones(size, 2), 1., generator=stream(0))
    assert moves==want

@pytest.mark.parametrize('rows, want', [(-1, [[0, 1, 2, 3]]*3), (1, [[0], [1], [2]]),
    (3, [[0, 1, 2], [0, 1, 3], [0, 2, 3]]), (0, [[]]*3)])
def test_rows_move_in_turn(rows, want):
    rule = replace(mixed, n_rows_per_transfer=rows)
    s, moved = tile(rule, 4, 2), []
    rule.update(s, torch.zeros(1, 2), torch.zeros(1, 4), 1., generator=stream(0))
    for _ in range(3):
        before = s.slow.clone()
        rule.update(s, torch.ones(1, 2), torch.ones(1, 4), .015, generator=stream(0))
        moved.append(((s.slow!=before).any(1)).nonzero().flatten().tolist())
    assert moved==want

def test_granularity_and_transfer_lr():
    rule = replace(mixed, granularity=.04, transfer_lr=.5)
    s = tile(rule, 1, 1)
    s.chi.fill_(.1); s.counter.fill_(1)
    rule.update(s, torch.zeros(1, 1), torch.zeros(1, 1), 1., generator=stream(0))
    close(s.slow, [[-.04]]); close(s.chi, [[.02]])

@pytest.mark.parametrize('name', ['n_x_bins', 'n_d_bins'])
def test_bins(name):
    rule = replace(mixed, transfer_every=0, stoc_round=False, **{name: 10})
    s = tile(rule)
    x, d = torch.tensor([[1., .27, -.69]]), torch.tensor([[.33, -1.]])
    rule.update(s, x, d, 1., generator=stream(0))
    rounded = lambda v: (v*5).round()/5
    close(s.chi, (d.mT@rounded(x)) if name=='n_x_bins' else rounded(d).mT@x)

def test_stochastic_rounding_is_right_on_average():
    rule = replace(mixed, transfer_every=0, n_x_bins=4)
    s = tile(rule, 1, 3)
    x = torch.tensor([[1., .27, -.69]]).repeat(4000, 1)
    rule.update(s, x, torch.full((4000, 1), 1/4000), 1., generator=stream(0))
    close(s.chi, x[:1], 5*.25/4000**.5)

# Stop and go on

many = {'plain': SingleArray(noisy), 'TTv1': Transfer(noisy, noisy, gamma=.1, n_reads_per_transfer=2, with_reset_prob=.3), 'at random': Transfer(noisy, noisy, random_selection=True),
        'stages': Transfer([noisy, noisy], noisy, gamma=.5, transfer_every=.5), 'TTv2': BufferedTransfer(noisy, noisy),
        'TTv3': ChoppedTransfer(noisy, noisy, gamma=.2, in_chop_prob=.4, out_chop_prob=.3, auto_scale=True, auto_granularity=5., fast_lr=.5),
        'rows': ChoppedTransfer(noisy, noisy, gamma=.2, in_chop_prob=.4, out_chop_prob=.3, transfer_columns=False, fast_lr=.1),
        'TTv4': DynamicTransfer(noisy, noisy, gamma=.2, in_chop_prob=.4, fast_lr=.1, in_chop_random=True),
        'mixed precision': MixedPrecision(noisy, n_x_bins=8, n_rows_per_transfer=1), 'pairs': Transfer(OneSided((noisy, noisy), refresh_every=2), ReferencePair((noisy, noisy)))}
each_rule = pytest.mark.parametrize('rule', many.values(), ids=many)

def learn(model, steps, seed):
    "Some steps; the optimizer has no memory"
    opt, g = AnalogSGD(model.parameters(), lr=.3), stream(seed, 'data')
    for _ in range(steps):
        opt.zero_grad(); model(torch.randn(3, 5, generator=g)).square().sum().backward(); opt.step()
    return model

def fresh(rule, seed=0): return MLP([5, 4, 3], resistive=rule, generator=stream(seed))
def loaded(model, rule):
    buffer, other = io.BytesIO(), fresh(rule, 1)
    torch.save(model.state_dict(), buffer); buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other
def unpickled(model, rule):
    buffer = io.BytesIO()
    torch.save(model, buffer); buffer.seek(0)
    return torch.load(buffer, weights_only=False)

@each_rule
@pytest.mark.parametrize('copied', [loaded, unpickled, lambda m, r: copy.deepcopy(m)], ids=['state_dict', 'whole', 'deepcopy'])
def test_training_goes_on_as_if_it_had_not_stopped(rule, copied):
    model = learn(fresh(rule), 5, 0)
    other = copied(model, rule)
    assert same(model, other)
    learn(other, 5, 1); mid = copy.deepcopy(other.state_dict())
    assert not same(model, other)                          # a copy of its own
    learn(model, 5, 1)
    assert all(torch.equal(a, b) for a,b in zip(model.state_dict().values(), mid.values()))

@each_rule
def test_all_that_a_rule_remembers_changes_and_is_saved(rule):
    start, end = fresh(rule).state_dict(), learn(fresh(rule), 11, 0).state_dict()
    watched = {'arrays', 'counter', 'line', 'buffer', 'chi', 'mean', 'past', 'sweeps'} | ({'maxima'} if getattr(rule, 'auto_scale', False) else set())
    for k in start:
        if k.startswith('0.tile.state.') and k.split('.')[-1] in watched: assert not torch.equal(start[k], end[k]), k

@each_rule
def test_the_same_seed_gives_the_same_bits(rule): assert same(learn(fresh(rule), 3, 0), learn(fresh(rule), 3, 0)) and not same(learn(fresh(rule), 3, 0), learn(fresh(rule, 1), 3, 0))

@pytest.mark.parametrize('rule', ['SGD', 'TTv1', 'TTv2', 'TTv3', 'TTv4', 'MixedPrecision'])
def test_presets_learn(rule):
    for device in device_presets:
        r = rule_preset(rule, device)
        s = tile(r, 4, 5)
        for i in range(3): r.update(s, *batch(10, 4, 5, seed=i), .1, generator=stream(i)); r.relax(s, generator=stream(i))
        assert torch.isfinite(r.weight(s)).all(), device

@pytest.mark.parametrize('rule', many.values(), ids=many)
def test_devices_of_all_arrays_stay_in_bounds(rule):
    s = tile(rule, 4, 5)
    for i in range(5): rule.update(s, *batch(6, 4, 5, seed=i), 5., generator=stream(i)); rule.relax(s, generator=stream(i))
    for w, d in zip(s.arrays, s.devices):
        if hasattr(d, 'max_bound'): assert (d.clean(w)<=d.max_bound+1e-6).all() and (d.clean(w)>=d.min_bound-1e-6).all()

@pytest.mark.parametrize('rule', [pytest.param(r, id=k) for k, r in many.items()] + [pytest.param(ChoppedTransfer(**sharp, auto_scale=True), id='auto')])
def test_empty_batches_change_nothing(rule):
    s = tile(rule, 4, 5)
    before = copy.deepcopy(s)
    rule.update(s, torch.zeros(0, 5), torch.zeros(0, 4), .1, generator=stream(0))
    assert same(s, before)

# Errors

@pytest.mark.parametrize('make, name', [
    (lambda: Transfer(gamma=-1.), 'gamma'), (lambda: Transfer(gamma=math.nan), 'gamma'), (lambda: Transfer(fast_lr='1'), 'fast_lr'), (lambda: Transfer(fast_lr=-1.), 'fast_lr'),
    (lambda: Transfer(transfer_every=math.inf), 'transfer_every'),
    (lambda: Transfer(transfer_every=[1, 2]), 'transfer_every'), (lambda: Transfer(transfer_lr=[1, 2]), 'transfer_lr'), (lambda: Transfer(transfer_lr=math.nan), 'transfer_lr'),
    (lambda: Transfer(n_reads_per_transfer=0), 'n_reads'),
    (lambda: Transfer(n_reads_per_transfer=1.5), 'n_reads'), (lambda: Transfer(with_reset_prob=1.1), 'with_reset_prob'), (lambda: BufferedTransfer([dev, dev], dev), 'fast'),
    (lambda: BufferedTransfer(thres_scale=0.), 'thres_scale'),
    (lambda: BufferedTransfer(step=math.nan), 'step'), (lambda: BufferedTransfer(momentum=1.1), 'momentum'), (lambda: BufferedTransfer(momentum=math.nan), 'momentum'),
    (lambda: ChoppedTransfer(buffer_granularity=0.), 'buffer_granularity'),
    (lambda: ChoppedTransfer(in_chop_prob=1.1), 'in_chop_prob'), (lambda: ChoppedTransfer(out_chop_prob=math.nan), 'out_chop_prob'),
    (lambda: ChoppedTransfer(auto_momentum=1.), 'auto_momentum'),
    (lambda: ChoppedTransfer(auto_granularity=-1.), 'auto_granularity'), (lambda: DynamicTransfer(in_chop_prob=0.), 'in_chop_prob'),
    (lambda: MixedPrecision(n_x_bins=1), 'n_x_bins'), (lambda: MixedPrecision(n_d_bins=2.5), 'n_d_bins'),
    (lambda: MixedPrecision(n_rows_per_transfer=-2), 'n_rows'), (lambda: MixedPrecision(granularity=math.nan), 'granularity'),
    (lambda: MixedPrecision(transfer_lr=-1.), 'transfer_lr'), (lambda: rule_preset('TTv9', 'EcRam'), 'TTv9'),
    (lambda: rule_preset('TTv1', 'Ecram'), 'EcRam'), (lambda: as_rule('EcRam'), 'resistive'), (lambda: as_rule(3), 'resistive'),
    *[(lambda f=f, v=v: DynamicTransfer(**{f: v}), f) for f in ('buffer_cap', 'tail_weightening') for v in (math.nan, -1.)]])
def test_nonsense_is_refused(make, name):
    with pytest.raises(ConfigError, match=name): make()

@each_rule
@pytest.mark.parametrize('x, d, lr, error', [(torch.full((2, 5), math.nan), torch.ones(2, 4), .1, ConfigError), (torch.ones(2, 5), torch.full((2, 4), math.inf), .1, ConfigError),
    (torch.ones(2, 4), torch.ones(2, 4), .1, ShapeError),
                                             (torch.ones(2, 5), torch.ones(3, 4), .1, ShapeError), (torch.ones(2, 5), torch.ones(2, 4), math.nan, ConfigError),
                                             (torch.ones(2, 5), torch.ones(2, 4), -.1, ConfigError)])
def test_what_does_not_fit_changes_nothing(rule, x, d, lr, error):
    s = tile(rule, 4, 5)
    before = copy.deepcopy(s)
    with pytest.raises(error): rule.update(s, x, d, lr, generator=stream(0))
    assert same(s, before)

@each_rule
def test_shapes_of_tiles(rule):
    with pytest.raises(ShapeError, match='allowed'): rule.init((0, 3), generator=stream(0))
