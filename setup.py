"All settings live in settings.ini; edit there, not here"
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
lib = cfg['lib_name']

def words(key): return cfg.get(key, '').split()

extras = {k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')}
extras['all'] = sorted({req for reqs in extras.values() for req in reqs})

setup(
    name=lib, version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'], url=cfg['git_url'],
    author=cfg['author'], author_email=cfg['author_email'], license=cfg['license'].upper(),
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[lib, lib+'.*']), include_package_data=True, zip_safe=False,
    python_requires='>='+cfg['min_python'], install_requires=words('requirements'), extras_require=extras,
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f'{lib}={lib}._modidx:d']})
