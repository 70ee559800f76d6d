"""Odd settings and command lines: what the tools say of each, and what MMDetection's own tools do.

``mmdet`` was observed with mmdet 3.3.0 and mmengine 0.10.7: 'traceback': a Python traceback before the training;
'late': one after it has started, or in its first evaluation; 'silent': a run that goes on to its end without a word.
"""
from __future__ import annotations

from dataclasses import dataclass

NANO = 'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'


@dataclass(frozen=True)
class Odd:
    """One invalid setting.

    Attributes:
        name: of the test.
        says: part of the line that the tool prints, with DATA for the folder of the data set.
        mmdet: what happens with MMDetection's own tool.
        options: of ``--cfg-options``.
        config: lines that follow those of the demo's config on a small data set.
        arguments: further ones; those of tools other than train.py in full, with CONFIG for the config.
        tool: below ``tools/``.
        how: 'error': exit status 1 and one line; 'usage': argparse's line and exit status 2; 'warning': a line of the
            log, and the run goes on.
    """

    name: str
    says: str
    mmdet: str
    options: tuple[str, ...] = ()
    config: str = ''
    arguments: tuple[str, ...] = ()
    tool: str = 'train.py'
    how: str = 'error'


TEST = ('CONFIG', 'weights.pth')

RETINANET = """
model = dict(
    _delete_=True, type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='SwinPosTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
    bbox_head=dict(type='RetinaHead', num_classes=80, in_channels=16, stacked_convs=1, feat_channels=16,
                   anchor_generator=dict(type='AnchorGenerator', strides=[4, 8, 16, 32, 64], ratios=[1.],
                                         octave_base_scale=4, scales_per_octave=1),
                   bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, score_thr=0., nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
val_evaluator = dict(metric='bbox')
train_cfg = dict(max_epochs=1, val_interval=1)
"""

ODD_SETTINGS = (
    # Names that do not exist.
    Odd('detector', "there is no model called 'MaskRCN' (did you mean 'MaskRCNN'?)", 'traceback',
        ('model.type=MaskRCN', )),
    Odd('backbone', "no model called 'SwinPosTransfomer' (did you mean 'SwinPosTransformer'?)", 'traceback',
        ('model.backbone.type=SwinPosTransfomer', )),
    Odd('loss', "there is no model called 'FocalLos' (did you mean 'FocalLoss'?)", 'traceback',
        ('model.roi_head.bbox_head.loss_cls.type=FocalLos', )),
    Odd('optimizer', "there is no optimizer called 'Adamm'", 'traceback', ('optim_wrapper.optimizer.type=Adamm', )),
    Odd('scheduler', "called 'CosineAnealingLR' (did you mean 'CosineAnnealingLR'?)", 'traceback',
        ('param_scheduler.1.type=CosineAnealingLR', )),
    Odd('transform of training', "there is no transform called 'Resise' (did you mean 'Resize'?)", 'traceback',
        ('train_dataloader.dataset.pipeline.2.type=Resise', )),
    Odd('transform of evaluation', "there is no transform called 'Resise'", 'traceback',
        ('val_dataloader.dataset.pipeline.1.type=Resise', )),
    Odd('transform of a test with --out', "there is no transform called 'Resise'", 'traceback', tool='test.py',
        arguments=(*TEST, '--out', 'found.pkl', '--cfg-options', 'test_dataloader.dataset.pipeline.1.type=Resise')),
    Odd('sampler', "there is no data sampler called 'DefaultSampeler'", 'traceback',
        ('train_dataloader.sampler.type=DefaultSampeler', )),
    Odd('hook', "there is no hook called 'EMAHok' (did you mean 'EMAHook'?)", 'traceback',
        config="custom_hooks = [dict(type='EMAHok')]"),
    Odd('data set', "there is no dataset called 'CocoDatasset' (did you mean 'CocoDataset'?)", 'traceback',
        ('train_dataloader.dataset.type=CocoDatasset', )),
    Odd('evaluator', "there is no metric called 'CocoMetrik' (did you mean 'CocoMetric'?)", 'traceback',
        ('val_evaluator.type=CocoMetrik', )),
    Odd('loop', "there is no loop called 'EpochBasedTrainLop'", 'traceback', ('train_cfg.type=EpochBasedTrainLop', )),
    # Settings that do not exist, are missing, or are refused.
    Odd('setting of the backbone', "SwinPosTransformer has no setting 'window_sise' (did you mean 'window_size'?)",
        'traceback', ('model.backbone.window_sise=7', )),
    Odd('setting of the neck', "FPN has no setting 'out_chanels' (did you mean 'out_channels'?)", 'traceback',
        ('model.neck.out_chanels=64', )),
    Odd('setting of the optimizer', "AdamW has no setting 'learning_rate'", 'traceback',
        ('optim_wrapper.optimizer.learning_rate=0.1', )),
    Odd('setting of a transform', "Resize has no setting 'size'", 'traceback',
        ('train_dataloader.dataset.pipeline.2.size=64', )),
    Odd('missing setting', "CosineAnnealingLR are refused: end should be larger than begin", 'traceback',
        ('param_scheduler.1.end=0', )),
    Odd('missing type', 'a part of the config has no valid type', 'traceback', config='model = dict(neck=dict('
        '_delete_=True, in_channels=[32, 64, 128, 256], out_channels=64, num_outs=5))'),
    Odd('window', 'window_size must be at least 1 on each side, got -1', 'traceback',
        ('model.backbone.window_size=-1', )),
    Odd('padding', "padding must be one of", 'traceback', ('model.backbone.padding=none', )),
    Odd('wrong type', "the settings of FPN are refused", 'traceback', ('model.neck.in_channels=64', )),
    Odd('workers', 'num_workers option should be non-negative', 'traceback', ('train_dataloader.num_workers=-1', )),
    Odd('metric', 'metric must be one or several of bbox, segm', 'traceback', ('val_evaluator.metric=box', )),
    Odd('momentum', 'the settings of SGD are refused: Invalid momentum value', 'traceback',
        ('optim_wrapper.optimizer.momentum=-1', ), 'optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", '
                                                   'lr=0.1, weight_decay=0.1))'),
    # Packages that are not installed.
    Odd('package of a transform', 'a package is missing: albumentations is not installed', 'traceback',
        config="train_dataloader = dict(dataset=dict(pipeline=[dict(type='Albu', transforms=[])]))"),
    Odd('package of a visualizer', 'a package is missing: Please', 'traceback',
        config="visualizer = dict(name='odd', vis_backends=[dict(type='DVCLiveVisBackend')])"),
    # Settings that do not fit each other or the data.
    Odd('channels', 'model.neck.in_channels is [32, 64, 128, 256], but a backbone with embed_dims=48', 'late',
        ('model.backbone.embed_dims=48', )),
    Odd('classes of own data in the demo', 'model.roi_head.bbox_head.num_classes is 10, but the data set of '
        'DATA/annotations/train.json has 2 classes (cat, dog): set it to 2,', 'traceback',
        config="metainfo = dict(classes=('cat', 'dog'))\n"
        'train_dataloader = dict(dataset=dict(metainfo=metainfo))'),
    Odd('too many classes of a one-stage detector', 'model.bbox_head.num_classes is 80, but the data set of '
        'DATA/annotations/train.json has 10 classes (0, 1, 2, ...): set it to 10,', 'late',
        config=RETINANET),
    Odd('best checkpoint by no metric', "save_best is 'segm_mAP', which val_evaluator does not give (did you "
        "mean 'coco/segm_mAP'?)", 'late', ('default_hooks.checkpoint.save_best=segm_mAP',
                                               'default_hooks.checkpoint.rule=greater')),
    Odd('early stopping by no metric', "custom_hooks.0.monitor is 'map'", 'silent',
        config="custom_hooks = [dict(type='EarlyStoppingHook', monitor='map', rule='greater')]"),
    Odd('best checkpoint without an evaluation', 'but the config has no evaluation', 'silent',
        ('default_hooks.checkpoint.save_best=coco/bbox_mAP', ),
        'val_dataloader = None\nval_cfg = None\nval_evaluator = None'),
    Odd('warm-up', 'outlasts the training of 1 iterations: it gets to 0.01 times', 'silent',
        ('train_cfg.max_epochs=1', ), how='warning'),
    Odd('learning rate', 'the training has diverged: ', 'late', ('optim_wrapper.optimizer.lr=1e30',
                                                                       'optim_wrapper.clip_grad=None'),
        'param_scheduler = None'),
    Odd('strategy without a launcher', 'needs a launcher', 'silent', config="strategy = dict(type="
        "'ResumableFSDPStrategy')"),
    Odd('learning rate that follows the batch', '--auto-scale-lr needs auto_scale_lr', 'traceback',
        arguments=('--auto-scale-lr', )),
    # Settings that nothing reads, or of the wrong kind.
    Odd('misspelled setting', "the config sets 'load_frm', which nothing reads: did you mean 'load_from'?", 'silent',
        ('train_cfg.max_epochs=1', ), "load_frm = 'start.pth'", how='warning'),
    Odd('variable of a config', '--cfg-options max_epochs has no effect', 'silent',
        ('max_epochs=3', 'train_cfg.max_epochs=1'), how='warning'),
    Odd('hooks as text', "'custom_hooks=dict(type=EMAHook)': a dict is not allowed here", 'traceback',
        ('custom_hooks=dict(type=EMAHook)', ), how='usage'),
    Odd('hooks as a list of text', 'a dict is not allowed here', 'traceback',
        ("custom_hooks=[dict(type='EMAHook')]", ), how='usage'),
    Odd('hooks as a dict', 'custom_hooks is a list: write custom_hooks.0.type', 'traceback',
        ('custom_hooks.type=EMAHook', )),
    Odd('default hooks', "default_hooks must be a dict, got 'none'", 'traceback', ('default_hooks=none', )),
    Odd('option that does not fit', '--cfg-options do not fit', 'traceback',
        ('train_dataloader.dataset.pipeline.9.a=1', )),
    Odd('option without a value', "'train_cfg.max_epochs' is not of the form key=value", 'traceback',
        ('train_cfg.max_epochs', ), how='usage'),
    # Command lines of other tools.
    Odd('launcher', '--launcher pytorch is for processes that it has started', 'traceback',
        arguments=('--launcher', 'pytorch')),
    Odd('share of the average', "'2' must be a number above 0 and below 1", 'no such flag', arguments=('--ema=2', ),
        how='usage'),
    Odd('results in another format', "'a.txt' must end in .pkl, .pickle or .json", 'traceback',
        arguments=(*TEST, '--out', 'a.txt'), tool='test.py', how='usage'),
    Odd('export under another ending', "'a.pth' must end in .onnx or .pt2", 'no such tool',
        arguments=('CONFIG', '--out', 'a.pth'), tool='deployment/export_backbone.py', how='usage'),
    Odd('conversion under another ending', "'a.txt' must end in .safetensors, .pth", 'no such tool',
        arguments=('weights.pth', 'a.txt'), tool='model_converters/convert_swin.py', how='usage'),
    Odd('damaged image', 'cut.png is damaged', 'no such tool',
        arguments=('CONFIG', '--image', 'cut.png'), tool='analysis_tools/plot_position.py'),
    Odd('mistyped name of a config', 'the model index has no mask-rcnn_swin-pos-t-p4-w7_fpn_1x; did you mean mask',
        'no such tool', arguments=('mask-rcnn_swin-pos-t-p4-w7_fpn_1x', ), tool='reproduce.py'),
    Odd('name of no config', 'the model index has no yolo. tools/reproduce.py --list shows all', 'no such tool',
        arguments=('yolo', ), tool='reproduce.py'),
)
