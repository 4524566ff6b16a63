"""Work on notebooks from a shell.

    nb.py text nb.ipynb > x.py     its cells as text (jupytext's percent format)
    nb.py pull x.py nb.ipynb       text back into the notebook, created if absent; cells keep their ids
    nb.py run nb.ipynb...          execute each in a fresh process and store the outputs
    nb.py check nb.ipynb...        execute scratch copies and compare with the stored outputs

`run` and `check` leave out cells flagged `slow` or `cuda`, those flagged `spice` only where ngspice is missing, and the outputs
that such cells have stay as they are. Stored outputs hold no stderr (progress bars, warnings) and no machine paths."""
import re, shutil, subprocess, sys
from base64 import b64decode, b64encode
from hashlib import sha1
from io import BytesIO
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.process import extract_directives
from PIL import Image

machine_path = re.compile(r'(?<![\w.:/])/(?:work|tmp|root|home|Users|private|opt|mnt|var/folders)/\w')
number = re.compile(r'[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE][-+]?\d))(?:[eE][-+]?\d+)?')

def text(path):
    "Percent-format text of notebook `path`, without metadata"
    nb = jupytext.read(path)
    nb.metadata['jupytext'] = dict(notebook_metadata_filter='-all', cell_metadata_filter='-all')
    return jupytext.writes(nb, 'py:percent')

def pull(src, path):
    "Bring notebook `path` up to the text `src`: unchanged cells keep their outputs, all that are still there their ids"
    subprocess.run([sys.executable, '-m', 'jupytext', '-q', '--to', 'ipynb', '--update', '-o', path, src], check=True)
    nb = read_nb(path)
    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    clean_nb(nb)
    write_nb(nb, path)

def skipped(cell):
    "Is `cell` not to be executed?"
    if cell.cell_type!='code' or 'nbdev_export(' in cell.source: return True
    flags = extract_directives(cell, remove=False)
    absent = {'slow', 'cuda'} | (set() if shutil.which('ngspice') else {'spice'})
    return flags.get('eval:', [''])[0]=='false' or bool(absent & flags.keys())

def execute(path):
    "Notebook `path` with the outputs of a run from top to bottom in this process"
    nb, shell = read_nb(path), CaptureShell(path, mpl_format='png')
    def start(cell):
        if skipped(cell): return True
        cell.outputs = []     # a cell that prints nothing any more would otherwise keep what it printed once
    def finish(cell):
        if not shell.exc: cell.outputs = storable(cell)
    with working_directory(path.parent):
        try: shell.run_all(nb, exc_stop=True, preproc=start, postproc=finish)
        except Exception: sys.exit(shell.prettytb(path))
    clean_nb(nb)
    return nb

def storable(cell):
    "The outputs of `cell` to keep: stderr goes to the terminal, and pictures are marked with the source that drew them"
    keep = []
    for o in cell.outputs:
        if o.get('name')=='stderr': print(''.join(o.text), file=sys.stderr, end=''); continue
        if machine_path.search(output_text(o)): sys.exit(f'This cell prints a path of this machine; print a relative one:\n{cell.source}')
        if 'image/png' in o.get('data', {}): o.data['image/png'] = in_few_colours(o.data['image/png'])
        if any(k.startswith('image/') for k in o.get('data', {})): o.metadata = {**o.metadata, 'drawn_by': sha1(cell.source.strip().encode()).hexdigest()[:8]}
        keep.append(o)
    return keep

def in_few_colours(png, n=64):
    "A picture, as text, with a palette: a third of the bytes"
    out = BytesIO()
    Image.open(BytesIO(b64decode(''.join(png)))).convert('RGB').quantize(n, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return b64encode(out.getvalue()).decode()

def run(path):
    "Execute notebook `path` and store its outputs in it"
    path = Path(path).absolute()
    write_nb(execute(path), path)

def output_parts(o):
    "`{kind: text}` of one output; a picture's text is the mark of the source that drew it"
    if o.output_type=='stream': return {o.name: ''.join(o.text)}
    if o.output_type=='error': return {'error': ''.join(o.traceback)}
    mark = o.get('metadata', {}).get('drawn_by', 'unmarked')
    return {k: mark if k.startswith('image/') else ''.join(v) for k,v in o.data.items() if k.startswith(('image/', 'text/'))}

def output_text(o): return '\n'.join(output_parts(o).values())

def same(a, b):
    "Are the texts `a` and `b` equal, but for white space and for floats in their fourth digit?"
    words = lambda s: number.sub('#', s).split()
    pairs = zip(*(map(float, number.findall(s)) for s in (a, b)))
    return words(a)==words(b) and all(isclose(x, y, rel_tol=1e-3, abs_tol=1e-12) for x,y in pairs)

def current(old, new):
    "Are the stored outputs of cell `old` those of the fresh run `new`?"
    olds, news = ([output_parts(o) for o in c.outputs] for c in (old, new))
    return len(olds)==len(news) and all(a.keys()==b.keys() and all(same(a[k], b[k]) for k in a) for a,b in zip(olds, news))

def scratch(path, folder):
    "A copy of notebook `path` in `folder`, with the notebooks and files beside it that it may read"
    root = next((p for p in path.parents if (p/'settings.ini').exists()), path.parent)
    for name in {path.relative_to(root).parts[0], 'settings.ini'}:
        src = root/name
        if src.is_dir(): shutil.copytree(src, folder/name, symlinks=True, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
        elif src.exists(): shutil.copy2(src, folder)
    return folder/path.relative_to(root)

def stale(path):
    "The cells of notebook `path` whose stored outputs are not what a fresh run gives, as pairs (stored, fresh)"
    path = Path(path).absolute()
    with TemporaryDirectory() as tmp:
        copy = scratch(path, Path(tmp))
        subprocess.run([sys.executable, __file__, 'run', copy], check=True)
        pairs = zip(read_nb(path).cells, read_nb(copy).cells)
        return [(a, b) for a,b in pairs if a.cell_type=='code' and not current(a, b)]

def check(path):
    "Print the stale cells of notebook `path`; True when there is none"
    try: cells = stale(path)
    except subprocess.CalledProcessError: print(f'{path}: does not run'); return False
    for a,b in cells:
        print(f'{path}: what is stored under this cell is not what it gives now\n{a.source}')
        for when,c in ('stored', a), ('now', b): print(f'--- {when}', *map(output_text, c.outputs), sep='\n')
    return not cells

def main(cmd, *args):
    if cmd=='text': print(text(args[0]), end='')
    elif cmd=='pull': pull(*args)
    elif cmd=='run' and len(args)==1: run(args[0])
    elif cmd=='run':
        for a in args: subprocess.run([sys.executable, __file__, 'run', a], check=True)
    elif cmd=='check': sys.exit(not all([check(a) for a in args]))
    else: sys.exit(__doc__)

if __name__=='__main__': main(*sys.argv[1:] or ['help'])
