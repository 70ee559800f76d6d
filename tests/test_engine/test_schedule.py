"""In a resumed training the config's optimizer and schedule count, not the checkpoint's."""
from __future__ import annotations

import pytest
from mmengine.hooks import Hook

from tests.test_engine.test_exact_resume import log_of, make_runner

COSINE = dict(type='CosineAnnealingLR', T_max=2, by_epoch=True)
LONGER = dict(COSINE, T_max=4)
STEPS = dict(type='MultiStepLR', milestones=[1], by_epoch=True)
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3)
BY_ITERATION = dict(type='CosineAnnealingLR', T_max=2, by_epoch=True, convert_to_iter_based=True)
ONE_CYCLE = dict(type='OneCycleLR', eta_max=0.1, total_steps=12, by_epoch=False)
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='mean', rule='greater', by_epoch=True, patience=0)


def rates(made):
    """Return the learning rate, weight decay and betas of each iteration of a training."""
    seen = []
    monitor = Hook()
    monitor.before_train_iter = lambda runner, batch_idx, data_batch: seen.append(
        [runner.optim_wrapper.param_groups[0][key] for key in ('lr', 'weight_decay', 'betas')])
    made.register_hook(monitor)
    made.train()
    return seen


def settings(schedulers, lr=1e-2, **optimizer):
    return dict(param_scheduler=schedulers, optim_wrapper=dict(optimizer=dict(type='AdamW', lr=lr, **optimizer)))


@pytest.mark.parametrize('file', ['iter_6.pth', 'iter_8.pth'])
@pytest.mark.parametrize('hooks', [True, False])
@pytest.mark.parametrize(('then', 'now', 'line'), [
    (settings([COSINE]), settings([LONGER]), 'CosineAnnealingLR.T_max 2 -> 4'),
    (settings([WARM_UP, STEPS]), settings([WARM_UP, dict(STEPS, milestones=[2])]), 'MultiStepLR.milestones'),
    (settings([BY_ITERATION]), settings([dict(BY_ITERATION, T_max=4)]), 'CosineAnnealingLR.T_max 8 -> 16'),
    (settings([ONE_CYCLE]), settings([dict(ONE_CYCLE, eta_max=0.2)]), 'OneCycleLR.eta_max 0.1 -> 0.2'),
    (settings([COSINE]), settings([LONGER], lr=2e-2), 'CosineAnnealingLR.base_values'),
    (settings([STEPS]), settings([STEPS], lr=2e-2), 'learning rate 0.002 from here on'),
    (settings(None), settings(None, lr=2e-2), 'optimizer.lr 0.01 -> 0.02'),
    (settings([STEPS]), settings(None), '1 -> 0 schedulers'),
    (settings(None), settings([WARM_UP, STEPS]), '0 -> 2 schedulers'),
    (settings([STEPS]), settings([STEPS, WARM_UP]), '1 -> 2 schedulers'),
    (settings([STEPS]), settings([STEPS], weight_decay=0.3, betas=(0.8, 0.9)),
     'optimizer.betas (0.9, 0.999) -> (0.8, 0.9), optimizer.weight_decay 0.01 -> 0.3'),
])
def test_what_the_config_says_counts(tmp_path, then, now, line, file, hooks):
    """As if the training had had these settings from its beginning; with checkpoints of MMEngine's hooks too."""
    make_runner(tmp_path / 'then', end=2, hooks=hooks, **then).train()
    whole = rates(make_runner(tmp_path / 'whole', **now))
    resumed = make_runner(tmp_path / 'on', load_from=str(tmp_path / 'then' / file), resume=True, log_level='INFO',
                          **now)
    found = rates(resumed)
    assert len(found) == 12 - int(file[5])
    assert found == whole[int(file[5]):]
    assert line in log_of(resumed)


@pytest.mark.parametrize('schedulers', [[WARM_UP, COSINE], [BY_ITERATION], None, [PLATEAU], [ONE_CYCLE]])
def test_the_same_config_changes_nothing(tmp_path, schedulers):
    """Not a bit, and the log is silent."""
    whole = rates(make_runner(tmp_path / 'whole', **settings(schedulers)))
    resumed = make_runner(tmp_path / 'on', load_from=str(tmp_path / 'whole/iter_6.pth'), resume=True, log_level='INFO',
                          **settings(schedulers))
    assert rates(resumed) == whole[6:]
    assert 'settings of the config replace those of the checkpoint' not in log_of(resumed)


def test_a_rate_that_a_hook_has_changed_stays(tmp_path):
    class Halve(Hook):
        def after_train_epoch(self, runner):
            for group in runner.optim_wrapper.param_groups:
                group['lr'] /= 2

    def run(folder, **more):
        made = make_runner(folder, **settings(None), **more)
        made.register_hook(Halve())
        return rates(made)

    whole = run(tmp_path / 'whole')
    assert run(tmp_path / 'on', load_from=str(tmp_path / 'whole/iter_8.pth'), resume=True) == whole[8:]


def test_a_schedule_that_follows_the_evaluations_stays_the_checkpoints(tmp_path):
    make_runner(tmp_path / 'then', end=2, **settings([PLATEAU])).train()
    resumed = make_runner(tmp_path / 'on', load_from=str(tmp_path / 'then/iter_8.pth'), resume=True, log_level='INFO',
                          **settings([dict(PLATEAU, factor=0.5)]))
    resumed.train()
    assert "as the schedule follows the evaluations: the checkpoint's counts" in log_of(resumed)
