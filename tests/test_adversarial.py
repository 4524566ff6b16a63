"Adversarial chips: attacks stay in their ball and never help, certificates are sound"
import pytest, torch
from torch import nn
from hypothesis import given, settings, strategies as st

from analognn.adversarial import balls, cell_counts, certified, chip_accuracies, fit_robust, perturbed, project_delta, random_deltas, trainings, update_cost, weight_attack, worst_case, write_delta
from analognn.core import ConfigError, ShapeError, stream
from analognn.nn import MLP, AnalogLinear
from analognn.nonideal import Hardware

sizes = st.sampled_from([[3, 4], [5, 6, 3], [2, 5, 4, 2]])
def problem(shape, seed, n=12):
    "A network with large weights, inputs and the classes it gives them, some of them wrong"
    model, x = MLP(shape, generator=stream(seed, 'init')), torch.randn(n, shape[0], generator=stream(seed, 'x'))
    with torch.no_grad():
        for p in model.parameters(): p*=3
        y = model(x).argmax(-1)
    y[0] = (y[0]+1)%shape[-1]
    return model, x, y

def inside(delta, eps, ball, counts):
    n = delta.shape[-1]
    if ball=='linf': return delta.abs().max()<=eps*(1+1e-6)
    if ball=='l2': return delta.norm()<=eps*n**.5*(1+1e-5)
    if ball=='drift': return all(p.max()-p.min()<=1e-6 and p.abs().max()<=eps*(1+1e-6) for p in delta.split(counts, -1))
    return ((delta==0)|(delta==-1)).all() and (delta==-1).sum()<=round(eps*n)

@given(sizes, st.sampled_from(balls), st.floats(0, .6), st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(['cross_entropy', 'margin']))
@settings(max_examples=40, deadline=None)
def test_attack_stays_in_its_ball_and_never_helps(shape, ball, eps, seed, steps, loss):
    model, x, y = problem(shape, seed)
    before = [p.clone() for p in model.state_dict().values()]
    a = weight_attack(model, x, y, eps, ball, steps=steps, restarts=2, loss=loss, generator=stream(seed, 'attack'))
    assert inside(a.delta, eps, ball, cell_counts(model))
    assert a.loss>=a.clean
    if loss=='cross_entropy': torch.testing.assert_close(nn.functional.cross_entropy(write_delta(model, a.delta)(x), y).item(), a.loss, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(p, q) for p, q in zip(before, model.state_dict().values()))
    again = weight_attack(model, x, y, eps, ball, steps=steps, restarts=2, loss=loss, generator=stream(seed, 'attack'))
    assert torch.equal(a.delta, again.delta)

@given(sizes, st.sampled_from(balls), st.floats(0, 1), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_random_chips_and_projections_lie_inside(shape, ball, eps, seed):
    model = MLP(shape, generator=stream(seed))
    counts = cell_counts(model)
    near = project_delta(2*torch.randn(3, sum(counts), generator=stream(seed, 'far')), eps, ball, counts)
    for d in (*random_deltas(model, eps, ball, 3, generator=stream(seed)), *near): assert inside(d, eps, ball, counts)
    torch.testing.assert_close(project_delta(near, eps, ball, counts), near)

@given(sizes, st.floats(0, .4), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_certificates_are_sound(shape, eps, seed):
    "Neither random chips, nor corners of the ball, nor attacks change a certified sample"
    model, x, y = problem(shape, seed)
    sure = certified(model, x, y, eps)
    edge = random_deltas(model, eps, chips=100, generator=stream(seed, 'edge')).sign()*eps
    attacks = [weight_attack(model, x[i:i+1], y[i:i+1], eps, steps=5, generator=stream(seed)).delta for i in sure.nonzero().flatten()[:4].tolist()]
    for delta in torch.cat([random_deltas(model, eps, chips=100, generator=stream(seed, 'chips')), edge, *(a[None] for a in attacks)]).split(50):
        with torch.no_grad(): assert (perturbed(model, x, delta).argmax(-1)==y)[:, sure].all()
    assert sure.double().mean()<=worst_case(model, x, y, eps, steps=5, restarts=1, generator=stream(seed))

@given(st.floats(0, .3), st.floats(0, .3), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_larger_tolerance_certifies_less(a, b, seed):
    model, x, y = problem([5, 6, 3], seed)
    assert (certified(model, x, y, max(a, b))<=certified(model, x, y, min(a, b))).all()

def test_the_certificate_of_one_layer_is_exact():
    layer = AnalogLinear(2, 2, bias=False)
    with torch.no_grad(): layer.weight.copy_(torch.tensor([[2., 0.], [1., 0.]]))
    x, y = torch.tensor([[1., 5.]]), torch.tensor([0])
    assert certified(layer, x, y, .333) and not certified(layer, x, y, .334)          # 2 (1-eps) = 1+eps at a third

def test_many_chips_at_once_are_the_chips_one_by_one():
    model, x, y = problem([5, 6, 3], 0)
    deltas = random_deltas(model, .3, chips=45, generator=stream(0))
    deltas[7] = 0.
    many = perturbed(model, x, deltas)
    for d, out in zip(deltas, many): torch.testing.assert_close(write_delta(model, d)(x), out, rtol=1e-4, atol=1e-5)
    assert chip_accuracies(model, x, y, deltas).shape==(45,)
    assert perturbed(model, x, torch.zeros_like(deltas)).shape==many.shape

@pytest.mark.parametrize('how', trainings)
@pytest.mark.parametrize('ball', balls)
def test_trainings_learn_and_repeat(how, ball):
    model, x, y = problem([5, 6, 3], 0, 60)
    def train():
        m = MLP([5, 6, 3], generator=stream(1))
        return m, fit_robust(m, (x, y), how=how, ball=ball, eps=.05, weight=.7, epochs=6, lr=.02, generator=stream(0, 'order'))
    (a, history), (b, _) = train(), train()
    assert history.loss[-1]<history.loss[0]
    assert torch.equal(a[0].weight, b[0].weight) and torch.isfinite(a[0].weight).all()

def test_sam_takes_the_gradient_where_it_says():
    from analognn.adversarial import _Robust
    model, x, y = problem([5, 6, 3], 0)
    loss, rho = nn.functional.cross_entropy, .1
    found = torch.autograd.grad(_Robust(model, 'sam', .1, 'linf', 1., 3, rho, stream(0)).loss(x, y, loss), list(model.parameters()))
    first = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    length = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(model.parameters(), first): p.add_(rho*g/length)
    for a, b in zip(found, torch.autograd.grad(loss(model(x), y), list(model.parameters()))): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

def test_costs(): assert [update_cost(h, .5, 3) for h in trainings]==[1, 2, 5, 2]

model, x, y = problem([5, 6, 3], 0)
g = lambda: stream(0)
@pytest.mark.parametrize('call, words', [
    (lambda: weight_attack(model, x, y, -1., generator=g()), 'eps is -1.0; allowed: 0 to 1'),
    (lambda: weight_attack(model, x, y, float('nan'), generator=g()), 'eps is nan'),
    (lambda: weight_attack(model, x, y, 1.5, 'stuck', generator=g()), 'eps is 1.5'),
    (lambda: weight_attack(model, x, y, .1, 'lp', generator=g()), "unknown ball 'lp'"),
    (lambda: weight_attack(model, x, y, .1, restarts=0, generator=g()), 'restarts is 0; allowed: 1 or more'),
    (lambda: weight_attack(model, x, y, .1, step_size=0., generator=g()), 'step_size is 0.0; allowed: above 0'),
    (lambda: weight_attack(model, x, y, .1, loss='l', generator=g()), 'unknown loss'),
    (lambda: random_deltas(model, .1, chips=0, generator=g()), 'chips is 0; allowed: 1 or more'),
    (lambda: cell_counts(nn.Linear(2, 2)), 'no analog layers; allowed: at least one'),
    (lambda: fit_robust(model, (x, y), how='hope', generator=g()), "unknown training 'hope'"),
    (lambda: fit_robust(model, (x, y), steps=0, generator=g()), 'steps is 0; allowed: 1 or more'),
    (lambda: fit_robust(model, (x, y), weight=-.1, generator=g()), 'weight is -0.1; allowed: 0 to 1'),
    (lambda: certified(model, x, y, 1.), 'eps is 1.0; allowed: 0 to below 1'),
    (lambda: certified(nn.Sequential(model[0], nn.Softmax(-1), model[2]), x, y, .1), 'model has Softmax; allowed'),
    (lambda: certified(MLP([5, 3], hardware=Hardware(v_max=1.)), x, y, .1), 'model has AnalogLinear; allowed'),
    (lambda: certified(nn.Sequential(model[0], nn.ReLU()), x, y, .1), 'no linear layer at its end')])
def test_bad_arguments(call, words):
    with pytest.raises(ConfigError, match=words): call()

@pytest.mark.parametrize('call', [lambda: weight_attack(model, x, y[:3], .1, generator=g()), lambda: perturbed(model, x, torch.zeros(3)), lambda: write_delta(model, torch.zeros(2, sum(cell_counts(model)))),
                                  lambda: project_delta(torch.zeros(4), .1, 'linf', [2, 3])])
def test_wrong_shapes(call):
    with pytest.raises((ShapeError, RuntimeError)): call()
