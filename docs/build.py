"""Build the site (docs/_build/html) and README.md from the notebooks: `python docs/build.py`

nbdev runs the notebooks' `show_doc` cells, leaves out what they hide and links `symbols`. What it hands over is meant for Quarto;
this lowers the few marks that Quarto alone understands, for Sphinx and for GitHub. Warnings are errors."""
import re, shutil, subprocess, sys, warnings
from base64 import b64decode

import yaml
from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.serve import proc_nbs

cfg    = get_config()
root   = cfg.config_path
site   = root/'docs'/'_build'/'html'
images = root/'docs'/'images'
host   = re.escape((cfg.doc_host + cfg.doc_baseurl).rstrip('/'))

option      = re.compile(r'^#\|\s*([\w-]+):[ \t]*(.*?)[ \t]*(?:\n|$)', re.M)
attributes  = re.compile(r'(\]\([^)\s]+\))\{[^}]*\}')                     # [a](b){...}
symbol_link = re.compile(rf'\]\({host}/([\w/.-]+)\.html(#[^)]*)?\)')      # what nbdev makes of a symbol in backticks
local_link  = re.compile(r'\]\((?!\w+:|#|/)([^)\s]+)\)')
callout     = re.compile(r'^:::+ *\{\.callout-(\w+)(?:[^}\n]*?title="([^"]*)")?[^}\n]*\} *\n(.*?)\n:::+ *$', re.M|re.S)

def page(path):
    "`tutorials/00_Start.ipynb` -> `tutorials/start`, nbdev's name of the page"
    return re.sub(r'(^|/)\d+[a-z]?_(?=[^/]*$)', r'\1', path.lower()).removesuffix('.ipynb')

# The cells of both

def title(c):
    front = yaml.safe_load(c.source.strip().strip('-'))
    return f"# {front['title']}" + (f"\n\n> {front['description']}" if 'description' in front else '')

def lower_code(c):
    "Quarto's cell options as tags for myst-nb; a `show_doc` cell becomes its markdown; None for a cell that is not shown"
    opts, c.source = dict(option.findall(c.source)), option.sub('', c.source)
    off = lambda key: opts.get(key, '').lower()=='false'
    if off('include'): return
    if c.source.startswith('show_doc('): return mk_cell(''.join(c.outputs[0].data['text/markdown']).replace('---\n\n', '', 1), 'markdown')
    if off('output'): c.outputs = []
    if off('echo'): c.metadata['tags'] = ['remove-input']
    if 'fig-cap' in opts: c.metadata['mystnb'] = dict(figure=dict(caption=opts['fig-cap'].strip('"\'')))
    return c

def lower(nb, markdown):
    "The cells of `nb` that are shown; `markdown` lowers the text of one"
    for c in nb.cells:
        if c.cell_type=='raw': c = mk_cell(title(c), 'markdown')
        if c.cell_type=='code': c = lower_code(c)
        if c is None or c.source.startswith('<!-- WARNING'): continue
        if c.cell_type=='markdown': c.source = markdown(attributes.sub(r'\1', c.source))
        yield c

# For Sphinx

def for_sphinx(s, up=''):
    "Markdown of Quarto as MyST; `up` leads from the page's folder to the top"
    def symbol(m): return f"]({up}{m[1]}.ipynb{(m[2] or '').split('.')[0]})"     # a method has no heading of its own: to its class
    def local(m): file, *anchor = m[1].split('#'); return '](' + '#'.join([page(file)+'.ipynb' if file.endswith('.ipynb') else file, *anchor]) + ')'
    def box(m): return f':::{{admonition}} {m[2]}\n:class: {m[1]}\n{m[3]}\n:::' if m[2] else f':::{{{m[1]}}}\n{m[3]}\n:::'
    return callout.sub(box, symbol_link.sub(symbol, local_link.sub(local, s)))

def floors(proc):
    "Title and pages of each group of nbs/sidebar.yml"
    contents = yaml.safe_load((proc/'sidebar.yml').read_text())['website']['sidebar']['contents']
    for group in contents:
        if group=='index.ipynb': continue
        files = [f for item in group['contents'] for f in sorted(proc.glob(item['auto']))]
        if files: yield group['section'], [page(f.relative_to(proc).as_posix()) for f in files]

def toctree(caption, pages): return mk_cell(f'```{{toctree}}\n:hidden:\n:caption: {caption}\n\n'+'\n'.join(pages)+'\n```', 'markdown')

def sphinx_sources(proc, to):
    "Write the pages, and the files that they show, to folder `to`"
    for f in sorted(f for f in proc.rglob('*') if f.is_file() and f.suffix not in ('.yml', '.css')):
        rel = f.relative_to(proc)
        dst = to/(page(rel.as_posix())+'.ipynb' if f.suffix=='.ipynb' else rel)
        dst.parent.mkdir(parents=True, exist_ok=True)
        if f.suffix!='.ipynb': shutil.copy2(f, dst); continue
        nb = read_nb(f)
        nb.cells = list(lower(nb, lambda s: for_sphinx(s, '../'*(len(rel.parts)-1))))
        if rel.name=='index.ipynb': nb.cells += [toctree(*o) for o in floors(proc)]
        write_nb(nb, dst)

# For GitHub

def for_github(s, notebooks):
    "Markdown of Quarto as GitHub's, in the root; `notebooks` maps a page to its notebook"
    def symbol(m): return f']({notebooks[m[1]]})'
    def local(m): return f']({cfg.nbs_path.name}/{m[1]})'
    def box(m): return '\n> '.join([f'> [!{m[1].upper()}]'] + ([f'**{m[2]}**', ''] if m[2] else []) + m[3].splitlines())
    return callout.sub(box, symbol_link.sub(symbol, local_link.sub(local, s)))

def shown(o, name):
    "Markdown of output `o`; a picture becomes the file `name` beside the docs"
    data = o.get('data', {})
    if 'image/png' in data:
        images.mkdir(exist_ok=True)
        (images/name).write_bytes(b64decode(data['image/png']))
        return f'![]({images.relative_to(root).as_posix()}/{name})'
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    return '```\n' + ''.join(o.get('text') or data['text/plain']).rstrip() + '\n```'

def readme(proc):
    "Markdown of the index notebook, in which links and pictures work on GitHub; pictures it no longer has are removed"
    shutil.rmtree(images, ignore_errors=True)
    notebooks = {page(rel): f'{cfg.nbs_path.name}/{rel}' for rel in (f.relative_to(proc).as_posix() for f in proc.rglob('*.ipynb'))}
    parts = []
    for c in lower(read_nb(proc/cfg.readme_nb), lambda s: for_github(s, notebooks)):
        if c.cell_type=='markdown': parts.append(c.source.strip()); continue
        if 'tags' not in c.metadata: parts.append(f'```python\n{c.source}\n```')
        parts += [shown(o, f'readme-{len(parts)}-{i}.png') for i,o in enumerate(c.outputs)]
    return '\n\n'.join(p for p in parts if p) + '\n'

def main():
    warnings.filterwarnings('error', message='Found cells containing imports')     # nbdev would run the other code as well
    proc = proc_nbs(n_workers=0, force=True)
    (root/'README.md').write_text(readme(proc), encoding='utf-8')
    src = proc/'_sphinx'
    sphinx_sources(proc, src)
    shutil.rmtree(site, ignore_errors=True)
    rc = subprocess.call([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-E', '-c', root/'docs', '-d', proc/'_doctrees', src, site])
    if not rc: print(f'The site: {(site/"index.html").relative_to(root)}')
    return rc

if __name__=='__main__': sys.exit(main())
