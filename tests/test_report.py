import json, math, os, re, shutil, subprocess, sys
from html.parser import HTMLParser

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

import analognn, analognn.report as report
from analognn.core import AnalogError, ConfigError, ShapeError
from analognn.report import calibration_verdict, check_latex, headline, ladder_verdict, latex_escape, latex_table, make_report, neuron_schematic, number_text, parity_figure, residual_figure, si_text

def level(name, rmse=0., accuracy=.9): return dict(name=name, engine='PyTorch', accuracy=accuracy, rmse=rmse, r2=1-rmse, max_error=3*rmse)
def step(a, b, rmse, agreement=1.): return dict(a=a, b=b, rmse=rmse, r2=1., max_error=3*rmse, agreement=agreement)
def calibration(method, rmse, accuracy=.9): return dict(method=method, rmse=rmse, val_rmse=rmse, r2=.9, max_error=3*rmse, accuracy=accuracy)

def example():
    "Arguments of `make_report`, after the folder"
    rng = np.random.default_rng(0)
    volts = {k: torch.from_numpy(rng.normal(size=(20, 3))) for k in ('float', 'analog')}
    volts['closed form'], volts['ngspice'] = volts['analog'], volts['analog']+1e-9*volts['float']
    results = dict(
        config=dict(seed=0, note='<b>50% & more</b>', hardware=dict(gain=math.inf)), dataset=dict(name='wi<n>e_1', n_train=60, n_val=20, n_test=20, n_features=4, classes=['a&b', 'c_d', '<e>']),
        baseline=dict(sizes=[4, 8, 3], noise_aware=True, accuracy=dict(train=1., val=.95, test=.9), history=dict(loss=[1., .5, .2], val_loss=[1., .6, .7], val_accuracy=[.3, .9, .8], best=1)),
        ladder=dict(levels=[level('float'), level('analog', .02, .85), level('closed form', .02, .85), level('ngspice', .02, .85)], note='ngspice is <old>',
                    between=[step('float', 'analog', .02, .95), step('analog', 'closed form', 0.), step('closed form', 'ngspice', 1e-9)]),
        calibration=[calibration('none', .02, .85), calibration('affine', .01), calibration('learned', .03)],
        repeats=[dict(quantity='accuracy, 50%', mean=.9, sem=.01, low=.88, high=.92, n=10), dict(quantity='one', mean=.9, sem=math.nan, low=-math.inf, high=math.inf, n=1)])
    arrays = dict(levels=volts, calibrated={k: volts['analog'] for k in ('none', 'affine', 'learned')})
    neuron = dict(weights=[.5, -.25, 0.], bias=.1, inputs=['a_1', 'b<2>', 'c'], r_ref=1e4, v_ref=1., gain=1e5, v_max=2.5)
    return dict(results=results, arrays=arrays, netlists={'network.cir': '* a\n.end\n'}, environment=dict(python='3.11', gpu=None, versions=dict(torch='2'), seconds=dict(ladder=.25)), neuron=neuron)

@pytest.fixture
def run(): return example()

@pytest.fixture(scope='module')
def page(tmp_path_factory): return make_report(tmp_path_factory.mktemp('page')/'out', **example())

class Page(HTMLParser):
    "Tags, attributes and text of a page; every tag must be closed"
    void = {'meta', 'img', 'br'}
    def __init__(self, text):
        super().__init__(); self.open, self.attrs, self.text, self.tags = [], [], '', []
        self.feed(text); self.close()
        assert not self.open
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag); self.attrs += attrs
        if tag not in self.void: self.open.append(tag)
    def handle_endtag(self, tag):
        assert self.open.pop()==tag
        if tag not in ('code', 'strong', 'a'): self.text += ' '
    def handle_data(self, data):
        if self.open[-1:]!=['style']: self.text += data

def test_files(page):
    files = {str(p.relative_to(page.parent)) for p in page.parent.rglob('*') if p.is_file()}
    figures = {f'figures/{n}.{f}' for n in ('training', 'ladder', 'parity', 'residuals', 'calibration', 'schematic') for f in ('png', 'svg')}
    tables = {f'tables/{n}.tex' for n in ('ladder', 'steps', 'calibration', 'repeats', 'baseline', 'environment', 'seconds')}
    assert page.name=='report.html' and files==figures | tables | {'report.html', 'report.md', 'results.json', 'environment.json', 'netlists/network.cir'}
    stored = json.loads((page.parent/'results.json').read_text())
    assert {*stored['files'], 'results.json', 'environment.json', 'report.html', 'report.md'}==files and stored['left_out']==[]
    for f in figures: assert (page.parent/f).read_bytes()[:5] in (b'<?xml', b'\x89PNG\r')

def test_page_is_html_that_stands_alone(page):
    parsed = Page(page.read_text())
    assert parsed.tags.count('img')==6
    for k,v in parsed.attrs:
        if k=='src': assert v.startswith('data:image/svg+xml;base64,')
        if k=='href': assert (page.parent/v).is_file()
    assert '://' not in re.sub(r'base64,[^"]*', '', page.read_text())

def test_what_was_given_is_shown_as_text(page):
    text = Page(page.read_text()).text
    for s in ('wi<n>e_1', '<b>50% & more</b>', 'a&b', '<e>', 'ngspice is <old>'): assert s in text
    assert 'Note:' in (page.parent/'report.md').read_text()

def test_markdown_and_page_say_the_same(page):
    words = lambda s: re.findall(r'\w+', re.sub(r'!\[\w+\]\S+|\]\(\S+\)|```yaml|Note:', ' ', s))
    assert words((page.parent/'report.md').read_text())==words(Page(page.read_text().split('<main>')[1].split('</main>')[0]).text)

def test_numbers_are_computed(page):
    text = (page.parent/'report.md').read_text()
    for s in ('**85.0%** of 20 test samples', 'against 90.0% in floating point', 'off by **20 mV** rms, 60 mV at most', 'with the calibration `affine`, chosen on validation data, by **10 mV** rms', 'it changes 5.0% of the decisions',
              'agree within 3 nV', 'data: `affine`.** On the test samples it leaves 10 mV of 20 mV rms, 50.0% less. The accuracy goes from 85.0% to 90.0%. `learned` made things worse.', 'by the last epoch it has risen to 0.7',
              'Not drawn, because nothing changes: `analog → closed form`', 'on a fresh chip at every step', '| one | 0.900 | – | -∞ | ∞ | 1 |'): assert s in text, s

def test_same_run_same_bytes(run, page, tmp_path):
    again = make_report(tmp_path, **run).parent
    for p in page.parent.rglob('*'):
        if p.is_file(): assert p.read_bytes()==(again/p.relative_to(page.parent)).read_bytes(), p

def test_tables_are_latex(page):
    for p in (page.parent/'tables').iterdir(): check_latex(p.read_text())
    text = (page.parent/'tables'/'repeats.tex').read_text()
    assert r'accuracy, 50\%' in text and r'$\infty$' in text and r'\toprule' in text

def test_without_schemdraw_it_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'find_spec', lambda name: None)
    page = make_report(tmp_path, **run)
    assert "pip install 'analognn[plots]'" in page.read_text() and not (tmp_path/'figures'/'schematic.svg').exists()
    assert 'schemdraw is not installed' in json.loads((tmp_path/'results.json').read_text())['left_out'][0]

def test_residuals_are_those_before_the_output_converter(run, tmp_path):
    run['arrays']['volts'] = run['arrays']['levels']
    run['arrays']['levels'] = {k: v.round(decimals=2) for k,v in run['arrays']['volts'].items()}
    only = lambda: re.findall('Not drawn.*', make_report(tmp_path, **run).with_name('report.md').read_text())
    assert only()==['Not drawn, because nothing changes: `analog → closed form`.*']
    del run['arrays']['volts']
    assert only()==['Not drawn, because nothing changes: `analog → closed form`, `closed form → ngspice`.*']

def test_short_report(run, tmp_path):
    run['results'].update(calibration=[], repeats=[]); run['results']['ladder']['note'] = None
    text = make_report(tmp_path, run['results'], run['arrays'], {}, {}).with_name('report.md').read_text()
    assert 'No calibration was asked for.' in text and 'Nothing was repeated' in text and 'Note' not in text and 'One neuron' not in text

def test_only_uncalibrated(run, tmp_path):
    run['results']['calibration'] = run['results']['calibration'][:1]
    assert 'No calibration was asked for.' in make_report(tmp_path, **run).read_text()

def test_report_over_an_older_one(run, page, tmp_path):
    shutil.copytree(page.parent, tmp_path, dirs_exist_ok=True)
    run['results']['baseline']['noise_aware'] = False
    assert 'without any analog error' in make_report(tmp_path, **run).read_text()
    assert not [p for p in tmp_path.rglob('.*')]

@pytest.mark.parametrize('platform', ['linux', 'win32'])
def test_helper_process_changes_nothing(run, page, tmp_path, monkeypatch, platform):
    monkeypatch.setattr(sys, 'platform', platform)
    if platform=='linux':    # the helper fails, so its figures are drawn here
        parent, save = os.getpid(), report.save_figure
        monkeypatch.setattr(report, 'save_figure', lambda *a: save(*a) if os.getpid()==parent else os._exit(1))
    assert make_report(tmp_path/'other', **run).read_bytes()==page.read_bytes()

def test_a_figure_that_fails_is_an_error(run, tmp_path):
    run['results']['baseline']['history']['loss'] = ['x', 'y', None]
    with pytest.raises(Exception): make_report(tmp_path, **run)
    assert not (tmp_path/'report.html').exists()

def put(path, value):
    def change(run):
        *inner, last = path
        o = run
        for k in inner: o = o[k]
        if value is None: del o[last]
        else: o[last] = value
    return change

@pytest.mark.parametrize('change, error, says', [
    (put(['results', 'ladder'], None), ConfigError, "results\\['ladder'\\] is NoneType"), (put(['results', 'calibration'], {}), ConfigError, 'needs a list'),
    (put(['arrays', 'levels', 'float'], None), ConfigError, "lacks 'float'"), (put(['arrays', 'calibrated'], None), ConfigError, "arrays\\['calibrated'\\] lacks"),
    (put(['arrays', 'levels', 'analog'], torch.zeros(2, 3)), ShapeError, 'differ in shape'), (put(['results', 'ladder', 'between'], []), ConfigError, 'between'),
    (put(['results', 'calibration'], [calibration('affine', .1)]), ConfigError, "compares with 'none'")])
def test_bad_input_is_refused_before_anything_is_written(run, tmp_path, change, error, says):
    change(run)
    with pytest.raises(error, match=says): make_report(tmp_path/'out', **run)
    assert not (tmp_path/'out').exists()

# Sentences

def test_headline_without_help(run):
    run['results']['calibration'] = [calibration('none', .02), calibration('affine', .03)]
    assert headline(run['results']).endswith('; on validation data no calibration lowers that.')
    run['results']['ladder']['levels'][-1]['accuracy'] = .9
    assert 'exactly as many as in floating point' in headline(run['results'])

def test_verdicts():
    assert calibration_verdict([calibration('none', .01), calibration('affine', .02), calibration('learned', .03)]).endswith('`affine` and `learned` made things worse.')
    assert 'The accuracy stays at 90.0%' in calibration_verdict([calibration('none', .01), calibration('affine', .005)])
    below = [step('float', 'analog', .1), step('analog', 'closed form', 0.)]
    assert 'agree to the last bit' in ladder_verdict(below)
    assert 'does not tell all' in ladder_verdict([*below, step('closed form', 'ngspice', .01)])
    assert 'precision of the arithmetic' in ladder_verdict([*below, step('closed form', 'ngspice', 1e-15)])
    assert ladder_verdict(below[:1]).endswith('it changes no decision.')

# Numbers

@settings(deadline=None)
@given(st.floats(1e-17, 1e11), st.sampled_from([1, -1]))
def test_quantities_read_back(v, sign):
    number, unit = si_text(sign*v, 'V').split(' ')
    back = float(number)*dict(zip(['a', 'f', 'p', 'n', 'µ', 'm', '', 'k', 'M', 'G'], 10.**np.arange(-18, 12, 3)))[unit[:-1]]
    assert back==pytest.approx(sign*v, rel=.0051) and 1<=abs(float(number))<1000

@settings(deadline=None)
@given(st.floats(-1e300, 1e300))
def test_numbers_read_back(v):
    text = number_text(v).replace('·10', 'e').translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))
    assert float(text)==pytest.approx(v, rel=.0051, abs=1e-300)

# LaTeX

def test_every_special_character_is_escaped():
    assert latex_escape('50% & #1_{$x$}~^\\ a<b') == r'50\% \& \#1\_\{\$x\$\}\textasciitilde{}\textasciicircum{}\textbackslash{} a$<$b'

@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
def test_any_text_makes_a_table_that_parses(s):
    pytest.importorskip('pylatexenc')
    text = latex_table([[s, 1.5]], [s, 'n'], s, 'tab:x')
    report._parsed(text)
    from pylatexenc.latex2text import LatexNodes2Text
    shown = LatexNodes2Text().latex_to_text(latex_escape(s)).translate(str.maketrans('ˆ˜', '^~'))
    assert s.split()==shown.split() or any(c in s for c in '-`\'"?!')    # ligatures

def test_cells():
    text = latex_table([['a', -1.5, 1.25e-7, None, 3, '12.5%'], ['b', 2., -3e8, math.nan, 4, '3.0%']], list('abcdef'), 'c', 'tab:c')
    assert r'\begin{tabular}{lrrrrr}' in text and r'a & $-1.50$ & $1.25\times10^{-7}$ & -- & 3 & 12.5\% \\' in text and r'$-3.00\times10^{8}$' in text
    check_latex(text)

@pytest.mark.parametrize('text', [r'\begin{tabular}{l} a', r'a } b', r'\end{table}'])
def test_broken_latex_is_found(text):
    with pytest.raises(AnalogError, match='LaTeX'): check_latex(text)

def test_latex_by_compiling():
    if not shutil.which('pdflatex'): pytest.skip('pdflatex is not installed: tables were parsed, not compiled')
    report._compiled(latex_table([['a', 1.5e-9]], ['x', 'y'], 'c', 'tab:c'), shutil.which('pdflatex'))
    with pytest.raises(AnalogError, match='Undefined'): check_latex(r'\nosuchcommand')

def test_neither_latex_nor_parser(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None); monkeypatch.setattr(report, 'find_spec', lambda name: None)
    with pytest.raises(AnalogError, match='pip install pylatexenc'): check_latex('a')

# Figures

def test_neuron_with_many_inputs_shows_the_strongest():
    shown, more = report._arms(np.linspace(-1, 1, 64), 0., [f'pixel_{k}' for k in range(64)], 1e4, 1.)
    assert len(shown)==8 and more==56 and max(r for _,r in shown)<1.2e4
    fig = neuron_schematic(np.linspace(-1, 1, 64), 0., [f'a_rather_long_name_of_pixel_{k}' for k in range(64)], 1e4)
    assert len(fig.axes)==1

@pytest.mark.parametrize('weights, bias', [([1.], 0.), ([1e-9, -2.], -.5), ([0.], .5)])
def test_small_neurons(weights, bias): assert neuron_schematic(weights, bias, list('ab')[:len(weights)], 1e4).axes

def test_signs_of_rails():
    shown, _ = report._arms([.5, -.25], .1, ['a', 'b'], 1e4, 2.)
    assert shown==[('−a', 2e4), ('b', 4e4), ('−2 V (bias)', 2e5)]

def test_neuron_without_anything():
    with pytest.raises(ConfigError, match='nothing to draw'): neuron_schematic([0.], 0., ['a'], 1e4)

def test_text_of_the_schematic_is_not_cut_off(tmp_path):
    from matplotlib.image import imread
    fig = neuron_schematic([.5]*12, .1, [f'a_rather_long_name_{k}' for k in range(12)], 1e4, v_max=2.5)
    file, = report.save_figure(fig, tmp_path/'f', ('png',))
    image = imread(file)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]): assert (edge==1).all()

@pytest.mark.parametrize('n', [1, 2, 4, 5])
def test_any_number_of_levels(n):
    levels = {'float': torch.rand(5, 2), **{str(k): torch.rand(5, 2) for k in range(n)}}
    assert len(parity_figure(levels).axes)==n
    between = [dict(a='float', b=str(k)) for k in range(n)]
    assert sum(ax.axison for ax in residual_figure(levels, between).axes)==n

def test_equal_levels_have_no_picture():
    x = torch.rand(5, 2)
    assert not any(ax.axison for ax in residual_figure({'float': x, 'a': x}, [dict(a='float', b='a')]).axes)

def test_importing_it_is_cheap():
    code = 'import sys, analognn.report; assert not {"matplotlib", "schemdraw", "sklearn", "pandas", "pylatexenc"} & {*sys.modules}'
    subprocess.run([sys.executable, '-c', code], check=True)

def test_at_the_front_door(): assert analognn.make_report is make_report
