"What notebooks store is what they give"
import subprocess, sys

import nb
import pytest
from nbdev.config import get_config

each_notebook = pytest.mark.parametrize('path', sorted(get_config().nbs_path.rglob('[!.]*.ipynb')), ids=lambda p: p.stem)

@pytest.mark.slow
@each_notebook
def test_stored_outputs_are_current(path): assert nb.check(path)

story = '''# %% [markdown]
# # A story

# %%
import sys
import matplotlib.pyplot as plt

# %%
print('fourth digit', 0.12345)

# %%
print('third digit', 1.2345e-8)

# %%
print('a word'); print('noise', file=sys.stderr)

# %%
plt.plot([1, 2]);

# %%
plt.plot([2, 3]);

# %%
plt.plot([3, 4]);

# %%
#| slow
print('slow')
'''

@pytest.fixture(scope='module')
def notebook(tmp_path_factory):
    "A notebook whose outputs are stored"
    path = tmp_path_factory.mktemp('story')/'story.ipynb'
    path.with_suffix('.py').write_text(story)
    nb.pull(path.with_suffix('.py'), path)
    subprocess.run([sys.executable, nb.__file__, 'run', path], check=True)
    return path

def changed(path, change):
    "A copy of the notebook, after `change` of its code cells"
    story = nb.read_nb(path)
    change([c for c in story.cells if c.cell_type=='code'])
    copy = path.with_name('changed.ipynb')
    nb.write_nb(story, copy)
    return copy

def test_run_stores_outputs(notebook):
    cells = [c for c in nb.read_nb(notebook).cells if c.cell_type=='code']
    assert [len(c.outputs) for c in cells] == [0, 1, 1, 1, 1, 1, 1, 0]
    assert nb.output_text(cells[3].outputs[0]) == 'a word\n'
    assert 'image/png' in cells[4].outputs[0].data

def test_text_round_trip_changes_nothing(notebook):
    copy = changed(notebook, lambda cells: None)
    copy.with_suffix('.py').write_text(nb.text(copy))
    nb.pull(copy.with_suffix('.py'), copy)
    assert copy.read_bytes() == notebook.read_bytes()

def test_check_finds_stale_outputs_alone(notebook):
    def change(cells):
        cells[1].outputs[0].text = ['fourth digit 0.12348\n']
        cells[2].outputs[0].text = ['third digit 1.2445e-8\n']
        cells[3].outputs[0].text = ['another word\n']
        cells[4].outputs = []
        cells[5].source = 'plt.plot([2, 4]);'
    found = [a.source for a,_ in nb.stale(changed(notebook, change))]
    assert found == ["print('third digit', 1.2345e-8)", "print('a word'); print('noise', file=sys.stderr)", 'plt.plot([1, 2]);', 'plt.plot([2, 4]);']

def test_check_refuses_what_does_not_run(notebook, capfd):
    def change(cells): cells[1].source = 'undefined'
    assert not nb.check(changed(notebook, change))
    assert "NameError: name 'undefined'" in capfd.readouterr().err

def test_run_refuses_machine_paths(notebook, capfd):
    def change(cells): cells[1].source = "print('read /home/' + 'me/x')"
    copy = changed(notebook, change)
    before = copy.read_bytes()
    assert subprocess.run([sys.executable, nb.__file__, 'run', copy]).returncode
    assert 'path of this machine' in capfd.readouterr().err and copy.read_bytes()==before
