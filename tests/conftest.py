import shutil

import pytest

def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='run the slow tests too')

def pytest_configure(config): config.addinivalue_line('markers', 'slow: runs only with --slow')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'): return
    for item in items:
        if 'slow' in item.keywords: item.add_marker(pytest.mark.skip(reason='slow: runs with --slow'))

@pytest.fixture(scope='session', autouse=True)
def one_thread():
    "Small tensors gain nothing from threads, and tests side by side lose"
    import torch
    torch.set_num_threads(1)

@pytest.fixture(scope='session')
def ngspice():
    "Path of the ngspice program"
    return shutil.which('ngspice') or pytest.skip('ngspice is not installed: what compares with SPICE was not tested')
