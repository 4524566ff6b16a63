import base64, struct, subprocess, sys
from xml.etree import ElementTree

import matplotlib, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from matplotlib.image import imread

from analognn.core import ConfigError, ShapeError
from analognn.plot import figure, figure_data_uri, palette, parity_axes, render, save_figure, style

def drawn(**kw):
    with style():
        fig, ax = figure(**kw)
        ax.plot([0, 1, 2], [1, 0, 3], label='a'); ax.legend(); ax.set(xlabel='x [V]', title='$V_{out}$')
    return fig

def test_sizes_and_dots():
    for width,inches in (('column', 3.5), ('page', 7.16)):
        fig = drawn(width=width, aspect=.5)
        assert tuple(fig.get_size_inches())==(inches, inches/2)
        assert struct.unpack('>2I', render(fig, 'png')[16:24])==(round(inches*300), round(inches*150))
        assert ElementTree.fromstring(render(fig)).get('width')==f'{inches*72:g}pt'

def test_grids_of_axes():
    assert figure(nrows=2, ncols=3, sharex=True)[1].shape==(2, 3)
    assert figure(nrows=2)[1].shape==(2,)

def test_global_settings_and_pyplot_are_left_alone(tmp_path):
    code = f'''import sys, matplotlib
settings = lambda: {{k: v for k,v in dict.items(matplotlib.rcParams) if k!='backend'}}    # comparing the backend would choose one
before = settings()
from analognn.plot import *
fig, ax = figure(); parity_axes(ax, [1, 2], [1, 2]); save_figure(fig, {str(tmp_path/'f')!r}); figure_data_uri(fig); fig._repr_png_()
assert settings()==before and 'matplotlib.pyplot' not in sys.modules'''
    subprocess.run([sys.executable, '-c', code], check=True)

def test_style_ends_even_when_drawing_fails():
    before = dict.copy(matplotlib.rcParams)
    with pytest.raises(ZeroDivisionError):
        with style(): 1/0
    assert {k for k,v in dict.items(matplotlib.rcParams) if v!=before[k]} <= {'backend'}

def test_axes_keep_the_style_after_it_ends():
    fig, ax = figure()
    line, = ax.plot([0, 1])
    assert line.get_color()==palette[0] and ax.xaxis.label.get_size()==8 and not ax.spines['top'].get_visible()

@pytest.mark.parametrize('format', ['png', 'svg', 'pdf'])
def test_same_figure_same_bytes(format):
    assert render(drawn(), format)==render(drawn(), format)

def test_same_bytes_in_another_process(tmp_path):
    code = '''import sys; from analognn.plot import *
fig, ax = figure(); ax.plot([1, 3, 2]); save_figure(fig, sys.argv[1])'''
    subprocess.run([sys.executable, '-c', code, tmp_path/'a'], check=True)
    fig, ax = figure(); ax.plot([1, 3, 2]); save_figure(fig, tmp_path/'b')
    for s in ('svg', 'png'): assert (tmp_path/f'a.{s}').read_bytes()==(tmp_path/f'b.{s}').read_bytes()

def test_fonts_are_embedded():
    assert b'<text' not in render(drawn(), 'svg') and b'/FontFile2' in render(drawn(), 'pdf')

def test_saving_keeps_dots_in_names_and_leaves_the_layout_engine(tmp_path):
    fig = drawn(); engine = fig.get_layout_engine()
    files = save_figure(fig, tmp_path/'new'/'v1.2')
    assert [f.name for f in files]==['v1.2.png', 'v1.2.svg'] and fig.get_layout_engine() is engine
    assert sorted(p.name for p in (tmp_path/'new').iterdir())==['v1.2.png', 'v1.2.svg']

def test_nothing_is_cut_off(tmp_path):
    fig, ax = figure(); ax.plot([0, 1e6]); ax.set(ylabel='a rather long label', xlabel='x')
    file, = save_figure(fig, tmp_path/'f', ('png',))
    image = imread(file)
    for edge in (image[0], image[-1], image[:,0], image[:,-1]): assert (edge==1).all()

def test_plain_matplotlib_figures_are_saved_too(tmp_path):
    from matplotlib.figure import Figure
    fig = Figure(); fig.subplots().plot([1, 2])
    assert len(save_figure(fig, tmp_path/'f', ('svg',)))==1 and fig.get_layout_engine() is None

def test_a_figure_that_fails_leaves_the_old_file(tmp_path):
    save_figure(drawn(), tmp_path/'f'); old = (tmp_path/'f.png').read_bytes()
    fig = drawn(); fig.axes[0].set_title('$unclosed{$')
    with pytest.raises(ValueError): save_figure(fig, tmp_path/'f')
    assert (tmp_path/'f.png').read_bytes()==old and len(list(tmp_path.iterdir()))==2

def test_notebooks_show_a_figure(): assert drawn()._repr_png_()[:4]==b'\x89PNG'

@pytest.mark.parametrize('format, start', [('svg', b'<?xml'), ('png', b'\x89PNG')])
def test_data_uri(format, start):
    head, body = figure_data_uri(drawn(), format).split(',')
    assert head.startswith('data:image/'+format) and head.endswith(';base64') and base64.b64decode(body).startswith(start)

@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_parity_shows_every_point(points):
    x, y = np.array(points).T
    fig, ax = figure(); parity_axes(ax, torch.tensor(x), y)
    assert np.array_equal(ax.lines[1].get_xydata(), np.stack([x, y], 1)) and ax.get_aspect()==1
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    assert x0<=x.min() and x.max()<=x1 and y0<=y.min() and y.max()<=y1

def test_parity_has_one_line_and_small_files():
    fig, ax = figure(); ax.plot([0, 1])
    x = np.random.default_rng(0).normal(size=(100, 300))
    for label in 'ab': parity_axes(ax, x, x, label)
    assert sum(l.get_gid()=='identity' for l in ax.lines)==1 and len(render(fig))<500_000

@pytest.mark.parametrize('call, error', [
    (lambda: figure('colum'), ConfigError), (lambda: figure(aspect=-1), ConfigError), (lambda: figure(aspect=float('nan')), ConfigError), (lambda: render(drawn(), 'gif'), ConfigError),
    (lambda: figure_data_uri(drawn(), 'pdf'), ConfigError), (lambda: save_figure(drawn(), '/nowhere/f', ('jpg',)), ConfigError),
    (lambda: parity_axes(figure()[1], [1, 2], [1]), ShapeError), (lambda: parity_axes(figure()[1], [np.inf], [1]), ConfigError)])
def test_bad_input_is_refused(call, error):
    with pytest.raises(error): call()
