"""Safe loading: what MMEngine writes comes back, and nothing that a file names is ever called."""
import argparse
import functools
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import types
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint
from torch.utils.data import Dataset

from swin_pos_det.checkpoints import CheckpointError, load_checkpoint_file, schemes

WEIGHTS = {'state_dict': {'w': torch.arange(6.).reshape(2, 3)}}


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path, call=os.system):
        self.path, self.call = path, call

    def __reduce__(self):
        return self.call, (f'touch {self.path}', )


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(WEIGHTS, path)
    return path


# ---- what a toy MMEngine run writes

class ToyModel(BaseModel):

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, inputs, targets, mode='tensor'):
        outputs = self.linear(inputs)
        return dict(loss=(outputs.squeeze(1) - targets).pow(2).mean()) if mode == 'loss' else outputs


class ToyData(Dataset):
    METAINFO = dict(classes=('a', 'b'), palette=[(1, 2, 3)])
    metainfo = METAINFO

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 8., 1.]), targets=torch.tensor(2. * index / 8 + 1))


class NumpyScore(BaseMetric):
    """Gives NumPy scalars, as COCO metrics do: ``save_best`` puts them into the checkpoint."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(score=np.float64(0.5), count=np.int64(len(results)))


class SeesCheckpoints(Hook):

    def after_load_checkpoint(self, runner, checkpoint):
        runner.seen = checkpoint


def toy_runner(work_dir, epochs, model=None, **kwargs):
    loader = dict(batch_size=2, num_workers=0, dataset=ToyData(), sampler=dict(type='DefaultSampler', shuffle=True),
                  collate_fn=dict(type='default_collate'))
    runner = Runner(
        model=model or ToyModel(), work_dir=str(work_dir), train_dataloader=loader, val_dataloader=loader,
        val_evaluator=dict(type=NumpyScore), val_cfg=dict(), train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[dict(type='MultiStepLR', milestones=[1], by_epoch=True)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        custom_hooks=[dict(type=SeesCheckpoints)], randomness=dict(seed=1),
        experiment_name=f'toy-{work_dir}-{epochs}-{kwargs}', log_level='WARNING', **kwargs)
    return runner


@pytest.fixture(scope='module')
def toy_run(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('toy_run')
    return toy_runner(work_dir, epochs=2), work_dir


@pytest.fixture(scope='module')
def trained(toy_run):
    runner, work_dir = toy_run
    runner.train()
    return runner, work_dir


def test_mmengines_own_checkpoint_comes_back_whole(trained):
    runner, work_dir = trained
    checkpoint = load_checkpoint_file(work_dir / 'epoch_2.pth')
    assert set(checkpoint) >= {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'}
    for name, value in runner.model.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][name], value)
    loss = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(loss, HistoryBuffer)
    assert loss.data[0].tolist() == runner.message_hub.get_scalar('train/loss').data[0].tolist()
    assert loss.statistics('mean', 4) == pytest.approx(loss.data[0][-4:].mean())
    assert checkpoint['message_hub']['runtime_info']['best_score'] == 0.5


def test_runner_resumes_from_its_own_checkpoint(trained):
    first, work_dir = trained
    runner = toy_runner(work_dir, epochs=3, resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 12)
    assert runner.seen['meta']['epoch'] == 2
    assert runner.optim_wrapper.optimizer.state[runner.model.linear.weight]['step'] == 12
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.01)]
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert losses[:8].tolist() == first.message_hub.get_scalar('train/loss').data[0].tolist()
    assert len(losses) == 12


@pytest.mark.parametrize('way', ['load_from', 'Pretrained', 'load_checkpoint', '_load_checkpoint'])
def test_every_way_into_mmengine_is_protected(trained, tmp_path, way):
    _, work_dir = trained
    marker = tmp_path / 'ran'
    evil = tmp_path / 'evil.pth'
    torch.save({'state_dict': {}, 'meta': Evil(marker)}, evil)

    def load(path):
        if way == 'load_from':
            runner = toy_runner(tmp_path / 'new', epochs=1, load_from=str(path))
            runner.load_or_resume()
            return runner.model.state_dict()
        if way == 'Pretrained':
            model = ToyModel(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
            model.init_weights()
            return model.state_dict()
        if way == 'load_checkpoint':
            model = ToyModel()
            load_checkpoint(model, str(path))
            return model.state_dict()
        return _load_checkpoint(str(path), map_location='cpu')['state_dict']

    expected = load_checkpoint_file(work_dir / 'epoch_1.pth')['state_dict']['linear.weight']
    assert torch.equal(load(work_dir / 'epoch_1.pth')['linear.weight'], expected)
    with pytest.raises(CheckpointError, match=r'evil\.pth asks for \w+\.system'):
        load(evil)
    assert not marker.exists()


def test_loading_leaves_history_buffers_statistics_alone(tmp_path):
    buffer = HistoryBuffer([1.], [1])
    buffer.__dict__['statistics_methods'] = {'mean': HistoryBuffer.max}
    path = tmp_path / 'tampered.pth'
    before = dict(HistoryBuffer._statistics_methods)
    HistoryBuffer._statistics_methods['mean'] = HistoryBuffer.max  # what __getstate__ then writes
    try:
        torch.save({'state_dict': WEIGHTS['state_dict'], 'history': buffer}, path)
    finally:
        HistoryBuffer._statistics_methods.update(before)
    load_checkpoint_file(path)
    assert HistoryBuffer._statistics_methods == before


def test_a_fresh_process_can_use_the_history_it_loads(trained):
    """Reading keeps what the first HistoryBuffer of a process registers: a resumed run may evaluate before it logs."""
    program = ('import json, sys; from swin_pos_det.checkpoints import load_checkpoint_file; '
               'checkpoint = load_checkpoint_file(sys.argv[1]); '
               'loss = checkpoint["message_hub"]["log_scalars"]["train/loss"]; '
               'print(json.dumps([float(loss.statistics(name)) for name in ("min", "max", "current", "mean")]))')
    ran = subprocess.run([sys.executable, '-c', program, trained[1] / 'epoch_2.pth'], capture_output=True, text=True)
    loss = trained[0].message_hub.get_scalar('train/loss').data[0]
    expected = [loss.min(), loss.max(), loss[-1], loss.mean()]
    assert ran.returncode == 0 and json.loads(ran.stdout.splitlines()[-1]) == pytest.approx(expected), ran.stderr


def test_our_own_schedules_and_nested_metainfo_come_back(tmp_path):
    runner = toy_runner(tmp_path, epochs=1)
    runner.param_schedulers = [dict(type='OneCycleLR', eta_max=.1, total_steps=9, anneal_strategy='linear',
                                    by_epoch=False)]
    runner.train_dataloader.dataset.metainfo = dict(ToyData.METAINFO, nested=ConfigDict(a=[dict(b=1)]))
    runner.train()
    loaded = load_checkpoint_file(tmp_path / 'epoch_1.pth')
    schedule = OneCycleParamScheduler._annealing_linear
    assert loaded['param_schedulers'][0]['anneal_func'] is schedule, 'a function of MMEngine, not of the file'
    assert loaded['meta']['dataset_meta']['nested'] == {'a': [{'b': 1}]}
    resumed = toy_runner(tmp_path / 'next', epochs=2, resume=True, load_from=str(tmp_path / 'epoch_1.pth'))
    resumed.param_schedulers = [dict(type='OneCycleLR', eta_max=.1, total_steps=9, anneal_strategy='linear',
                                     by_epoch=False)]
    resumed.train()
    assert resumed.iter == 8 and resumed.param_schedulers[0].anneal_func is schedule


class CfgNode(dict):
    """As yacs' class is pickled, which the Swin authors' training code notes its settings in."""


def test_settings_of_other_trainings_load(tmp_path, monkeypatch):
    path = tmp_path / 'checkpoint.pth'
    yacs = types.ModuleType('yacs.config')
    yacs.CfgNode = CfgNode
    monkeypatch.setattr(CfgNode, '__module__', 'yacs.config')
    config = CfgNode(MODEL=CfgNode(NUM_CLASSES=5), AMP='O1')
    vars(config).update({'__immutable__': True, '__deprecated_keys__': {'OLD'}})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', yacs)
        settings = argparse.Namespace(lr=.1, amp=True)  # timm's and torchvision's
        torch.save({'model': WEIGHTS['state_dict'], 'config': config, 'args': settings}, path)
    assert 'yacs' not in sys.modules
    loaded = load_checkpoint_file(path)
    assert loaded['config'] == {'MODEL': {'NUM_CLASSES': 5}, 'AMP': 'O1'} and loaded['args'].lr == .1
    assert type(loaded['config']) is OrderedDict, 'which does nothing of its own'


def test_damage_in_the_list_of_a_files_parts_is_said(weights, tmp_path):
    content = weights.read_bytes()
    start, outcomes = content.rindex(b'PK\x01\x02'), set()
    for place in range(start, len(content)):
        path = tmp_path / 'damaged.pth'
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xff]) + content[place + 1:])
        try:
            load_checkpoint_file(path)
            outcomes.add('loaded')
        except CheckpointError:
            outcomes.add('said')
    assert 'said' in outcomes


def test_what_older_torch_does_not_allow_by_itself_loads(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    plain = {'milestones': Counter([8, 11]), 'seen': {1, 2}, 'number': 1j, 'bytes': bytearray(b'a'),
             'dtypes': [torch.bfloat16, torch.uint8, torch.bool], 'device': torch.device('cpu')}
    torch.save({**WEIGHTS, **plain}, path)
    loaded = load_checkpoint_file(path)
    assert {name: loaded[name] for name in plain} == plain


def test_numpys_numbers_load_after_other_packages_are_imported(tmp_path):
    """NumPy 1.26 gets a ``_core`` that is next to empty when a package built for NumPy 2 is imported, such as cv2."""
    torch.save({**WEIGHTS, 'score': np.float64(.5)}, tmp_path / 'checkpoint.pth')
    program = ('import sys, cv2; from swin_pos_det.checkpoints import load_checkpoint_file; '
               'assert load_checkpoint_file(sys.argv[1])["score"] == .5')
    subprocess.run([sys.executable, '-c', program, tmp_path / 'checkpoint.pth'], check=True)


# ---- files that would run code

@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('call, name', [(os.system, 'system'), (eval, r'builtins\.eval'), (exec, r'builtins\.exec')])
def test_pickles_that_would_run_code_are_refused(tmp_path, call, name, legacy):
    marker, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    torch.save({**WEIGHTS, 'extra': Evil(marker, call)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=rf'evil\.pth asks for \S*{name}\b.*nothing was loaded'):
        load_checkpoint_file(path)
    assert not marker.exists()


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickles_are_refused(tmp_path, protocol):
    marker, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    path.write_bytes(pickle.dumps({'state_dict': Evil(marker)}, protocol))
    with pytest.raises(CheckpointError, match=r'asks for \S*\.system'):
        load_checkpoint_file(path)
    assert not marker.exists()


class GetAttr:
    """Asks for an attribute of an allowed class, which a plain ``getattr`` on the allow-list would hand out."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_getattr_gives_the_four_statistics_and_nothing_else(tmp_path):
    path = tmp_path / 'getattr.pth'
    torch.save({**WEIGHTS, 'extra': GetAttr()}, path)
    with pytest.raises(CheckpointError, match='__init__'):
        load_checkpoint_file(path)


def test_torchscript_archives_are_refused(tmp_path):
    path = tmp_path / 'scripted.pth'
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    with pytest.raises(CheckpointError, match='TorchScript'):
        load_checkpoint_file(path)


# ---- files that are broken, or something else

def test_missing_file_and_directory(tmp_path):
    for kind in (CheckpointError, FileNotFoundError):
        with pytest.raises(kind, match=r'nowhere\.pth does not exist'):
            load_checkpoint_file(tmp_path / 'nowhere.pth')
    with pytest.raises(CheckpointError, match='is a directory'):
        load_checkpoint_file(tmp_path)


@pytest.mark.parametrize('keep', [0.1, 0.5, 0.99])
def test_truncated_file(weights, keep):
    data = weights.read_bytes()
    weights.write_bytes(data[:int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r'weights\.pth is truncated'):
        load_checkpoint_file(weights)


@pytest.mark.parametrize('damage', ['first entry', 'version', 'pickle'])
def test_damaged_zip(weights, damage):
    data = bytearray(weights.read_bytes())
    directory = data.index(b'PK\x01\x02')
    if damage == 'first entry':  # its signature
        data[directory:directory + 4] = b'\0\0\0\0'
    elif damage == 'version':  # of zip that is needed
        data[directory + 6:directory + 8] = b'\xff\x00'
    else:
        start = data.index(b'data.pkl') + len(b'data.pkl')
        data[start + 60:start + 100] = bytes(40)
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r'weights\.pth .*is damaged|cannot read .*weights\.pth'):
        load_checkpoint_file(weights)


@pytest.mark.parametrize('content, message', [
    (b'', 'is empty'),
    (b'\n<!DOCTYPE html><html>404</html>', r'is a web page \(HTML\)'),
    (b'<html><body>Please log in', r'is a web page \(HTML\)'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00', 'is a Git LFS pointer'),
    (b'hello, this is a text file', 'is not a PyTorch checkpoint'),
    (b'\x89PNG\r\n\x1a\n' + bytes(100), 'is not a PyTorch checkpoint'),
])
def test_other_files(tmp_path, content, message):
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'file\.pth {message}'):
        load_checkpoint_file(path)


@pytest.mark.parametrize('content, message', [([torch.ones(1)], 'holds a list'), ({'a': 1}, 'holds no tensor')])
def test_pickles_that_are_no_checkpoint(tmp_path, content, message):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(path)


# ---- other formats and places

@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('mmap', [False, True], ids=['read', 'mmap'])
def test_both_torch_formats_load(tmp_path, legacy, mmap):
    path = tmp_path / 'weights.pth'
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_checkpoint_file(path, map_location='cpu', mmap=mmap)
    assert torch.equal(loaded['state_dict']['w'], WEIGHTS['state_dict']['w'])


@pytest.mark.parametrize('value', [
    np.float32(1.5), np.int64(3), np.bool_(True), np.arange(3), np.ones((2, 2), np.float16), np.array(['a', 'bc']),
    b'bytes', {1, 2}, slice(1, 2)], ids=lambda value: type(value).__name__)
def test_plain_values_load(tmp_path, value):
    path = tmp_path / 'values.pth'
    torch.save({**WEIGHTS, 'value': value}, path)
    loaded = load_checkpoint_file(path)['value']
    assert type(loaded) is type(value)
    assert np.array_equal(loaded, value) if isinstance(value, np.ndarray) else loaded == value


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Serve ``tmp_path/'site'`` over HTTP, with an empty torch hub folder."""
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Handler(http.server.SimpleHTTPRequestHandler):

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield site, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_a_file_that_is_in_the_cache_already_is_used(web, tmp_path):
    folder = tmp_path / 'torch_home/hub/checkpoints'
    folder.mkdir(parents=True)
    for name in ('swin_tiny_patch4_window7_224.pth', 'model.pth'):
        torch.save(WEIGHTS, folder / name)
    nowhere = 'http://127.0.0.1:9/v1.0.0'
    found = CheckpointLoader.load_checkpoint(f'{nowhere}/swin_tiny_patch4_window7_224.pth')
    assert torch.equal(found['state_dict']['w'], WEIGHTS['state_dict']['w'])
    with pytest.raises(CheckpointError, match='cannot download'):  # of which model it is, that name does not say
        CheckpointLoader.load_checkpoint(f'{nowhere}/model.pth')


def test_downloads_are_cached_and_protected(web, tmp_path):
    site, url = web
    marker = tmp_path / 'ran'
    torch.save(WEIGHTS, site / 'good.pth')
    torch.save({**WEIGHTS, 'extra': Evil(marker)}, site / 'evil.pth')
    loaded = CheckpointLoader.load_checkpoint(f'{url}/good.pth', map_location='cpu')
    assert torch.equal(loaded['state_dict']['w'], WEIGHTS['state_dict']['w'])
    (site / 'good.pth').unlink()
    assert 'state_dict' in CheckpointLoader.load_checkpoint(f'{url}/good.pth')
    with pytest.raises(CheckpointError, match='system'):
        CheckpointLoader.load_checkpoint(f'{url}/evil.pth')
    with pytest.raises(CheckpointError, match=r'cannot download .*gone\.pth'):
        CheckpointLoader.load_checkpoint(f'{url}/gone.pth')
    assert not marker.exists()


def test_downloads_of_the_same_name_are_told_apart(web):
    site, url = web
    for folder, value in (('a', 1.), ('b', 2.)):
        (site / folder).mkdir()
        torch.save({'state_dict': {'w': torch.full((1, ), value)}}, site / folder / 'model.pth')
    for folder, value in (('a', 1.), ('b', 2.)):
        assert CheckpointLoader.load_checkpoint(f'{url}/{folder}/model.pth')['state_dict']['w'] == value


@pytest.mark.parametrize('scheme, table', [('torchvision', 'get_torchvision_models'),
                                           ('open-mmlab', 'get_external_models'), ('mmcls', 'get_mmcls_models')])
def test_named_models_are_protected(web, tmp_path, monkeypatch, scheme, table):
    site, url = web
    marker = tmp_path / 'ran'
    torch.save({'state_dict': {'backbone.w': torch.ones(1)}}, site / 'good.pth')
    torch.save({**WEIGHTS, 'extra': Evil(marker)}, site / 'evil.pth')
    monkeypatch.setattr(schemes.mmengine_checkpoint, table,
                        lambda: dict(good=f'{url}/good.pth', evil=f'{url}/evil.pth'))
    key = 'w' if scheme == 'mmcls' else 'backbone.w'
    assert key in CheckpointLoader.load_checkpoint(f'{scheme}://good')['state_dict']
    with pytest.raises(CheckpointError, match='system'):
        CheckpointLoader.load_checkpoint(f'{scheme}://evil')
    with pytest.raises(CheckpointError, match="no model named 'unknown'"):
        CheckpointLoader.load_checkpoint(f'{scheme}://unknown')
    assert not marker.exists()


def test_every_scheme_of_mmengine_is_ours():
    loaders = {prefix: loader.__module__ for prefix, loader in CheckpointLoader._schemes.items()}
    assert set(loaders.values()) == {'swin_pos_det.checkpoints.schemes'}, loaders


def test_init_cfg_of_a_submodule_reads_through_the_loader(weights):

    class Module(BaseModule):

        def __init__(self):
            super().__init__(init_cfg=dict(type='Pretrained', checkpoint=str(weights)))
            self.w = torch.nn.Parameter(torch.zeros(2, 3))

    module = Module()
    module.init_weights()
    assert torch.equal(module.w.data, WEIGHTS['state_dict']['w'])


@pytest.mark.parametrize('keep', [0.2, 0.9])
def test_truncated_safetensors(tmp_path, keep):
    from safetensors.torch import save_file
    path = tmp_path / 'weights.safetensors'
    save_file({f'layer{i}.weight': torch.randn(16, 16) for i in range(8)}, str(path))
    path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])
    with pytest.raises(CheckpointError, match='weights.safetensors is a safetensors file, but truncated or damaged'):
        load_checkpoint_file(path)
