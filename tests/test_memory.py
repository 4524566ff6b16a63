"Memory that is written once: the reference's statistics, cells, and what is refused"
import json, math
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st

from analognn import memory
from analognn.core import ConfigError, ShapeError, stream
from analognn.memory import PCM, PairCell, ReRAM, SingleCell, SliceCell, Written, read, to_conductances, to_weights, write

reference = json.loads((Path(__file__).parent/'aihwkit_statistics.json').read_text())['pcm']

def close_to(x, stats, n=100_000):
    "Mean, deviation and quantiles within what two samples of this size differ by"
    x, s = x.double(), stats['std']
    assert abs(x.mean()-stats['mean'])<5*s*math.sqrt(2/n) and abs(x.std()/s-1)<5/math.sqrt(n)
    for q, name in ((.05, 'q05'), (.5, 'q50'), (.95, 'q95')): assert abs(x.quantile(q)-stats[name])<.025*s

@pytest.mark.parametrize('g_us', reference)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=['compiled', 'formulas'])
def test_pcm_is_the_references(g_us, dtype):
    g, pcm = torch.full((100_000,), float(g_us)*1e-6, dtype=dtype), PCM()
    written = write(pcm, g, generator=stream(0, 'write'))
    close_to(1e6*written.g, reference[g_us]['prog'])
    close_to(written.own, reference[g_us]['nu'])
    exact = written._replace(g=g)                        # the reference drifts conductances without an error of writing
    for name, t in (('drift_t0', 0.), ('drift_t3600', 3600.), ('drift_t3.1536e+07', 3.1536e7)): close_to(1e6*read(exact, t, generator=stream(0, 'read', name)), reference[g_us][name])

def test_scales_switch_errors_off():
    still = PCM(prog_noise_scale=0., drift_scale=0., read_noise_scale=0.)
    g = torch.rand(300, generator=stream(0))*25e-6
    torch.testing.assert_close(read(write(still, g, generator=stream(1)), 1e6, generator=stream(2)), g, rtol=1e-5, atol=0)
    calm = ReRAM(noise_scale=0.)
    torch.testing.assert_close(read(write(calm, g, generator=stream(1)), 1e6, generator=stream(2)), g)

def test_laws_scale_with_the_largest_conductance():
    g = torch.full((1000,), 10e-6)
    small, large = write(PCM(), g, generator=stream(0)), write(PCM(g_max=50e-6), 2*g, generator=stream(0))
    torch.testing.assert_close(2*small.g, large.g); torch.testing.assert_close(small.own, large.own)

@given(n=st.integers(0, 3000), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_threads_and_shape_do_not_matter(n, seed):
    g = torch.rand(n, generator=stream(seed))*25e-6
    a, b = (write(PCM(), v, generator=stream(seed, 'w')) for v in (g, g.view(1, n)))
    assert torch.equal(a.g, b.g[0]) and torch.equal(a.own, b.own[0]) and (a.g>=0).all() and (a.own>=0).all()

def test_another_generator_other_devices_and_the_same_the_same():
    g = torch.full((50,), 5e-6)
    first, same, other = (write(PCM(), g, generator=stream(s)) for s in (0, 0, 1))
    assert torch.equal(first.g, same.g) and not torch.equal(first.g, other.g)
    reads = [read(first, 1., generator=stream(s)) for s in (0, 0, 1)]
    assert torch.equal(reads[0], reads[1]) and not torch.equal(reads[0], reads[2])

def test_errors_of_writing_drift_and_read_are_independent():
    w = write(PCM(), torch.full((20_000,), 5e-6), generator=stream(0))
    noise = read(w._replace(own=torch.zeros_like(w.own)), 0., generator=stream(1))/w.g
    c = torch.corrcoef(torch.stack([w.g, w.own, noise]).double())
    assert (c-torch.eye(3, dtype=torch.float64)).abs().max()<.03

def test_reram_devices_keep_their_way():
    w = write(ReRAM(), torch.full((2000,), 20e-6), generator=stream(0))
    day, two = (read(w, t, generator=stream(1)) for t in (86400., 172800.))
    assert torch.corrcoef(torch.stack([day, two]))[0, 1]>.999 and day.std()>w.g.std()

@given(cell=st.sampled_from([PairCell(), PairCell((1., 1.)), PairCell((1., .2, .3)), SingleCell()]), seed=st.integers(0, 99), per_row=st.booleans())
@settings(max_examples=30, deadline=None)
def test_cells_there_and_back(cell, seed, per_row):
    w = torch.randn(5, 7, generator=stream(seed), dtype=torch.float64)
    g, w_max = to_conductances(w, cell, 3e-5, w.abs().amax(1, keepdim=True) if per_row else None)
    assert g.min()>=0 and g.max()<=3e-5*(1+1e-9)
    torch.testing.assert_close(to_weights(g, cell, 3e-5, w_max), w)

@given(bits=st.integers(1, 4), slices=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_slices_are_as_fine_as_their_bits(bits, slices, seed):
    w, cell = torch.rand(40, generator=stream(seed), dtype=torch.float64)*2-1, SliceCell(bits, slices)
    g, w_max = to_conductances(w, cell, 1., 1.)
    assert (to_weights(g, cell, 1., w_max)-w).abs().max()<=.5/(2**(bits*slices)-1)+1e-12
    digits = g*(2**bits-1)
    torch.testing.assert_close(digits, digits.round())

def test_without_numba_it_is_formulas(monkeypatch):
    monkeypatch.setattr(memory, 'jit', None)
    w = write(PCM(), torch.full((50_000,), 5e-6), generator=stream(0))
    assert abs(w.g.std()*1e6/reference['5.0']['prog']['std']-1)<.02

@pytest.mark.parametrize('call, words', [(lambda: PCM(g_max=0.), 'g_max is 0.0'), (lambda: PCM(read_noise_scale=-1.), 'read_noise_scale'), (lambda: ReRAM(g_max=math.inf), 'g_max'), (lambda: ReRAM(times=(1.,)), 'as many'), (lambda: PairCell(()), 'one or more'), (lambda: PairCell((1., -1.)), 'positive'),
    (lambda: SliceCell(9, 1), 'bits is 9'), (lambda: SliceCell(8, 4), '24 bits together'), (lambda: write(PCM(), torch.tensor([-1e-6]), generator=stream(0)), 'allowed: 0 to g_max'), (lambda: write(PCM(), torch.tensor([math.nan]), generator=stream(0)), 'nan'),
    (lambda: read(write(PCM(), torch.zeros(2), generator=stream(0)), math.inf, generator=stream(0)), 't is inf'), (lambda: to_conductances(torch.ones(2), PairCell(), 1., .5), 'up to w_max'), (lambda: to_weights(torch.ones(3, 2), PairCell(), 1., 1.), 'this cell has 2')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError)) as e: call()
    assert words in str(e.value)
