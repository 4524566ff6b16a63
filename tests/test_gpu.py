"""The kernels in Triton against those in numba

What is called `check_...` runs in a process of its own, on the GPU, or else in Triton's interpreter, which must be asked for before triton is imported for the first time."""
import importlib, importlib.util, os, subprocess, sys
from copy import deepcopy

import numpy as np
import pytest, torch

from analognn import pulses
from analognn.compounds import ChoppedTransfer
from analognn.core import ConfigError, EngineMissing, stream
from analognn.devices import SoftBounds, SoftBoundsReference
from analognn.kernels import CONST, EXP, LINEAR, PIECE, POW, SOFT, Population, update_tile
from analognn.randomness import draw_bits

if not importlib.util.find_spec('triton'): pytest.skip('triton is not installed: the kernels for GPUs were not tested', allow_module_level=True)

here = 'cuda' if torch.cuda.is_available() else 'cpu'
tolerance, exceptions = (2e-5, 3) if here=='cuda' else (1e-6, 0)     # a GPU rounds otherwise, and where pulses begin to be made one by one that may change the random numbers
interpreted = os.environ.get('TRITON_INTERPRET')=='1'

def rng(): return np.random.default_rng(3)
def there(a): return torch.from_numpy(np.ascontiguousarray(a.view(np.int32) if a.dtype==np.uint32 else a)).to(here)

def by_gpu(w, pop, x, d, key, *, eps=None, reads=None, n_threads=1, **kwargs):
    "`update_tile` by the other kernel"
    from analognn.gpu import gpu_update_tile
    pop = pop._replace(params=tuple(map(there, pop.params)), reference=None if pop.reference is None else there(pop.reference))
    w_there, eps_there = there(w), None if eps is None else there(eps)
    snap = gpu_update_tile(w_there, pop, there(x), there(d), key, eps=eps_there, reads=None if reads is None else there(reads), **kwargs)
    w[:] = w_there.cpu().numpy()
    if eps is not None: eps[:] = eps_there.cpu().numpy()
    return None if snap is None else snap.cpu().numpy()

def bits_by_gpu(p, bl, *args, n_threads=1, **kwargs):
    "`draw_bits` by the other kernel"
    from analognn.gpu import gpu_draw_bits
    return gpu_draw_bits(there(p), there(bl), *args, **kwargs).cpu().numpy().view(np.uint32)

# The devices, and what happens to them

n_out, n_in, B = 6, 300, 2
curve  = (.00081, .36833, 12.44625, 12.78785, .244, .2425)
models = {'constant': (CONST, {}), 'constant, written with noise': (CONST, dict(write_std=.02)), 'linear': (LINEAR, {}), 'linear, reference': (LINEAR, dict(reference=True)), 'linear, additive': (LINEAR, dict(mult=False, reference=True)),
          'soft': (SOFT, {}), 'soft, reference': (SOFT, dict(reference=True, write_std=.02)), 'soft, additive': (SOFT, dict(mult=False)), 'exponential': (EXP, dict(consts=(*curve, 0., 0.))),
          'exponential, more noise': (EXP, dict(consts=(*curve, .0003, .01))), 'power': (POW, {}), 'piecewise': (PIECE, dict(consts=(.5, 1., 1., .7, .6, 1.2, 1., .5)))}
runs   = {'exact': dict(std=0., step=.001, slots=31), 'exact, large steps': dict(std=0., step=.05, slots=5), 'noisy': dict(std=.3, step=.001, slots=15), 'pulses turn round': dict(std=2., step=.01, slots=4),
          'counted': dict(std=.3, step=.01, slots=0), 'counted, exact': dict(std=0., step=.01, slots=0)}
each_model = pytest.mark.parametrize('model', models)
each_run   = pytest.mark.parametrize('run', [pytest.param(r, marks=[pytest.mark.slow]*(r in ('exact, large steps', 'counted, exact'))) for r in runs])

def devices(model, std=.3, step=.01):
    "A tile of them"
    around = lambda v, spread=.3: (v*(1+spread*rng().uniform(-1, 1, (n_out, n_in)))).astype(np.float32)
    family, more = models[model]
    params = [around(v) for v in (step, step, -.6, .6)]
    if family==LINEAR: params += [around(-.6*step), around(.8*step)]
    if family==POW: params += [around(1.), around(1.2)]
    return Population(family, tuple(params), **dict(std=std) | more | dict(reference=around(.05) if 'reference' in more else None))

def tile(pop, slots):
    "Weights all over between the bounds, some write noise, and trains, or numbers where `slots` is 0"
    g = rng()
    w = (pop.params[2]+g.random((n_out, n_in))*(pop.params[3]-pop.params[2])-(0 if pop.reference is None else pop.reference)).astype(np.float32)
    eps = (.02*g.standard_normal((n_out, n_in))).astype(np.float32) if pop.write_std else None
    lines = [g.uniform(-1, 1, (B, n)).astype(np.float32) for n in (n_in, n_out)]
    return w, eps, *([draw_bits(v, np.full(B, slots), 5, k) for k,v in enumerate(lines)] if slots else [1.8*v for v in lines])

def assert_same(pop, slots, **kwargs):
    "One batch by both kernels; the change of the weights"
    w, eps, x, d = tile(pop, slots)
    pairs = []
    for f in (update_tile, by_gpu):
        v, e = w.copy(), None if eps is None else eps.copy()
        pairs.append((v, f(v, pop, x, d, 2**40+3, eps=e, counted=not slots, **kwargs), e))
    for a,b in zip(*pairs):
        if a is not None: assert (abs(a-b)>tolerance).sum()<=exceptions, abs(a-b).max()
    return pairs[1][0]-w

# In a process of its own

@pytest.mark.parametrize('first, key, purpose', [(0, 5, 0), (2**32-2, -5, 4), (2**40, 2**63+11, 1)])
def check_trains_are_those_of_the_cpu(first, key, purpose):
    p = rng().uniform(-1, 1, (5, 300)).astype(np.float32)
    p[:, :6] = 0, 1, -1, np.nextafter(np.float32(1), np.float32(0)), 1e-7, -1e-7
    bl = np.array([31, 30, 7, 1, 0])
    assert np.array_equal(bits_by_gpu(p, bl, key, purpose, first), draw_bits(p, bl, key, purpose, first))

@each_run
@each_model
def check_weights_are_those_of_the_cpu(model, run):
    setup = runs[run]
    assert abs(assert_same(devices(model, setup['std'], setup['step']), setup['slots'])).max()>setup['step']

@pytest.mark.parametrize('only', [0, 1, -1])
@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('slots', [31, 0])
def check_pulses_take_the_same_routes(slots, flip, only):
    change = assert_same(devices('constant', 0.), slots, flip=flip, only=only)
    assert (change.max()>.005, change.min()<-.005) == (only>=0, only<=0)

@pytest.mark.parametrize('by_row', [False, True])
@pytest.mark.parametrize('slots', [5, 0])
def check_reads_are_those_of_the_cpu(slots, by_row): assert_same(devices('soft, reference'), slots, reads=np.array([3, 5]), by_row=by_row)

@pytest.mark.parametrize('model', ['soft, reference', 'piecewise', 'exponential, more noise'])
def check_results_do_not_depend_on_the_tile(model, monkeypatch):
    from analognn import gpu
    pop, seen = devices(model, 2.), []
    for shape in ((128, 256), (4, 128), (16, 64)):
        monkeypatch.setattr(gpu, '_tile', shape)
        w, eps, x, d = tile(pop, 2)
        seen.append([by_gpu(w, pop, x, d, 9, eps=eps, reads=np.array([-1, 5])), w, *([] if eps is None else [eps])])
    for other in seen[1:]: assert all(map(np.array_equal, seen[0], other))

def check_degenerate_devices_stay_finite():
    few = lambda *v: np.resize(np.array(v, np.float32), (n_out, n_in))
    for family, more in {f: dict(consts=m.get('consts', ())) for f,m in models.values()}.items():
        params = few(0, .5, .1, 0, 3), few(0, .5, .1, 0, 3), few(.1, -.5, 0, 0, -.001), few(.1, .5, 0, 0, .001), few(1), few(1)
        pop = Population(family, params[:6 if family in (LINEAR, POW) else 4], std=5., **more)
        w, _, x, d = tile(pop, 3)
        by_gpu(w, pop, x, d, 1)
        assert np.isfinite(w).all() and (w>=params[2]-1e-6).all() and (w<=params[3]+1e-6).all()

@pytest.mark.parametrize('scale_fast_lr', [True, False])
def check_residual_learning_takes_the_same_way(scale_fast_lr, monkeypatch):
    "gamma, choppers and rates that change, on both kernels: the visible weights agree"
    rule = ChoppedTransfer(fast=SoftBoundsReference(dw_min=.01), slow=SoftBounds(dw_min=.01), gamma=.5, fast_lr=.5, scale_fast_lr=scale_fast_lr, in_chop_prob=.5, out_chop_prob=.5)
    fresh, g, calls = rule.init((4, 7), generator=stream(0, 'devices')), stream(0, 'data'), []
    batches = [(torch.randn(3, 7, generator=g), torch.randn(3, 4, generator=g), lr) for lr in (.2, .1, .05, .4)]
    def learn():
        s, g = deepcopy(fresh), stream(0, 'pulses')
        for x, d, lr in batches: rule.update(s, x, d, lr, generator=g)
        return s
    cpu = learn()
    for name, f in dict(update_tile=by_gpu, draw_bits=bits_by_gpu).items(): monkeypatch.setattr(pulses, name, lambda *args, f=f, name=name, **kwargs: (calls.append(name), f(*args, **kwargs))[1])
    gpu = learn()
    assert calls.count('update_tile')>=4 and calls.count('draw_bits')>=8
    assert (gpu.chop_in<0).any() and abs(rule.weight(gpu)-rule.weight(fresh)).max()>.02
    for a, b in ((rule.weight(cpu), rule.weight(gpu)), (cpu.arrays, gpu.arrays), (cpu.buffer, gpu.buffer), (cpu.chop_in, gpu.chop_in), (cpu.chop_out, gpu.chop_out)): assert torch.allclose(a, b, rtol=0, atol=1e-5)

@pytest.mark.parametrize('n_in, n_out, k, B', [(1, 1, 1, 1), (9, 17, 8, 5), (30, 12, 11, 1300), (6, 4, 3, 0)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def check_sparse_sums_agree(n_in, n_out, k, B, dtype):
    "Values and gradients of `gather_sum` on both kernels"
    from analognn.gather import gather_sum, readers_of
    from analognn.gather_gpu import gpu_gather_sum, gpu_spread
    g = stream(0, 'sparse', n_in, B)
    index = torch.randint(n_in, (n_out, k), generator=g).int()
    x, w, b, gy = (torch.randn(s, generator=g).to(dtype).float() for s in ((n_in, B), (n_out, k), (n_out,), (n_out, B)))
    readers, inputs = readers_of(index, n_in), [t.requires_grad_() for t in (x, w, b)]
    y = gather_sum(*inputs, index, *readers)
    expected = [y.detach(), *torch.autograd.grad(y, inputs, gy)]
    there = lambda t: t.detach().to(here, dtype) if t.is_floating_point() else t.to(here)
    on_gpu = tuple(map(there, readers))
    got = [gpu_gather_sum(there(x), there(w), there(b), there(index), *on_gpu), *gpu_spread(there(gy), there(x), there(w), *on_gpu)]
    for a, e in zip(got, expected): torch.testing.assert_close(a.float().cpu(), e, atol=1e-4*max(1, B)**.5 if dtype==torch.float32 else .02*max(1., e.abs().max().item() if e.numel() else 0.), rtol=1e-3)

@pytest.mark.skipif(here!='cuda', reason='needs a GPU')
def check_sparse_layer_lives_on_a_gpu():
    "Layer, network, graph of CUDA and torch.compile against the CPU"
    from analognn.geosparse import GeoSparseConfig, GeoSparseNet
    net = GeoSparseNet(256, 3, GeoSparseConfig(shape=(16, 16), activation_type='psann', residual_alpha_init=.5), generator=stream(0))
    x = torch.randn(64, 256, generator=stream(1))
    expected, there = net(x), deepcopy(net).cuda()
    torch.testing.assert_close(there(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.compile(there, fullgraph=True)(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-3)
    graphed = torch.cuda.make_graphed_callables(deepcopy(there), (x.cuda(),))
    torch.testing.assert_close(graphed(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-3)

@pytest.mark.parametrize('B, L, C, H, K, d', [(2, 5, 3, 4, 3, 1), (1, 2, 2, 3, 3, 4), (2, 7, 1, 2, 1, 3), (2, 150, 37, 70, 5, 16), (1, 65, 16, 5, 2, 64)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def check_convolutions_agree(B, L, C, H, K, d, dtype):
    "Columns, the convolution and its gradients, with and without the norm, against the CPU"
    from analognn.tcn import col2im, im2col, plain_causal_conv1d
    from analognn.tcn_gpu import gpu_col2im, gpu_conv, gpu_conv_gradients, gpu_im2col
    g = stream(0, 'convolution', L)
    x, w, b, gh, cols, ln_w, ln_b = (torch.randn(s, generator=g).to(dtype).float() for s in ((B, L, C), (H, C, K), (H,), (B, L, H), (B, L, C*K), (C,), (C,)))
    there = lambda t: t.detach().to(here, dtype)
    def same(a, e): torch.testing.assert_close(a.float().cpu(), e, atol=(1e-5 if dtype==torch.float32 else .02)*max(1., e.abs().max().item()), rtol=1e-4 if dtype==torch.float32 else .02)
    same(gpu_im2col(there(x), K, d), im2col(x, K, d)); same(gpu_col2im(there(cols), K, d), col2im(cols, K, d))
    if here!='cuda' and dtype==torch.bfloat16: return      # the interpreter multiplies matrices of bfloat16 as if they were whole numbers
    for normed in (False, True):
        n, mean, rstd = torch.native_layer_norm(x, (C,), ln_w, ln_b, 1e-5) if normed else (x, None, None)
        if dtype==torch.bfloat16: n = n.bfloat16().float()
        norm = (mean.flatten().to(here), rstd.flatten().to(here), there(ln_w), there(ln_b)) if normed else None
        inputs = [n.detach().requires_grad_(), w.clone().requires_grad_()]
        y = plain_causal_conv1d(*inputs, b, d)
        same(gpu_conv(there(x), there(w), there(b), d, norm), y.detach())
        for a, e in zip(gpu_conv_gradients(there(gh), there(x), there(w), d, norm), torch.autograd.grad(y, inputs, gh)): same(a, e)

@pytest.mark.skipif(here!='cuda', reason='needs a GPU')
def check_the_block_lives_on_a_gpu():
    "Shifted, by columns, fused, replayed from a graph and compiled, against the CPU"
    from analognn.tcn import TCNBlock
    from analognn.tcn_gpu import fuse, graphed
    block, x, mask = TCNBlock(32, 64, 5, 4, generator=stream(0)), torch.randn(3, 200, 32, generator=stream(1), requires_grad=True), (torch.rand(3, 200, generator=stream(2))>.2).float()
    expected = torch.autograd.grad(block(x, mask).square().sum(), [x, *block.parameters()])
    def same(make, block):
        x_there, m_there = x.detach().cuda().requires_grad_(), mask.cuda()
        f = make(block, x_there, m_there)
        for a, e in zip(torch.autograd.grad(f(x_there, m_there).square().sum(), [x_there, *block.parameters()]), expected): torch.testing.assert_close(a.cpu(), e, atol=1e-3*e.abs().max().item(), rtol=1e-3)
    fused = lambda: fuse(torch.nn.Sequential(deepcopy(block)))[0].cuda()
    for b in (deepcopy(block).cuda(), fused()): same(lambda f, *_: f, b)
    for b in (deepcopy(block).cuda(), fused()): same(graphed, b)
    same(lambda f, *_: torch.compile(f, fullgraph=True), deepcopy(block).cuda())

def check_normal_numbers_agree():
    "The noise of layers, number by number"
    from analognn.gpu import gpu_normal_numbers
    from analognn.randomness import normal_numbers
    for n, key, count in ((1, 3, 0), (7, 2**61+5, 2**33+1), (100_001, 9, 4)):
        got = gpu_normal_numbers(n, torch.tensor([key, count], device=here), 7).cpu().numpy()
        np.testing.assert_allclose(got, normal_numbers(n, key, count, 7), atol=1e-4)
    assert gpu_normal_numbers(0, torch.tensor([1, 2], device=here)).shape==(0,)

@pytest.mark.skipif(here!='cuda', reason='needs a GPU')
@pytest.mark.parametrize('compiled', [False, True])
def check_analog_layers_live_on_a_gpu(compiled):
    "Errors of all kinds, forward and backward, against the CPU; a graph draws new noise at every replay"
    from analognn.converters import Converter
    from analognn.nn import MLP, draw
    from analognn.nonideal import Hardware
    hw = Hardware(activation_noise=.01, weight_noise=.02, weight_noise_relative=.02, read_noise=.01, mismatch=.05, offset=.003, gain=1e3, v_max=2.5)
    model = draw(MLP([40, 30, 10], hardware=hw, generator=stream(0)), generator=stream(1))
    x, there = torch.randn(8, 40, generator=stream(2), requires_grad=True), deepcopy(model).cuda()
    x_there = x.detach().cuda().requires_grad_()
    f = torch.compile(there, fullgraph=True) if compiled else there
    for _ in range(2):
        y, y_there = model(x), f(x_there)
        torch.testing.assert_close(y_there.cpu(), y, atol=1e-4, rtol=1e-4)
    for a, e in zip(torch.autograd.grad(y_there.square().sum(), [x_there, *there.parameters()]), torch.autograd.grad(y.square().sum(), [x, *model.parameters()])): torch.testing.assert_close(a.cpu(), e, atol=1e-3, rtol=1e-3)
    if compiled: return
    with torch.no_grad():
        there(x_there)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph): out = there(x_there)
    graph.replay(); first = out.clone()
    graph.replay(); assert (out-first).abs().max()>1e-3

@pytest.mark.skipif(here!='cuda', reason='needs a GPU')
def check_a_tile_learns_on_a_gpu():
    "A step of AnalogSGD leaves the same weights as on the CPU"
    from analognn.devices import SoftBounds
    from analognn.nn import MLP
    from analognn.optim import AnalogSGD
    model = MLP([20, 15, 4], resistive=SoftBounds(), generator=stream(0))
    there, x, y = deepcopy(model).cuda(), torch.randn(16, 20, generator=stream(1)), torch.randn(16, 4, generator=stream(2))
    for m, device in ((model, 'cpu'), (there, 'cuda')):
        opt = AnalogSGD(m.parameters(), lr=.1)
        for _ in range(3):
            opt.zero_grad()
            torch.nn.functional.mse_loss(m(x.to(device)), y.to(device)).backward()
            opt.step()
    for a, b in zip(model, there):
        if hasattr(a, 'tile'): assert ((a.weight-b.weight.cpu()).abs()>1e-4).float().mean()<.01        # a pulse more or less where a train's probability is rounded otherwise

def checks(*options):
    "Run the checks in a process of their own"
    env = os.environ if here=='cuda' else os.environ | {'TRITON_INTERPRET': '1'}
    out = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-o', 'python_functions=check_*', '-p', 'no:cacheprovider', __file__, *options], capture_output=True, text=True, env=env)
    assert not out.returncode, out.stdout+out.stderr

def test_both_kernels_agree(): checks()

@pytest.mark.slow
def test_both_kernels_agree_in_more_cases(): checks('--slow', '-m', 'slow')

# Without GPU and interpreter

def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    monkeypatch.delitem(sys.modules, 'analognn.gpu', raising=False)
    with pytest.raises(ImportError, match=r"pip install 'analognn\[gpu\]'") as e: importlib.import_module('analognn.gpu')
    assert isinstance(e.value, EngineMissing)

@pytest.mark.skipif(interpreted, reason='the interpreter takes tensors on the CPU')
def test_tensors_on_the_cpu_are_refused():
    from analognn.gpu import gpu_draw_bits
    with pytest.raises(ConfigError, match='lives on cpu'): gpu_draw_bits(torch.ones(2, 3), torch.ones(2, dtype=torch.int64), 0)

variants = [dict(), dict(WIDE=True, WRITE_NOISE=True, READS=1, FLIP=True, ONLY=1), dict(COUNTED=True, READS=2, ONLY=-1), dict(MULT=False, WIDE=True, HAS_REF=True, READS=1, WRITE_NOISE=True)]

def machine_code(f, arch, kinds, constants):
    "What triton makes of kernel `f` for NVIDIA's architecture `arch`"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    aligned = {(k,): [['tt.divisibility', 16]] for k,name in enumerate(f.arg_names) if kinds.get(name, '').startswith('*')}
    source = ASTSource(f, {name: kinds.get(name, 'constexpr') for name in f.arg_names}, constants, aligned)
    return triton.compile(source, target=GPUTarget('cuda', arch, 32), options=dict(num_warps=1)).asm['cubin']

@pytest.mark.skipif(interpreted, reason='the interpreter compiles nothing')
@pytest.mark.parametrize('arch', [80, *(pytest.param(a, marks=pytest.mark.slow) for a in (75, 90))])
@pytest.mark.parametrize('family', [SOFT, *(pytest.param(f, marks=pytest.mark.slow) for f in (CONST, LINEAR, EXP, POW, PIECE))])
def test_kernels_compile(family, arch, monkeypatch, tmp_path):
    from analognn import gpu
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for change in variants if family!=SOFT or arch!=80 else variants[-1:]:
        if change.get('HAS_REF') and family not in (LINEAR, SOFT): continue
        constants = dict(FAMILY=int(family), MULT=True, WIDE=False, HAS_REF=False, WRITE_NOISE=False, COUNTED=False, FLIP=False, ONLY=0, READS=0, BI=4, BJ=32) | change
        kinds = dict.fromkeys('W SU SD LO HI BU BD REF EPS snap consts'.split(), '*fp32') | dict.fromkeys(['xb', 'db'], '*fp32' if constants['COUNTED'] else '*i32')
        kinds |= dict(reads='*i64', key='u64', std='fp32', wn='fp32') | dict.fromkeys('n_out n_in B segments'.split(), 'i32')
        assert len(machine_code(gpu._update, arch, kinds, constants))>1000
    kinds = dict(P='*fp32', BL='*i64', out='*i32', n='i32', purpose='i32', first='i64', key='u64')
    assert len(machine_code(gpu._bits, arch, kinds, dict(BLOCK=256)))>1000

@pytest.mark.skipif(interpreted, reason='the interpreter compiles nothing')
@pytest.mark.parametrize('arch', [80, *(pytest.param(a, marks=pytest.mark.slow) for a in (75, 90))])
def test_sparse_kernels_compile(arch, monkeypatch, tmp_path):
    from analognn import gather_gpu
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for kind in ('*fp32', '*fp16', *(['*bf16'] if arch>=80 else [])):
        floats = dict.fromkeys('x weight bias y gy gx'.split(), kind) | dict(parts='*fp32', B='i32', E='i32')
        integers = dict.fromkeys('index starts edges outs'.split(), '*i32')
        assert len(machine_code(gather_gpu._sum_kernel, arch, floats | integers, dict(K=8, BLOCK=256)))>1000
        assert len(machine_code(gather_gpu._spread_kernel, arch, floats | integers, dict(BLOCK=256)))>1000

@pytest.mark.skipif(interpreted, reason='the interpreter compiles nothing')
@pytest.mark.parametrize('arch', [80, pytest.param(90, marks=pytest.mark.slow)])
def test_convolution_kernels_compile(arch, monkeypatch, tmp_path):
    from analognn import tcn_gpu
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    numbers = dict.fromkeys('B L C H d'.split(), 'i32')
    for kind in ('*fp32', '*bf16'):
        floats = dict.fromkeys('x cols taps bias y gh ln_w ln_b'.split(), kind) | dict.fromkeys('mean rstd gw'.split(), '*fp32')
        tiles = dict(K=5, PRECISION='ieee', BT=64, BC=32, BH=64)
        for f in (tcn_gpu._im2col_kernel, tcn_gpu._col2im_kernel): assert len(machine_code(f, arch, floats | numbers, dict(K=5, BLOCK=256)))>1000
        for norm in (False, True):
            for sign in (1, -1): assert len(machine_code(tcn_gpu._conv_kernel, arch, floats | numbers, dict(tiles, SIGN=sign, NORM=norm)))>1000
            assert len(machine_code(tcn_gpu._weight_kernel, arch, floats | numbers, dict(tiles, NORM=norm)))>1000
