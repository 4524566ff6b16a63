"Neural networks from PyTorch to analog hardware and back. Names are resolved when they are first used, so importing this is cheap."
__version__ = "0.1.0"

from importlib import import_module as _import
from pathlib import Path as _Path

_names = {module: names.split() for module, names in dict(
    core = 'environment pmap stream',
    data = 'load_dataset',
    stats = 'mean_interval paired_test',
    devices = 'Ideal ConstantStep LinearStep SoftBounds SoftBoundsReference ExpStep PowStep PiecewiseStep Vector ReferencePair OneSided preset',
    device_fit = 'fit_device',
    pulses = 'PulseTrain pulsed_update',
    compounds = 'Transfer BufferedTransfer ChoppedTransfer DynamicTransfer MixedPrecision rule_preset',
    memory = 'PCM ReRAM',
    converters = 'CodeTable Converter',
    conditions = 'CircuitNoise PowerDrift StuckAt Temperature WeightModifier',
    nonideal = 'Drift Hardware IOParameters',
    nn = 'MLP AnalogConv1d AnalogConv2d AnalogConv3d AnalogEmbedding AnalogLinear AnalogLinearMapped AnalogRNN as_designed chip clip_weights draw drift program seed_ with_hardware',
    optim = 'AnalogSGD fit',
    attention = 'AnalogLM AnalogMultiheadAttention',
    conversion = 'convert convert_back fit_converters',
    circuit = 'Circuit Param Solution Subcircuit',
    mapping = 'fit_to_rails linear_circuit network_circuit',
    nodal = 'solve',
    crossbar = 'CrossbarLinear crossbar_currents effective_conductance in_crossbars',
    timedomain = 'crossings transient',
    spice = 'read_raw simulate',
    tile = 'coupled_tile find_spikes',
    memristor = 'StanfordPKU VTEAM pulse_response',
    reading = 'read_spice',
    calibrate = 'Affine Ensemble GaussianProcess HMAC Isotonic Learned PINC Polynomial compare_calibrators',
    validate = 'ladder metrics',
    corners = 'over_time sweep_hardware',
    energy = 'energy_report network_energy',
    adversarial = 'weight_attack',
    search = 'SearchConfig run_search',
    temporal = 'TemporalConfig run_temporal',
    geosparse = 'GeoSparseConfig GeoSparseLinear GeoSparseNet geo_connectivity',
    geo_estimators = 'GeoSparseClassifier GeoSparseRegressor',
    geo_tiles = 'TiledLinear tile_plan',
    tcn = 'TCNBlock TCNEncoder causal_conv1d',
    distill = 'DistillConfig run_distill',
    track = 'compose log_mlflow',
    report = 'make_report',
    pipeline = 'PipelineConfig run_pipeline',
).items()}
_home = {name: module for module, names in _names.items() for name in names}
_modules = {p.stem for p in _Path(__file__).parent.glob('[!_]*.py')}
__all__ = list(_home)

def __dir__(): return sorted({'__version__', *_home, *_modules})

def __getattr__(name):
    if name in _home: value = getattr(_import(f'{__name__}.{_home[name]}'), name)
    elif name in _modules: value = _import(f'{__name__}.{name}')
    else: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value     # found at once next time
    return value
