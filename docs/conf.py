from importlib.metadata import distribution

project = html_title = 'analognn'
copyright = '2026, the analognn developers'
release = distribution('analognn').version
extensions = ['myst_nb']
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'tasklist']
myst_heading_anchors = 4
suppress_warnings = ['myst.header']     # headings of documented symbols start at level 3
nb_execution_mode = 'off'               # pages show the outputs stored in the notebooks
nb_merge_streams = True
nb_render_markdown_format = 'myst'     # tables that a cell shows, too
html_theme = 'furo'
html_show_sourcelink = html_copy_source = False
mathjax_path = 'tex-svg.js'             # one file that asks no other host for anything
html_static_path = [str(distribution('sphinx-mathjax-offline').locate_file(f'sphinx-mathjax-offline/static/mathjax/{mathjax_path}'))]
