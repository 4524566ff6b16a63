"Layers: a chip survives everything that a module survives"
import copy, io, pickle, subprocess, sys
import pytest, torch
from torch import nn
from hypothesis import given, settings, strategies as st

from analognn.conditions import CircuitNoise, PowerDrift, StuckAt, Temperature, WeightModifier
from analognn.converters import ideal_table, quantize
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep
from analognn.memory import PCM, ReRAM, SingleCell
from analognn.nn import MLP, AnalogConv2d, AnalogEmbedding, AnalogLinear, AnalogLinearMapped, chip, clip_weights, draw, drift, program, seed_, with_hardware
from analognn.nonideal import Converter, Hardware, chip_weights, plain_chip_weights

hw = Hardware(dac=Converter(6, 2.), adc=Converter(6, 2.), mismatch=.02, offset=.003, write_noise=.01, weight_noise=.02, read_noise=.01, activation_noise=.01, gain=1e4, v_max=2.)
make = lambda seed=0: seed_(draw(MLP([5, 4, 3], hardware=hw, generator=stream(seed, 'init')), generator=stream(seed, 'chip')), stream(seed, 'noise'))
x = torch.randn(6, 5, generator=stream(0, 'x'))

def test_saved_and_loaded_it_goes_on_with_the_same_noise():
    model = make(); model(x)
    buffer = io.BytesIO(); torch.save(model.state_dict(), buffer); buffer.seek(0)
    other = make(1); other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(model(x), other(x)) and torch.equal(model(x), other(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))

def test_the_same_bits_in_another_process():
    code = 'import sys; sys.path.insert(0, "tests"); from test_nn import make, x; print(make()(x).double().sum().item().hex())'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()
    assert said==make()(x).double().sum().item().hex()

def test_program_rewrites_only_the_weights():
    model = make(); before = copy.deepcopy(model.state_dict())
    after = program(model, generator=stream(1)).state_dict()
    changed = {k.split('.')[1] for k in before if not torch.equal(before[k], after[k])}
    assert changed=={'weight_error', 'bias_error'}

def test_dtype_moves_along():
    model = make().double()
    assert model(x.double()).dtype==torch.float64
    assert all(c.weight.dtype==torch.float64 for c in chip(model).values())

@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_without_errors_it_is_linear(seed):
    layer, z = MLP([4, 3], generator=stream(seed))[0], torch.randn(2, 4, generator=stream(seed, 'x'))
    assert torch.equal(layer(z), torch.nn.functional.linear(z, layer.weight, layer.bias))

@given(st.integers(2, 16), st.floats(.1, 10), st.floats(-20, 20))
@settings(deadline=None)
def test_quantizer(bits, v_range, v):
    q = quantize(torch.tensor(v, dtype=torch.float64), bits, v_range)
    assert abs(q-max(-v_range, min(v_range, v)))<=v_range/(2**(bits-1)-1)/2*(1+1e-9)
    torch.testing.assert_close(quantize(q, bits, v_range), q)

def test_layers_without_bias_and_wrong_inputs():
    layer = AnalogLinear(3, 2, bias=False, hardware=Hardware(mismatch=.1, offset=.01))
    assert draw(layer, generator=stream(0))(torch.ones(3)).shape==(2,)
    assert chip(layer)[''].bias is None
    with pytest.raises(ShapeError, match='takes 3'): layer(torch.ones(4))

def test_gradients():
    layer = draw(with_hardware(MLP([3, 2], generator=stream(0)), Hardware(mismatch=.1, offset=.01, gain=100., v_max=5., saturation='knee')).double(), generator=stream(0))
    params = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    f = lambda w, b: torch.func.functional_call(layer, {'0.weight': w, '0.bias': b}, torch.ones(1, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(f, params)

# Weights of a chip in one pass, noise by counting, memory

@given(n=st.integers(1, 20), m=st.integers(1, 20), has_error=st.booleans(), has_scale=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_chip_weights_are_the_plain_ones(n, m, has_error, has_scale, seed):
    g = stream(seed, 'chip weights')
    w = (torch.randn(n, m, generator=g)*10.**torch.randint(-8, 1, (n, m), generator=g)).requires_grad_()
    error, scale = (.1*torch.randn(n, m, generator=g) if has_error else None), (1+.1*torch.randn(n, m, generator=g) if has_scale else None)
    gv, gs = torch.randn(n, m, generator=g), torch.randn(n, generator=g)
    results = [(*f(w, error, scale), *torch.autograd.grad(f(w, error, scale), w, (gv, gs))) for f in (plain_chip_weights, chip_weights)]
    for a, b in zip(*results): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)

def test_small_weights_can_grow_again():
    layer = AnalogLinear(1, 1, bias=False, hardware=Hardware(offset=.1))
    with torch.no_grad(): layer.weight.fill_(1e-8)
    assert (layer.effective("weight")==0).all()
    layer(torch.ones(1, 1)).sum().backward()
    assert layer.weight.grad!=0

kinds = {'nothing': {}, 'converters': dict(dac=Converter(8, 4.), adc=Converter(8, 4.), read_noise=.01), 'noise': dict(weight_noise=.01, weight_noise_relative=.1, activation_noise=.01), 'circuit': dict(mismatch=.05, offset=.01, gain=100., v_max=1.), 'memory': dict(memory=PCM()),
         'the rest': dict(stuck=StuckAt(.1, .05), mismatch=.05, drift=PowerDrift(1e3), temperature=Temperature(85., tcr=1e-3), wire_ratio=1e-3, circuit_noise=CircuitNoise(1e9, 1e6, .5), read_noise_relative=.05, modifier=WeightModifier(.01, .02, .01, .1)),
         'managed': dict(dac=Converter(6, 1., gain=1.01, offset=.01), adc=Converter(8, .3), noise_management='abs_max', bound_management='iterative', read_noise=.001),
         'learned': dict(dac=Converter(6, 1., learned=True), adc=Converter(6, 2., learned=True))}

@pytest.mark.parametrize('kind', kinds)
def test_the_compiler_takes_layers_whole(kind):
    "Same values, gradients and noise; and the counter goes on"
    layer, x = draw(seed_(AnalogLinear(6, 5, hardware=Hardware(**kinds[kind])), stream(0)), generator=stream(1)), torch.randn(3, 6, generator=stream(2), requires_grad=True)
    run = lambda f: (y := f(x), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    eager = run(layer), run(layer)
    seed_(layer, stream(0)); torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for a, b in zip(eager, (run(compiled), run(compiled))):
        for p, q in zip(a, b): torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)
    assert torch.equal(*(e[0] for e in eager)) == (kind not in ('converters', 'noise', 'the rest', 'managed'))

@pytest.mark.parametrize('change', ['weight', 'weight_delta', 'weight_error', 'offset', 'bias', 'bias_delta', 'hardware'])
def test_nothing_old_is_remembered(change):
    "What a layer has computed once is not used when anything has changed"
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1, offset=.1)), generator=stream(0)), torch.ones(1, 4)
    with torch.no_grad():
        before = layer(x)
        if change=='hardware': layer.hardware = Hardware(mismatch=.1, offset=.1, v_max=.01)
        elif change=='weight_error': layer.weight_error = torch.full((3, 4), .3)       # it takes no room until there is one
        else: getattr(layer, change).add_(.3)
        assert not torch.equal(layer(x), before)
        twin = AnalogLinear(4, 3, hardware=layer.hardware)
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin(x), layer(x)) and torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))

def test_noise_goes_on_after_a_state_dict():
    make = lambda: AnalogLinear(4, 3, hardware=Hardware(weight_noise=.1, read_noise=.1))
    layer, other, x = seed_(make(), stream(0)), make(), torch.ones(2, 4)
    layer(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))

@pytest.mark.parametrize('memory', [PCM(), ReRAM()])
def test_memory_of_a_network(memory):
    model, x = nn.Sequential(AnalogLinear(30, 20, hardware=Hardware(memory=memory)), nn.ReLU(), AnalogLinear(20, 5, hardware=Hardware(memory=memory))), torch.randn(8, 30, generator=stream(0))
    exact = model(x)
    once, again = (drift(program(copy.deepcopy(model), generator=stream(1)), 3600., generator=stream(2))(x) for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, exact)
    assert torch.nn.functional.cosine_similarity(once, exact).mean()>.8
    later = drift(program(copy.deepcopy(model), generator=stream(1)), 3e8, generator=stream(2))
    gap = lambda m: (m[0].effective('weight')-model[0].weight).norm()
    assert gap(later)>gap(drift(program(copy.deepcopy(model), generator=stream(1)), 0., generator=stream(2)))

def test_compensation_brings_the_size_back():
    model = program(nn.Sequential(AnalogLinear(200, 50, hardware=Hardware(memory=PCM(), compensation='global'))), generator=stream(0))
    size = lambda: model[0].effective('weight').abs().mean()
    first = size()
    assert abs(size()/first-1)<1e-6 and abs((drift(model, 1e7, generator=stream(1)) and size())/first-1)<1e-4

@pytest.mark.parametrize('kw, words', [(dict(memory='PCM'), 'a ReRAM or Memory'), (dict(compensation='columns'), "did you mean 'column'"), (dict(memory=PCM(), write_noise=.1), 'one of both ways'), (dict(weight_noise_relative=-1.), 'weight_noise_relative')])
def test_bad_hardware(kw, words):
    with pytest.raises(ConfigError) as e: Hardware(**kw)
    assert words in str(e.value)

def test_hardware_shows_what_it_has(): assert repr(Hardware(mismatch=.1))=='Hardware(mismatch=0.1)' and repr(Hardware())=='Hardware()'

def test_fused_optimizers_are_seen():
    "They change weights without counting"
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1)), generator=stream(0)), torch.ones(2, 4)
    opt = torch.optim.SGD(layer.parameters(), lr=1., fused=True)
    with torch.no_grad(): before = layer(x)
    layer(x).sum().backward(); opt.step()
    with torch.no_grad(): assert not torch.allclose(layer(x), before)

def test_inference_first_training_after():
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1, offset=.01)), generator=stream(0)), torch.ones(2, 4)
    with torch.inference_mode(): y = layer(x)
    z = layer(x)
    z.sum().backward()
    assert torch.equal(y, z) and layer.weight.grad is not None

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', ['weight_delta', 'weight_error', 'bias_delta', 'offset'])
def test_gradients_of_the_chip(name, dtype):
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1, offset=.01, write_noise=.01)), generator=stream(0)).to(dtype), torch.ones(2, 4, dtype=dtype)
    value = getattr(layer, name).clone().requires_grad_()
    for _ in range(2):
        g, = torch.autograd.grad(torch.func.functional_call(layer, {name: value}, x).square().sum(), value)
        assert g.abs().sum()>0

def test_chips_that_differ_in_offsets_alone():
    layer, x = AnalogLinear(4, 3, hardware=Hardware(offset=.1)), torch.ones(5, 4)
    states = [{k: v.clone() for k, v in draw(layer, generator=stream(k)).named_buffers()} for k in range(5)]
    together = torch.func.functional_call(layer, {k: torch.stack([s[k] for s in states]) for k in states[0] if k!='rng'}, x)
    torch.testing.assert_close(together, torch.stack([torch.func.functional_call(layer, s, x) for s in states]))

@pytest.mark.parametrize('kind', ['circuit', 'the rest'])
def test_convolutions_of_many_chips(kind):
    "torch.vmap over chips gives what each gives by itself"
    conv, x = AnalogConv2d(2, 3, 3, hardware=Hardware(**kinds[kind])).eval(), torch.randn(2, 2, 6, 5, generator=stream(0))
    states = [{k: v.clone() for k, v in seed_(draw(conv, generator=stream(k)), stream(k)).named_buffers()} for k in range(3)]
    call = lambda s: torch.func.functional_call(conv, s, (x,))
    alone = torch.stack([call({k: v.clone() for k, v in s.items()}) for s in states])
    torch.testing.assert_close(torch.vmap(call)({k: torch.stack([s[k] for s in states]) for k in states[0]}), alone, atol=1e-5, rtol=1e-4)

def test_activations_of_many_chips_have_noise_of_their_own():
    layer = AnalogLinear(4, 3, hardware=Hardware(mismatch=.01, activation_noise=.1))
    states = [{k: v.clone() for k, v in draw(layer, generator=stream(0)).named_buffers()} for _ in range(2)]
    a, b = torch.func.functional_call(layer, {k: torch.stack([s[k] for s in states]) for k in states[0] if k!='rng'}, torch.ones(5, 4))
    assert not torch.equal(a, b)

def test_what_never_saw_a_chip_takes_no_room():
    layer = AnalogLinear(300, 200)
    room = lambda m: sum(b.untyped_storage().nbytes() for b in m.buffers())
    assert room(layer)<2000 and set(layer.state_dict())=={'weight', 'bias', 'offset', 'rng'}
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).double()): assert room(other)<4000
    drawn = draw(AnalogLinear(300, 200, hardware=Hardware(mismatch=.1)), generator=stream(0))
    assert room(drawn)>200*300*4
    layer.load_state_dict(drawn.state_dict()); assert torch.equal(layer.weight_delta, drawn.weight_delta)
    layer.load_state_dict(AnalogLinear(300, 200).state_dict()); assert not layer.weight_delta.any()       # the state of a layer without a chip
    drawn.load_state_dict(nn.Linear(300, 200).state_dict(), strict=False); assert drawn.weight_delta.any() # that of PyTorch's layer says nothing of chips

def test_learned_ranges_are_parameters():
    layer = AnalogLinear(4, 3, hardware=Hardware(adc=Converter(6, 2., learned=True)))
    assert dict(layer.named_parameters())['adc_range']==2. and 'adc_range' in layer.state_dict()
    layer(torch.randn(5, 4, generator=stream(0))).square().sum().backward()
    assert layer.adc_range.grad!=0
    layer.hardware = Hardware()
    assert 'adc_range' not in dict(layer.named_parameters())

def test_arrays_convert_each_for_itself():
    "Errors of converters add up over the arrays of a row"
    layer, x = nn.Linear(64, 8), torch.randn(500, 64, generator=stream(0))
    exact = layer(x)
    error = lambda n: (m := AnalogLinearMapped(64, 8, max_input_size=n, hardware=Hardware(adc=Converter(5, 4.))), m.write(layer.weight, layer.bias), (m(x)-exact).std().item())[2]
    assert error(16)>1.5*error(64)

def test_functorch_over_inputs():
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1, dac=Converter(8, 4.))), generator=stream(0)), torch.randn(5, 4, generator=stream(1))
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    assert torch.func.jacrev(layer)(x[0]).shape==(3, 4) and torch.equal(layer(x), layer(x))

def test_noise_at_nothing_has_a_gradient():
    layer, x = AnalogLinear(4, 3, hardware=Hardware(weight_noise=.1, weight_noise_relative=.1)), torch.zeros(2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all()

def test_memory_belongs_to_what_was_written():
    make = lambda **kw: program(nn.Sequential(AnalogLinear(60, 30, hardware=Hardware(memory=PCM(), **kw))), generator=stream(0))
    gap = lambda m: ((m[0].effective('weight')-m[0].weight).norm()/m[0].weight.norm()).item()
    model = make(compensation='global')
    switched = with_hardware(model, Hardware(memory=PCM(g_max=50e-6), compensation='column'))
    assert abs(gap(drift(switched, 3e7, generator=stream(1)))-gap(drift(model, 3e7, generator=stream(1))))<.05
    model.load_state_dict(make().state_dict())
    with pytest.raises(ConfigError, match='never programmed'): drift(model, 1., generator=stream(0))
    with pytest.raises(ConfigError, match='cells of pairs'): Hardware(memory=PCM(), cell=SingleCell(), compensation='global')
    half = program(nn.Sequential(AnalogLinear(6, 3, hardware=Hardware(memory=PCM()))).bfloat16(), generator=stream(0))
    assert torch.isfinite(drift(half, 1., generator=stream(0))[0].effective('weight')).all()

def test_a_resistive_layer_keeps_its_chip_without_hardware():
    layer, x = draw(AnalogLinear(4, 3, resistive=ConstantStep(), hardware=Hardware(mismatch=.2)), generator=stream(0)), torch.ones(2, 4)
    torch.testing.assert_close(with_hardware(nn.Sequential(layer), None)(x), layer(x))

def test_management_knows_the_range_that_was_learned():
    layer = AnalogLinear(1, 1, bias=False, hardware=Hardware(adc=Converter(8, 1., learned=True), bound_management='iterative'))
    with torch.no_grad(): layer.weight.fill_(1.); layer.adc_range.fill_(.5)
    assert abs(layer(torch.tensor([[.9]])).item()-.9)<.01
    scaled = AnalogLinear(1, 1, bias=False, hardware=Hardware(dac=Converter(8, 1., learned=True), noise_management='abs_max'))
    with torch.no_grad(): scaled.weight.fill_(1.); scaled.dac_range.fill_(.5)
    assert abs(scaled(torch.tensor([[.9]])).item()-.9)<.01

@pytest.mark.parametrize('low, high', [(-.5, 1.), (-1., .5)])
def test_management_of_asymmetric_tables(low, high):
    layer = AnalogLinear(1, 1, bias=False, hardware=Hardware(adc=ideal_table(10, low, high), bound_management='iterative'))
    with torch.no_grad(): layer.weight.fill_(1.)
    for x in (.9, -.9): assert abs(layer(torch.tensor([[x]])).item()-x)<.01

def test_small_inputs_stay_finite():
    layer = AnalogLinear(4, 3, hardware=Hardware(noise_management='abs_max'))
    assert torch.isfinite(layer(torch.tensor([[1e-42, 0., 0., 0.]]))).all()

def test_a_fused_step_is_seen():
    layer, x = draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1)), generator=stream(0)), torch.ones(2, 4)
    opt = torch.optim.Adam(layer.parameters(), lr=.1, fused=True)
    layer(x).square().sum().backward()
    with torch.no_grad(): before = layer(x)
    opt.step()
    with torch.no_grad(): assert not torch.equal(layer(x), before)

def test_averages_and_meta_devices():
    model = MLP([4, 8, 3], generator=stream(0))
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(2): averaged.update_parameters(model)
    torch.testing.assert_close(averaged(torch.ones(1, 4)), model(torch.ones(1, 4)))
    for state in (AnalogLinear(4, 3).state_dict(), draw(AnalogLinear(4, 3, hardware=Hardware(mismatch=.1)), generator=stream(0)).state_dict()):
        there = AnalogLinear(4, 3, device='meta')
        there.load_state_dict(state, assign=True)
        assert torch.isfinite(there(torch.ones(2, 4))).all()

def test_many_chips_with_stuck_biases():
    model = MLP([4, 5], hardware=Hardware(write_noise=.1, stuck=StuckAt(short=.3)), generator=stream(0)).requires_grad_(False)
    states, x = [{k: v.clone() for k, v in draw(model, generator=stream(k)).named_buffers()} for k in range(5)], torch.randn(6, 4, generator=stream(9))
    together = torch.func.functional_call(model, {k: torch.stack([s[k] for s in states]) for k in states[0] if 'rng' not in k}, x)
    torch.testing.assert_close(together, torch.stack([torch.func.functional_call(model, s, x) for s in states]))

def test_the_padding_of_a_table_learns_nothing():
    table = AnalogEmbedding(5, 4, padding_idx=2, hardware=Hardware(wire_ratio=.1))
    table(torch.tensor([0, 1, 2])).sum().backward()
    assert not table.weight.grad[2].any() and table.weight.grad[0].any()

def test_clipping_what_cannot_be_clipped():
    layer = AnalogLinear(1, 1)
    assert torch.isfinite(clip_weights(layer, sigma=2.5).weight).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('kind', ['converters', 'noise', 'circuit', 'the rest'])
def test_other_precisions(kind, dtype):
    layer = draw(AnalogLinear(6, 5, hardware=Hardware(**kinds[kind])), generator=stream(0)).to(dtype)
    y = layer(torch.randn(3, 6, generator=stream(1)).to(dtype))
    assert y.dtype==dtype and torch.isfinite(y).all()

def test_autocast():
    layer, x = draw(AnalogLinear(6, 5, hardware=Hardware(mismatch=.05, weight_noise=.01)), generator=stream(0)), torch.randn(3, 6, generator=stream(1))
    exact = seed_(layer, stream(2))(x)
    with torch.autocast('cpu', torch.bfloat16): y = seed_(layer, stream(2))(x)
    torch.testing.assert_close(y.float(), exact, atol=.03, rtol=.03)
    y.float().sum().backward()
    assert layer.weight.grad.dtype==torch.float32

@pytest.mark.parametrize('hw', [dict(dac=Converter(8, 4.)), dict(adc=Converter(8, 4.)), dict(dac=ideal_table(4))])
def test_nan_is_refused_at_converters(hw):
    with pytest.raises(ConfigError, match='holds NaN'): AnalogLinear(2, 2, hardware=Hardware(**hw))(torch.tensor([[1., torch.nan]]))

def test_noise_of_sums_has_second_derivatives():
    layer, x = AnalogLinear(4, 3, hardware=Hardware(weight_noise=.1, read_noise=.1)), torch.randn(2, 4, requires_grad=True)
    g, = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(g.square().sum(), x)[0]).all()
