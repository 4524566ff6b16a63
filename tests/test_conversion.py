"Conversion: the same outputs, names, ties and gradients; what is refused"
from copy import deepcopy

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import prune

from analognn.conversion import conversion_report, convert, convert_back, fit_converters
from analognn.core import ConfigError, ShapeError, stream
from analognn.devices import ConstantStep
from analognn.nn import AnalogConv1d, AnalogLinear, AnalogLinearMapped, analog_layers, draw
from analognn.nonideal import Hardware
from analognn.tcn import TCNBlock, TCNEncoder

@given(B=st.integers(1, 3), C=st.integers(1, 4), H=st.integers(1, 5), K=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 3), dilation=st.integers(1, 3), bias=st.booleans(), extra=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_converted_convolution_is_pytorchs(B, C, H, K, stride, padding, dilation, bias, extra):
    conv, x = nn.Conv1d(C, H, K, stride, padding, dilation, bias=bias).double(), torch.randn(B, C, (K-1)*dilation+1+extra, dtype=torch.float64, requires_grad=True)
    analog = convert(deepcopy(conv))
    y, z = conv(x), analog(x)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(*(torch.autograd.grad(v.square().sum(), x) for v in (y, z)))

def test_parameters_stay_and_ties_hold():
    model = nn.ModuleDict(dict(a=nn.Linear(5, 5), b=nn.Linear(5, 5, bias=False)))
    model.b.weight = model.a.weight
    optimizer_knows, rng = model.a.weight, torch.get_rng_state()
    convert(model)
    assert model.a.weight is model.b.weight is optimizer_knows and model.b.bias is None
    assert torch.equal(torch.get_rng_state(), rng)

def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(4, 4)
    model, x = nn.Sequential(layer, nn.ReLU(), layer), torch.ones(2, 4)
    before = model(x)
    assert convert(model)[0] is model[2] and type(model[2]) is AnalogLinear and torch.equal(model(x), before)

def test_frozen_stays_frozen():
    model = convert(nn.Sequential(nn.Linear(4, 3).requires_grad_(False)), resistive=ConstantStep(dw_min=.01))
    assert not any(p.requires_grad for p in model.parameters())

def test_many_chips_at_once():
    "One call for many chips gives what each gives by itself"
    encoder, tokens = convert(TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)), hardware=Hardware(mismatch=.1)), torch.randint(1, 50, (4, 9), generator=stream(1))
    states = [{k: v.clone() for k, v in draw(encoder, generator=stream(k)).state_dict().items()} for k in range(3)]
    alone = torch.stack([torch.func.functional_call(encoder, s, (tokens,)) for s in states])
    together = torch.vmap(lambda s: torch.func.functional_call(encoder, s, (tokens,)))({k: torch.stack([s[k] for s in states]) for k in states[0]})
    torch.testing.assert_close(together, alone)

def test_converters_are_left_as_they_were_when_the_data_is_bad():
    model = convert(nn.Sequential(nn.Linear(2, 2)))
    fit_converters(model, lambda: model(torch.ones(1, 2)), 6)
    before = model[0].hardware
    with pytest.raises(ConfigError, match='NaN or infinite'): fit_converters(model, lambda: model(torch.full((1, 2), torch.nan)), 8)
    assert model[0].hardware==before

def test_encoder_on_hardware():
    encoder, tokens = TCNEncoder(50, 8, 5, 3, (1, 2), 6, generator=stream(0)), torch.randint(0, 50, (4, 9), generator=stream(1))
    analog = convert(deepcopy(encoder))
    torch.testing.assert_close(analog(tokens), encoder(tokens))
    assert list(analog_layers(analog))==['blocks.0.conv.linear', 'blocks.0.out', 'blocks.1.conv.linear', 'blocks.1.out', 'projection']
    noisy = convert(deepcopy(encoder), hardware=Hardware(mismatch=.1))
    chips = [draw(noisy, generator=stream(k))(tokens) for k in range(2)]
    assert not torch.equal(*chips) and torch.nn.functional.cosine_similarity(chips[0], encoder(tokens)).mean()>.9

def test_a_converted_block_learns():
    block = convert(TCNBlock(3, 4, 3, 2, generator=stream(0)))
    block(torch.randn(2, 6, 3)).square().sum().backward()
    assert block.conv.linear.weight.grad.abs().sum()>0 and block.out.weight.grad.abs().sum()>0

def test_resistive_layers():
    model = convert(nn.Sequential(nn.Linear(4, 3)), resistive=ConstantStep(dw_min=.01))
    assert hasattr(model[0], 'tile') and model(torch.ones(2, 4)).shape==(2, 3)

def test_exclude_takes_what_is_inside():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    convert(model, exclude=['0'])
    assert type(model[0][0]) is nn.Linear and type(model[1]) is AnalogLinear

@pytest.mark.parametrize('call, words', [(lambda: convert(nn.ReLU()), 'nothing to convert'), (lambda: convert(convert(nn.Sequential(nn.Linear(2, 2)))), 'analog already'), (lambda: convert(nn.Sequential(nn.Linear(2, 2, device='meta'))), "'meta'"),
    (lambda: convert(nn.Conv1d(4, 4, 3, groups=2)), 'one group'), (lambda: convert(nn.Conv1d(4, 4, 3, padding='same')), 'zeros as padding'), (lambda: convert(nn.Sequential(nn.Linear(2, 2)), exclude=['1']), "exclude names '1'"),
    (lambda: convert(nn.Sequential(nn.Linear(2, 2)), exclude='0'), 'allowed: a list'), (lambda: convert(nn.Linear(2, 2), exclude=['nonsense']), "exclude names 'nonsense'"), (lambda: fit_converters(nn.Linear(2, 2), lambda: None, 8), 'no analog layers'), (lambda: AnalogConv1d(2, 2, 0), 'kernel_size is 0'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 2, 2)), 'at least 3 places'), (lambda: AnalogConv1d(2, 2, 3)(torch.zeros(1, 3, 5)), 'expected (B, 2, ...)'),
    (lambda: fit_converters(convert(nn.Sequential(nn.Linear(2, 2))), lambda: None, 8), "did not use layer '0'"), (lambda: fit_converters(convert(nn.Linear(2, 2)), lambda: None, 8), 'did not use')])
def test_bad_input(call, words):
    with pytest.raises((ConfigError, ShapeError)) as e: call()
    assert words in str(e.value)

def test_nothing_changes_when_a_layer_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(4, 4, 3, groups=2))
    with pytest.raises(ConfigError): convert(model)
    assert type(model[0]) is nn.Linear

@given(dims=st.integers(2, 3), C=st.integers(1, 3), H=st.integers(1, 4), K=st.integers(1, 3), stride=st.integers(1, 2), padding=st.integers(0, 2), dilation=st.integers(1, 2), extra=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_converted_convolutions_of_pictures_and_volumes(dims, C, H, K, stride, padding, dilation, extra):
    conv = (nn.Conv2d if dims==2 else nn.Conv3d)(C, H, K, stride, padding, dilation).double()
    x = torch.randn(2, C, *[(K-1)*dilation+1+extra+i for i in range(dims)], dtype=torch.float64)
    torch.testing.assert_close(convert(deepcopy(conv))(x), conv(x))

@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN, lambda *a, **kw: nn.RNN(*a, nonlinearity='relu', **kw)], ids=['LSTM', 'GRU', 'tanh', 'relu'])
@pytest.mark.parametrize('two_ways', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_converted_recurrent_layers(kind, two_ways, bias):
    "Outputs, states and gradients, from a given state, too"
    plain, x = kind(3, 4, num_layers=2, bias=bias, bidirectional=two_ways).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    analog, h = convert(deepcopy(plain)), torch.randn(2*(1+two_ways), 2, 4, dtype=torch.float64)
    for state in (None, (h, .5*h) if isinstance(plain, nn.LSTM) else h):
        results = []
        for m in (plain, analog):
            y, after = m(x, state)
            results.append((y, *(after if isinstance(after, tuple) else (after,))))
        for a, b in zip(*results): torch.testing.assert_close(a, b)
    results[1][0].sum().backward()
    assert analog.hh[1].weight.grad.abs().sum()>0

def test_the_fast_path_does_not_pass_by():
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 5, 8)
    exact = layer(x)
    convert(layer, hardware=Hardware(mismatch=.2)); draw(layer, generator=stream(0))
    with torch.no_grad(): assert (layer(x)-exact).abs().max()>1e-3

def small(name):
    "A model of Hugging Face's, from its configuration, with the arguments of a call"
    transformers = pytest.importorskip('transformers')
    tokens = torch.randint(1, 50, (2, 9), generator=stream(0))
    config, model, call = dict(
        gpt2=(transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2), 'GPT2LMHeadModel', dict(input_ids=tokens)),
        bert=(transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32), 'BertForSequenceClassification', dict(input_ids=tokens)),
        llama=(transformers.LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, max_position_embeddings=32), 'LlamaForCausalLM', dict(input_ids=tokens)),
        t5=(transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0), 'T5ForConditionalGeneration', dict(input_ids=tokens, decoder_input_ids=tokens[:, :4])))[name]
    torch.manual_seed(0)
    return getattr(transformers, model)(config).eval(), call

@pytest.mark.parametrize('name', ['gpt2', 'bert', 'llama', 't5'])
def test_models_of_hugging_face(name, tmp_path):
    "The same outputs; other ones on a chip; generation; saved and loaded by their own methods"
    model, call = small(name)
    with torch.no_grad(): exact = model(**call).logits
    tied = model.get_output_embeddings() is not None and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    convert(model)
    with torch.no_grad(): torch.testing.assert_close(model(**call).logits, exact, atol=1e-5, rtol=1e-4)
    if tied: assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if name!='bert':
        said = model.generate(call['input_ids'], max_new_tokens=3, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(call['input_ids']))
        plain, _ = small(name)
        assert torch.equal(said, plain.generate(call['input_ids'], max_new_tokens=3, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(call['input_ids'])))
    model.save_pretrained(tmp_path/'saved')
    other = convert(small(name)[0])
    with torch.no_grad():
        for p in other.parameters(): p.zero_()
    from safetensors.torch import load_file
    state = load_file(tmp_path/'saved'/'model.safetensors')
    missing = other.load_state_dict(state, strict=False).missing_keys
    assert all('lm_head' in k or 'embed_tokens' in k for k in missing)                      # what is tied is written once
    if hasattr(other, 'tie_weights'): other.tie_weights()
    with torch.no_grad(): torch.testing.assert_close(other(**call).logits, exact, atol=1e-5, rtol=1e-4)
    on_chip, _ = small(name)
    draw(convert(on_chip, hardware=Hardware(mismatch=.1)), generator=stream(0))
    with torch.no_grad(): assert (on_chip(**call).logits-exact).abs().max()>1e-3

@pytest.mark.parametrize('name', ['gpt2', 'bert', 'llama', 't5'])
def test_back_to_hugging_face(name, tmp_path):
    "There and back: the same state, which their own methods save and load"
    model, call = small(name)
    before, ids = {k: v.clone() for k, v in model.state_dict().items()}, {n: id(p) for n, p in model.named_parameters() if 'lm_head' in n or 'embed' in n or 'wte' in n}
    with torch.no_grad(): exact = model(**call).logits
    convert_back(convert(model))
    assert list(model.state_dict())==list(before) and all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and ids=={n: id(p) for n, p in model.named_parameters() if n in ids}
    model.save_pretrained(tmp_path)
    with torch.no_grad(): torch.testing.assert_close(type(model).from_pretrained(tmp_path).eval()(**call).logits, exact)

@given(B=st.integers(1, 3), L=st.integers(1, 5), S=st.integers(1, 5), heads=st.integers(1, 3), first=st.booleans(), bias=st.booleans(), other=st.booleans(), mask=st.sampled_from(['none', 'bool', 'float', 'heads', 'keys', 'both']), weights=st.booleans())
@settings(max_examples=60, deadline=None)
def test_converted_attention_is_pytorchs(B, L, S, heads, first, bias, other, mask, weights):
    torch.manual_seed(0)
    kdim, vdim = (3, 5) if other else (4*heads, 4*heads)
    plain = nn.MultiheadAttention(4*heads, heads, bias=bias, kdim=kdim, vdim=vdim, batch_first=first).double()
    shape = lambda n, dim: (B, n, dim) if first else (n, B, dim)
    q, k, v = (torch.randn(shape(n, dim), dtype=torch.float64) for n, dim in ((L, 4*heads), (S, kdim), (S, vdim)))
    hidden, later = torch.rand(B, S)<.3, torch.rand(L, S)<.3
    hidden[:, 0] = later[:, 0] = False
    options = dict(none={}, bool=dict(attn_mask=later), float=dict(attn_mask=torch.randn(L, S, dtype=torch.float64)), heads=dict(attn_mask=torch.randn(B*heads, L, S, dtype=torch.float64)), keys=dict(key_padding_mask=hidden), both=dict(attn_mask=later, key_padding_mask=hidden))[mask]
    analog = convert(deepcopy(plain))
    for a, b in zip(analog(q, k, v, need_weights=weights, **options), plain(q, k, v, need_weights=weights, **options)):
        assert (a is None)==(b is None)
        if a is not None: torch.testing.assert_close(a, b)
    back = convert_back(analog)
    torch.testing.assert_close(back(q, k, v)[0], plain(q, k, v)[0])

def test_attention_without_a_batch():
    plain, x = nn.MultiheadAttention(8, 2), torch.randn(5, 8)
    for a, b in zip(convert(deepcopy(plain))(x, x, x), plain(x, x, x)): torch.testing.assert_close(a, b)

def test_hooks_and_modes_come_along():
    layer, calls = nn.Linear(3, 3).eval(), []
    layer.register_forward_hook(lambda *a: calls.append(1)); layer.register_forward_pre_hook(lambda *a: calls.append(2))
    twin = convert(layer)
    twin(torch.ones(1, 3))
    assert calls==[2, 1] and not twin.training

def test_rules_say_which_hardware():
    hw = [Hardware(mismatch=m) for m in (.01, .02, .03)]
    model = convert(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))), hw[0], rules={'2.*': hw[1], nn.Linear: None, '2.1': hw[2]})
    assert {n: l.hardware.mismatch for n, l in analog_layers(model).items()}=={'0': 0., '1.linear': .01, '2.0': .02, '2.1': .03}
    left = convert(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1)), exclude=[nn.Conv1d])
    assert type(left[1]) is nn.Conv1d

def test_large_layers_become_arrays():
    layer, x = nn.Linear(20, 9), torch.randn(4, 20)
    model = convert(nn.Sequential(deepcopy(layer), nn.Linear(9, 3)), max_input_size=8, max_output_size=9)
    assert [type(m) for m in model]==[AnalogLinearMapped, AnalogLinearMapped] and len(analog_layers(model))==5
    torch.testing.assert_close(model[0](x), layer(x))
    torch.testing.assert_close(convert_back(model)[0](x), layer(x))

def test_the_report_counts_everything_once():
    model = convert(nn.Sequential(nn.Embedding(9, 4), nn.Conv1d(4, 3, 2), nn.BatchNorm1d(3), nn.LSTM(3, 2)))
    rows = conversion_report(model)
    assert sum(r['weights'] for r in rows)==sum(p.numel() for p in model.parameters())
    assert [r['layer'] for r in rows if r['analog']]==['1.linear', '3.ih.0', '3.hh.0']

def test_layers_of_one_shape_have_their_own_noise_and_devices():
    model = convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), hardware=Hardware(read_noise=.1))
    assert model[0].rng[0]!=model[2].rng[0]
    resistive = convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), resistive=ConstantStep(dw_min=.01))
    assert resistive[0].tile.rng[0]!=resistive[1].tile.rng[0]

def test_ties_that_would_come_apart_are_refused():
    a, b = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3)
    b.weight = a.weight
    with pytest.raises(ConfigError, match='share a parameter'): convert(nn.Sequential(a, b))
    c, d = nn.Linear(2, 2), nn.Linear(2, 2)
    d.weight = c.weight
    with pytest.raises(ConfigError, match='share a parameter'): convert(nn.Sequential(c, d), resistive=ConstantStep())

def test_encoders_with_padding_still_work():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False]*5, [False]*3+[True]*2])
    exact = model(x, src_key_padding_mask=mask)
    convert(model)
    with torch.no_grad(): torch.testing.assert_close(model(x, src_key_padding_mask=mask)[1, :3], exact[1, :3], atol=1e-5, rtol=1e-4)

def test_noise_of_two_conversions_differs():
    a, b = (convert(nn.Sequential(nn.Linear(4, 4)), Hardware(read_noise=.1)) for _ in range(2))
    assert a[0].rng[0]!=b[0].rng[0]

def test_a_tie_with_what_stays_digital_is_seen():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.table.weight
    for how in (dict(max_output_size=5), dict(resistive=ConstantStep())):
        with pytest.raises(ConfigError, match='share a parameter'): convert(Tied(), **how)
    model = convert(Tied())
    assert model.head.weight is model.table.weight

def test_rules_and_exclusions_without_effect_are_refused():
    model = lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.MultiheadAttention(8, 2))
    with pytest.raises(ConfigError, match='no layer that is converted'): convert(model(), rules={'0': None})
    with pytest.raises(ConfigError, match='inside a layer'): convert(model(), exclude=['1.out_proj'])

def test_weights_that_are_no_parameters_are_refused_before_anything_changes():
    model = nn.Sequential(nn.Linear(2, 2), prune.l1_unstructured(nn.Linear(2, 2), 'weight', .5))
    with pytest.raises(ConfigError, match='take pruning'): convert(model)
    assert type(model[0]) is nn.Linear

def test_full_backward_hooks_come_along():
    layer, calls = nn.Linear(3, 3), []
    layer.register_full_backward_hook(lambda *a: calls.append(1))
    convert(layer)(torch.ones(1, 3, requires_grad=True)).sum().backward()
    assert calls==[1]

@pytest.mark.parametrize('how', [dict(), dict(max_input_size=2)])
def test_frozen_there_and_back(how):
    model = convert_back(convert(nn.Sequential(nn.Linear(4, 3).requires_grad_(False)), **how))
    assert not any(p.requires_grad for p in model.parameters())
