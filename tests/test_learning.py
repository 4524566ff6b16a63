"Resistive layers among PyTorch's own: gradients that are scaled, dropped or asked for otherwise, weights that are assigned, training that stops"
import math

import pytest
import torch
from torch import nn

from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep, Ideal, OneSided, SoftBounds, preset
from analognn.nn import AnalogLinear, MLP
from analognn.nonideal import Hardware, IOParameters
from analognn.optim import AnalogSGD, fit
from analognn.pulses import PulseTrain, pulsed_update, read_while_updating, update_lines

def exact_layer():
    "A layer that learns exactly, at weight 0"
    layer = AnalogLinear(3, 2, resistive=Ideal())
    layer.weight = torch.zeros(2, 3)
    return layer

def step(layer, **kw):
    "What one step of an optimizer of rate .1 makes of the weights, when `before(opt)` is called between backward and step"
    opt = AnalogSGD(layer.parameters(), lr=.1)
    loss = layer(torch.ones(1, 3)).sum()*kw.get('scale', 1.)
    loss.backward()
    kw.get('before', lambda opt: None)(opt)
    opt.step()
    return layer.weight

def close(a, b): torch.testing.assert_close(a, torch.full_like(a, b), atol=1e-6, rtol=1e-4)

def test_a_step_is_exact(): close(step(exact_layer()), -.1)

def test_scaled_losses_are_unscaled():
    layer = exact_layer()
    def unscale(opt):
        for p in layer.parameters(): p.grad /= 65536
    close(step(layer, scale=65536., before=unscale), -.1)

def test_clipping_acts_on_the_arrays_too():
    layer = exact_layer()
    close(step(layer, before=lambda opt: nn.utils.clip_grad_norm_(layer.parameters(), math.sqrt(2)/2)), -.05)      # the bias' gradient has norm sqrt 2

@pytest.mark.parametrize('to_none', [True, False])
def test_dropped_gradients_are_not_learned(to_none):
    layer = exact_layer()
    layer(torch.ones(1, 3)).sum().backward()
    layer.zero_grad(set_to_none=to_none)
    close(step(layer), -.1)

def test_gradients_asked_for_otherwise_are_not_learned():
    layer, x = exact_layer(), torch.ones(1, 3, requires_grad=True)
    torch.autograd.grad(layer(x).sum(), x)
    close(step(layer), -.1)

def test_backward_passes_add_up():
    layer = exact_layer()
    for _ in range(2): layer(torch.ones(1, 3)).sum().backward()
    close(step(layer), -.3)

def test_gradients_that_stay_are_learned_again():
    "As with PyTorch's own optimizers: without `zero_grad` the second step has both gradients"
    layer = exact_layer()
    opt, bias = AnalogSGD(layer.parameters(), lr=.1), layer.bias.detach().clone()
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
        opt.step()
    close(layer.weight, -.3); close(layer.bias.detach()-bias, -.3)
    opt.zero_grad(); opt.step()
    close(layer.weight, -.3)

def test_a_layer_used_twice_learns_twice():
    layer = exact_layer()
    opt = AnalogSGD(layer.parameters(), lr=.1)
    (layer(torch.ones(1, 3))+layer(2*torch.ones(1, 3))).sum().backward()
    opt.step()
    close(layer.weight, -.3)

def test_nan_gradients_change_nothing():
    layer = exact_layer()
    with pytest.raises(ConfigError, match='nothing was updated'): step(layer, scale=math.nan)
    close(layer.weight, 0.)
    assert layer.bias.isfinite().all()

def test_maximize_is_refused():
    with pytest.raises(ConfigError, match='maximize'):
        layer = exact_layer()
        opt = AnalogSGD(layer.parameters(), lr=.1, maximize=True)
        layer(torch.ones(1, 3)).sum().backward(); opt.step()

def test_assigned_weights_reach_the_arrays():
    layer = AnalogLinear(3, 2, resistive=SoftBounds(w_max_dtod=0., w_min_dtod=0.))
    layer.weight = torch.full((2, 3), .9)
    close(layer.weight, .6)                 # the bound
    layer.reset_parameters()
    assert layer.weight.abs().max()<.6 and layer.weight.std()>0

def test_autocast():
    model = nn.Sequential(nn.Linear(4, 3), AnalogLinear(3, 3, resistive=ConstantStep()), nn.Linear(3, 2))
    opt = AnalogSGD(model.parameters(), lr=.1)
    before = model[1].weight
    with torch.autocast('cpu', dtype=torch.bfloat16): loss = model(torch.ones(5, 4)).float().square().mean()
    loss.backward(); opt.step()
    assert not torch.equal(model[1].weight, before)

@pytest.mark.parametrize('device', [OneSided([SoftBounds()]*2), preset('PCM')], ids=['one-sided', 'PCM'])
def test_a_change_of_type_keeps_hidden_weights(device):
    layer = AnalogLinear(8, 6, resistive=device)
    layer.tile.rule.update(layer.tile.state, torch.randn(9, 8), torch.randn(9, 6), .1, generator=stream(0))
    hidden = layer.tile.state.devices[0].hidden.clone()
    layer.double().tile.state.devices[0].align(layer.tile.state.slow)
    torch.testing.assert_close(layer.tile.state.devices[0].hidden.float(), hidden)

def test_coarse_types_are_refused():
    layer = exact_layer().to(torch.bfloat16)
    with pytest.raises(ConfigError, match='float32'): step(layer)

def test_two_descriptions_of_a_product_are_refused():
    with pytest.raises(ConfigError, match='hardware'): AnalogLinear(3, 2, resistive=Ideal(), hardware=Hardware(offset=.1), forward_io=IOParameters())
    with pytest.raises(ConfigError, match='resistive'): AnalogLinear(3, 2, forward_io=IOParameters())

@pytest.mark.parametrize('lines, shape, error', [([4], (1, 2), ConfigError), ([-1], (1, 2), ConfigError), ([0, 1], (1, 2), ShapeError), ([0], (1, 3), ShapeError)])
def test_lines_that_are_not_there_are_refused(lines, shape, error):
    tile, w = ConstantStep().populate((2, 3), generator=stream(0)), torch.zeros(2, 3)
    with pytest.raises(error, match='allowed'): update_lines(w, tile, lines, torch.ones(shape), .1, generator=stream(0))

def test_nan_values_and_reads_are_refused():
    tile, w = ConstantStep().populate((2, 3), generator=stream(0)), torch.zeros(2, 3)
    with pytest.raises(ConfigError, match='NaN'): update_lines(w, tile, [0], torch.full((1, 2), math.nan), .1, generator=stream(0))
    with pytest.raises(ConfigError, match='lines'): read_while_updating(w, tile, torch.ones(1, 3), torch.ones(1, 2), .1, torch.tensor([7]), generator=stream(0))
    with pytest.raises(ShapeError, match='lr has shape'): pulsed_update(w, tile, torch.ones(2, 3), torch.ones(2, 2), torch.ones(2), generator=stream(0))

def test_exact_updates_leave_write_noise_alone():
    device = SoftBounds(write_noise_std=10., dw_min=.01)
    tile = device.populate((40, 40), generator=stream(0))
    w = tile.pulse(tile.write(torch.zeros(40, 40)), 1, generator=stream(1))
    again = pulsed_update(w.clone(), tile, torch.zeros(1, 40), torch.zeros(1, 40), .1, PulseTrain('none'), generator=stream(2))
    torch.testing.assert_close(again, w)

def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    x, y = torch.randn(20, 4, generator=stream(0)), torch.randint(3, (20,), generator=stream(1))
    train = lambda **kw: fit(MLP([4, 3], resistive=ConstantStep(), generator=stream(0)), (x, y), (x, y), lr=.1, generator=stream(2), checkpoint=tmp_path/'run.pt', **kw)
    train(epochs=2)
    with pytest.raises(ConfigError, match='name another file'): train(epochs=3)
    torch.save([1], tmp_path/'run.pt')
    with pytest.raises(ConfigError, match='not from a training'): train(epochs=2)
    (tmp_path/'run.pt').write_bytes(b'nonsense')
    with pytest.raises(ConfigError, match="can't be read"): train(epochs=2)

def test_dropout_goes_on_where_it_was(tmp_path):
    "PyTorch's own random numbers belong to the state, too"
    x, y = torch.randn(40, 4, generator=stream(0)), torch.randint(3, (40,), generator=stream(1))
    class AdamW(torch.optim.AdamW):
        def step(self, closure=None):
            if next(iter(self.state.values()), dict(step=0))['step']==stop: raise KeyboardInterrupt
            return super().step(closure)
    def train(checkpoint=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(.5), torch.nn.Linear(8, 3))
        fit(model, (x, y), None, epochs=3, batch_size=10, generator=stream(2), optimizer=AdamW, checkpoint=checkpoint, save_every=1)
        return model.state_dict()
    stop = 6
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'run.pt')
    stop = None
    assert all(torch.equal(a, b) for a, b in zip(train(tmp_path/'run.pt').values(), train().values()))

def test_a_diverged_training_is_not_taken_up_again(tmp_path):
    x, y = torch.ones(8, 1), torch.ones(8, 1)
    def loss(out, y): return ((out-y)**2).mean()*(float('nan') if len(seen)>5 else 1)+0*len(seen.append(1) or seen)
    for calls in range(2):
        seen = [] if not calls else seen
        history = fit(torch.nn.Linear(1, 1), (x, y), None, epochs=9, batch_size=4, loss=loss, score=lambda *_: 0., generator=stream(0), checkpoint=tmp_path/'run.pt')
        assert len(history.loss)==4

def test_losses_must_be_named_well():
    x = torch.ones(8, 1)
    for names in (dict(error=1.), dict(loss=1., score=2.)):
        with pytest.raises(ConfigError, match="allowed: 'loss', and others"): fit(torch.nn.Linear(1, 1), (x, x), None, epochs=1, loss=lambda out, y: {k: v*out.mean() for k, v in names.items()}, generator=stream(0))
