#!/usr/bin/env python
r"""Write the golden fixtures: micro Swin V1 checkpoints as other libraries write them, with their features.

The libraries do not fit into one environment, nor into the project's, so each group is made in a throw-away one. One
virtual environment holds torch, and what would collide is installed beside it and put first on the path::

    python3.11 -m venv venv
    venv/bin/pip install torch==2.6.0 torchvision==0.21.0 timm==1.0.31 transformers==5.23.0 safetensors scipy yacs
    venv/bin/pip install --target timm0412 --no-deps timm==0.4.12
    venv/bin/pip install --target tf4 --no-deps transformers==4.57.1 huggingface_hub==0.36.0 tokenizers==0.22.1 \
        requests urllib3 charset-normalizer certifi idna
    venv/bin/pip install --target mmpre --no-deps mmpretrain==1.2.0 mmengine==0.10.7 mmcv-lite==2.1.0
    venv/bin/pip install --target mmpre addict yapf termcolor opencv-python-headless matplotlib einops mat4py \
        model-index rich importlib-metadata

    venv/bin/python make_swin_goldens.py --only timm torchvision hf5_backbone hf5_saved keys_timm keys_hf5
    PYTHONPATH=timm0412 venv/bin/python make_swin_goldens.py --only timm_old
    PYTHONPATH=tf4 venv/bin/python make_swin_goldens.py --only hf_model hf_backbone hf_classifier keys_hf
    PYTHONPATH=mmpre venv/bin/python make_swin_goldens.py --only mmpretrain
    venv/bin/python make_swin_goldens.py --only microsoft simmim --microsoft MS
    venv/bin/python make_swin_goldens.py --only moby --microsoft MS --moby MOBY
    venv/bin/python make_swin_goldens.py --only microsoft_det keys_microsoft \
        --microsoft-det DET/mmdet/models/backbones/swin_transformer.py

MS is a checkout of microsoft/Swin-Transformer, MOBY one of SwinTransformer/Transformer-SSL, and DET one of
SwinTransformer/Swin-Transformer-Object-Detection (all on GitHub, MIT License); their code is not copied here. The file
formats are described in README.md beside this script.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import types
import zlib
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

IMAGE_SIZE = 224  # maps of 56, 28 and 14: all larger than the window, where every library shifts and masks alike
EMBED_DIM = 8
DEPTHS = (2, 2, 2)
NUM_HEADS = (1, 2, 4)
WINDOW_SIZE = 7
MLP_RATIO = 2.0
NUM_CLASSES = 5
EPS = 1e-5

LAST_BLOCK = 'layer_norm of the last block'
OUTPUTS = 'outputs'


def golden_input(size=IMAGE_SIZE):
    """Return the input image (1, 3, size, size), from a formula so that no generator has to agree between versions."""
    c = torch.arange(3, dtype=torch.float64).view(3, 1, 1)
    i = torch.arange(size, dtype=torch.float64).view(1, size, 1)
    j = torch.arange(size, dtype=torch.float64).view(1, 1, size)
    return (torch.sin(0.1 * i * (c + 1)) * torch.cos(0.07 * j + c)).float()[None]


def randomise(model, name):
    """Fill every parameter with seeded noise, away from its trivial initial value.

    A norm left at one and zero, or a table left near zero, would hide a tensor that is dropped or put elsewhere.

    Args:
        model (nn.Module): The library's model; it is changed in place and set to eval mode.
        name (str): The fixture's name, from which the seed is derived.

    Returns:
        nn.Module: The same model.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == EPS, f'{name}: a norm has eps {module.eps}, which no checkpoint records'
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if 'relative_position_bias_table' in key or 'absolute_pos_embed' in key:
                parameter.copy_(0.5 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif key.endswith('weight'):
                parameter.copy_(1 + 0.3 * noise.clamp(-2, 2))
            else:
                parameter.copy_(0.3 * noise)
    model.eval()  # not chained: the detection repository's `train` returns None
    return model


def as_map(tokens, channels):
    """Return tokens of any layout, (B, L, C), (B, H, W, C) or (B, C, H, W), as (B, C, H, W)."""
    if tokens.ndim == 3:
        side = int(tokens.shape[1] ** 0.5)
        tokens = tokens.view(len(tokens), side, side, channels)
    assert channels in (tokens.shape[1], tokens.shape[-1])
    return tokens.permute(0, 3, 1, 2) if tokens.shape[-1] == channels else tokens


@torch.no_grad()
def last_block_features(model, blocks):
    """Run the model on the input and collect what each stage's last block returns.

    Args:
        model (nn.Module): The library's model.
        blocks (list[nn.Module]): The last block of each stage, before patch merging and any output norm.

    Returns:
        list[Tensor]: Per stage (1, C, H, W), normalised over the channels without affine parameters, which keeps the
        random model's magnitudes comparable between stages.
    """
    kept = []

    def keep(_module, _inputs, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    model(golden_input())
    for handle in handles:
        handle.remove()
    assert len(kept) == len(DEPTHS)
    features = []
    for stage, tokens in enumerate(kept):
        channels = EMBED_DIM * 2**stage
        tokens = as_map(tokens, channels).permute(0, 2, 3, 1)
        features.append(F.layer_norm(tokens, (channels,), eps=EPS).permute(0, 3, 1, 2))
    return features


def without_large_masks(state):
    """Drop the attention masks of all stages but the last: at 224 they would outweigh all else by far."""
    return {k: v for k, v in state.items() if not k.endswith('attn_mask') or f'layers.{len(DEPTHS) - 1}.' in k}


def import_file(path, name):
    """Import the Python file at `path` as the module `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def make_timm(_args):
    """Make timm's: patch merging opens a stage, the index and mask buffers are not saved."""
    import timm
    from timm.models.swin_transformer import SwinTransformer

    model = randomise(
        SwinTransformer(
            img_size=IMAGE_SIZE, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS, window_size=WINDOW_SIZE,
            mlp_ratio=MLP_RATIO, drop_path_rate=0.0, num_classes=NUM_CLASSES,
        ),
        'timm',
    )
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    return model.state_dict(), features, LAST_BLOCK, f'timm {timm.__version__}'


def make_timm_old(_args):
    """Make timm 0.4.12's: Microsoft's layout, with both kinds of buffers."""
    import timm
    from timm.models.swin_transformer import SwinTransformer

    assert timm.__version__ == '0.4.12', timm.__version__
    model = randomise(
        SwinTransformer(
            img_size=IMAGE_SIZE, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS, window_size=WINDOW_SIZE,
            mlp_ratio=MLP_RATIO, drop_path_rate=0.0, num_classes=NUM_CLASSES,
        ),
        'timm_old',
    )
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    return without_large_masks(model.state_dict()), features, LAST_BLOCK, f'timm {timm.__version__}'


def import_models(checkout, name):
    """Import a module of a checkout's `models` folder, without what its `__init__.py` imports."""
    package = types.ModuleType(f'models_of_{checkout.resolve().name}'.replace('-', '_'))
    package.__path__ = [str(checkout / 'models')]
    sys.modules[package.__name__] = package
    return importlib.import_module(f'{package.__name__}.{name}')


def microsoft_settings(**changes):
    """Return the arguments of Microsoft's models."""
    return dict(
        img_size=IMAGE_SIZE, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS, window_size=WINDOW_SIZE,
        mlp_ratio=MLP_RATIO, drop_path_rate=0.0, num_classes=NUM_CLASSES) | changes


def training_checkpoint(model, state):
    """Return what `save_checkpoint` in the `utils.py` of Microsoft's repositories saves, settings in yacs included."""
    from yacs.config import CfgNode

    config = CfgNode(dict(MODEL=dict(TYPE='swin', NAME='micro'), TRAIN=dict(EPOCHS=4, START_EPOCH=0)))
    config.freeze()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return dict(
        model=state, optimizer=optimizer.state_dict(), lr_scheduler=dict(warmup_t=20), max_accuracy=0.0,
        scaler={}, epoch=3, config=config)


def hollow(value):
    """Return a tensor of the same shape and type that takes no room in a file: one zero, repeated."""
    return torch.zeros((), dtype=value.dtype).expand(value.shape)


def make_microsoft(args):
    """Make Microsoft's classification repository's: the state dict below 'model'."""
    module = import_models(args.microsoft, 'swin_transformer')
    model = randomise(module.SwinTransformer(**microsoft_settings()), 'microsoft')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    checkpoint = {'model': without_large_masks(model.state_dict())}
    return checkpoint, features, LAST_BLOCK, 'microsoft/Swin-Transformer'


def make_simmim(args):
    """Make SimMIM's of Microsoft's repository: 'encoder.' before the backbone's keys, and a mask token."""
    module = import_models(args.microsoft, 'simmim')
    encoder = module.SwinTransformerForSimMIM(**microsoft_settings(num_classes=0))
    model = randomise(module.SimMIM(None, encoder, encoder_stride=16, in_chans=3, patch_size=4), 'simmim')
    nothing_masked = torch.zeros(1, IMAGE_SIZE // 4, IMAGE_SIZE // 4)
    features = last_block_features(
        lambda image: encoder(image, nothing_masked), [layer.blocks[-1] for layer in encoder.layers])
    state = without_large_masks(model.state_dict())
    state = {key: value if key.startswith('encoder.') else hollow(value) for key, value in state.items()}
    return training_checkpoint(model, state), features, LAST_BLOCK, 'microsoft/Swin-Transformer, models/simmim.py'


def make_moby(args):
    """Make MoBY's of the authors' repository: an encoder, its momentum encoder, projectors and queues."""
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    sys.modules['diffdist'] = types.SimpleNamespace(functional=None)  # gathers features, which is not done here
    swin = import_models(args.microsoft, 'swin_transformer').SwinTransformer
    encoder, encoder_k = (swin(**microsoft_settings(num_classes=0)) for _ in range(2))
    settings = types.SimpleNamespace(
        MODEL=types.SimpleNamespace(SWIN=types.SimpleNamespace(NORM_BEFORE_MLP='ln')),
        DATA=types.SimpleNamespace(TRAINING_IMAGES=8, BATCH_SIZE=2),
        TRAIN=types.SimpleNamespace(EPOCHS=1, START_EPOCH=0))
    model = randomise(import_models(args.moby, 'moby').MoBY(settings, encoder, encoder_k), 'moby')
    features = last_block_features(encoder, [layer.blocks[-1] for layer in encoder.layers])
    state = without_large_masks(model.state_dict())
    state = {key: value if key.startswith('encoder.') else hollow(value) for key, value in state.items()}
    return training_checkpoint(model, state), features, LAST_BLOCK, 'SwinTransformer/Transformer-SSL, models/moby.py'


def build_microsoft_det(path, ape):
    """Build the detection repository's backbone without its MMCV and MMDetection, which are of 2021."""

    def stub(name, **attributes):
        # Its own registry and loader are of no matter to the numbers; a package is what the relative import needs.
        module = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(attributes)
        sys.modules[name] = module

    class Registry:
        @staticmethod
        def register_module():
            return lambda cls: cls

    stub('mmcv_custom', load_checkpoint=None)
    stub('mmdet')
    stub('mmdet.utils', get_root_logger=None)
    stub('mmdet.models')
    stub('mmdet.models.builder', BACKBONES=Registry)
    stub('mmdet.models.backbones')
    module = import_file(path, 'mmdet.models.backbones.swin_transformer')
    return module.SwinTransformer(
        pretrain_img_size=IMAGE_SIZE // 2, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS,
        window_size=WINDOW_SIZE, mlp_ratio=MLP_RATIO, drop_path_rate=0.0, ape=ape, out_indices=(0, 1, 2),
    )


@torch.no_grad()
def make_microsoft_det(args):
    """Make the paper's detection repository's: 'backbone.' below 'state_dict', a norm per output, and here the ape."""
    model = randomise(build_microsoft_det(args.microsoft_det, ape=True), 'microsoft_det')
    checkpoint = {'state_dict': {'backbone.' + k: v for k, v in model.state_dict().items()}}
    return checkpoint, model(golden_input()), OUTPUTS, 'SwinTransformer/Swin-Transformer-Object-Detection'


def hf_config():
    """Return the configuration of all models of transformers."""
    from transformers import SwinConfig

    return SwinConfig(
        image_size=IMAGE_SIZE, patch_size=4, num_channels=3, embed_dim=EMBED_DIM, depths=list(DEPTHS),
        num_heads=list(NUM_HEADS), window_size=WINDOW_SIZE, mlp_ratio=MLP_RATIO, qkv_bias=True, drop_path_rate=0.0,
        layer_norm_eps=EPS, num_labels=NUM_CLASSES, out_features=['stage1', 'stage2', 'stage3'],
    )


def hf_version(major):
    """Return transformers' name and version, and check that it is of the series a fixture is about."""
    import transformers

    assert transformers.__version__.startswith(f'{major}.'), f'transformers {transformers.__version__}, not {major}.x'
    return f'transformers {transformers.__version__}'


def make_hf_model(_args):
    """Make transformers 4.x SwinModel: no prefix."""
    from transformers import SwinModel

    model = randomise(SwinModel(hf_config()), 'hf_model')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.encoder.layers])
    return model.state_dict(), features, LAST_BLOCK, hf_version(4)


@torch.no_grad()
def make_hf_backbone(_args):
    """Make transformers 4.x SwinBackbone: no prefix, and a norm per output in `hidden_states_norms`."""
    from transformers import SwinBackbone

    model = randomise(SwinBackbone(hf_config()), 'hf_backbone')
    return model.state_dict(), model(golden_input()).feature_maps, OUTPUTS, hf_version(4)


def make_hf_classifier(_args):
    """Make transformers 4.x SwinForImageClassification: 'swin.' before all but the classifier."""
    from transformers import SwinForImageClassification

    model = randomise(SwinForImageClassification(hf_config()), 'hf_classifier')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.swin.encoder.layers])
    return model.state_dict(), features, LAST_BLOCK, hf_version(4)


@torch.no_grad()
def make_hf5_backbone(_args):
    """Make transformers 5.x SwinBackbone's own state dict, whose names differ from those in its files."""
    from transformers import SwinBackbone

    model = randomise(SwinBackbone(hf_config()), 'hf5_backbone')
    return model.state_dict(), model(golden_input()).feature_maps, OUTPUTS, hf_version(5)


@torch.no_grad()
def make_hf5_saved(_args):
    """Make what transformers 5.x SwinBackbone's `save_pretrained` writes: the names of 4.x, without the unused norm."""
    from safetensors.torch import load_file
    from transformers import SwinBackbone

    model = randomise(SwinBackbone(hf_config()), 'hf5_saved')
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        checkpoint = load_file(Path(folder) / 'model.safetensors')
    return checkpoint, model(golden_input()).feature_maps, OUTPUTS, hf_version(5)


def make_torchvision(_args):
    """Make torchvision's: one flat sequence of embedding, stages and mergings, and a flat index buffer."""
    import torchvision
    from torchvision.models.swin_transformer import SwinTransformer

    model = randomise(
        SwinTransformer(
            patch_size=[4, 4], embed_dim=EMBED_DIM, depths=list(DEPTHS), num_heads=list(NUM_HEADS),
            window_size=[WINDOW_SIZE] * 2, mlp_ratio=MLP_RATIO, stochastic_depth_prob=0.0, num_classes=NUM_CLASSES,
        ),
        'torchvision',
    )
    features = last_block_features(model, [model.features[i][-1] for i in (1, 3, 5)])
    return model.state_dict(), features, LAST_BLOCK, f'torchvision {torchvision.__version__}'


def make_mmpretrain(_args):
    """Make MMPretrain's: a classifier's checkpoint, with the norm of the last stage alone."""
    import mmpretrain
    from mmpretrain.models.backbones import SwinTransformer

    model = SwinTransformer(
        arch={'embed_dims': EMBED_DIM, 'depths': list(DEPTHS), 'num_heads': list(NUM_HEADS)}, img_size=IMAGE_SIZE,
        window_size=WINDOW_SIZE, drop_path_rate=0.0, out_indices=(len(DEPTHS) - 1,),
        stage_cfgs={'block_cfgs': {'ffn_ratio': MLP_RATIO}},
    )
    classifier = nn.ModuleDict({'backbone': model, 'head': nn.ModuleDict({})})
    classifier['head']['fc'] = nn.Linear(EMBED_DIM * 2 ** (len(DEPTHS) - 1), NUM_CLASSES)
    randomise(classifier, 'mmpretrain')
    features = last_block_features(model, [stage.blocks[-1] for stage in model.stages])
    checkpoint = {'state_dict': dict(classifier.state_dict())}
    return checkpoint, features, LAST_BLOCK, f'mmpretrain {mmpretrain.__version__}'


def keys_timm(_args):
    """Return the keys of current timm without a classifier."""
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=IMAGE_SIZE, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS, window_size=WINDOW_SIZE,
        mlp_ratio=MLP_RATIO, num_classes=0,
    )


def keys_hf(_args):
    """Return the keys of transformers 4.x SwinBackbone."""
    from transformers import SwinBackbone

    hf_version(4)
    return SwinBackbone(hf_config())


def keys_hf5(_args):
    """Return the keys of transformers 5.x SwinBackbone in memory."""
    from transformers import SwinBackbone

    hf_version(5)
    return SwinBackbone(hf_config())


def keys_microsoft(args):
    """Return the keys of the detection repository's backbone, without the absolute position embedding."""
    return build_microsoft_det(args.microsoft_det, ape=False)


FIXTURES = {
    'timm': make_timm,
    'timm_old': make_timm_old,
    'microsoft': make_microsoft,
    'simmim': make_simmim,
    'moby': make_moby,
    'microsoft_det': make_microsoft_det,
    'hf_model': make_hf_model,
    'hf_backbone': make_hf_backbone,
    'hf_classifier': make_hf_classifier,
    'hf5_backbone': make_hf5_backbone,
    'hf5_saved': make_hf5_saved,
    'torchvision': make_torchvision,
    'mmpretrain': make_mmpretrain,
}
KEYS = {'timm': keys_timm, 'hf': keys_hf, 'hf5': keys_hf5, 'microsoft': keys_microsoft}


def compact(value, seen):
    """Return plain containers and tensors, equal buffers sharing one storage, which `torch.save` writes once."""
    if type(value) in (dict, OrderedDict):
        return {k: compact(v, seen) for k, v in value.items()}
    if not torch.is_tensor(value) or (value.numel() > 1 and not any(value.stride())):
        return value  # settings, and what is hollow
    value = value.detach().contiguous().clone()
    if value.is_floating_point():
        assert value.dtype == torch.float32
        return value
    return seen.setdefault((tuple(value.shape), value.numpy().tobytes()), value)


def write_fixture(name, args):
    """Make one fixture and write it to `swin_NAME.pth`."""
    checkpoint, features, features_are, library = FIXTURES[name](args)
    features = [feature.detach().contiguous().clone() for feature in features]
    for stage, feature in enumerate(features):
        side = IMAGE_SIZE // 4 // 2**stage
        assert feature.shape == (1, EMBED_DIM * 2**stage, side, side) and feature.dtype == torch.float32
        assert feature.isfinite().all() and feature.std() > 0.1
    path = args.out / f'swin_{name}.pth'
    content = dict(
        checkpoint=compact(checkpoint, {}), features=features, features_are=features_are, library=library,
        torch=torch.__version__.split('+')[0],
    )
    torch.save(content, path)
    print(f'{path}: {path.stat().st_size} bytes, {library}')


def write_keys(name, args):
    """Add one library's keys and shapes to `keys.json`, leaving those made in other environments."""
    path = args.out / 'keys.json'
    content = json.loads(path.read_text()) if path.exists() else {}
    content[name] = {k: list(v.shape) for k, v in KEYS[name](args).state_dict().items()}
    lines = [json.dumps(k) + ':' + json.dumps(content[k], separators=(',', ':')) for k in sorted(content)]
    path.write_text('{\n' + ',\n'.join(lines) + '\n}\n')
    print(f'{path}: {name}, {len(content[name])} keys')


def main():
    """Parse the command line and write what it names."""
    names = [*FIXTURES, *(f'keys_{name}' for name in KEYS)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', required=True, choices=names, metavar='NAME', help=', '.join(names))
    parser.add_argument('--out', type=Path, default=Path(__file__).resolve().parent, metavar='DIR')
    parser.add_argument('--microsoft', type=Path, metavar='MS', help="a checkout of Microsoft's classification code")
    parser.add_argument('--moby', type=Path, metavar='MOBY', help="a checkout of the authors' self-supervised code")
    parser.add_argument('--microsoft-det', type=Path, help='the backbone file of the detection code')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        if name.startswith('keys_'):
            write_keys(name[len('keys_'):], args)
        else:
            write_fixture(name, args)


if __name__ == '__main__':
    main()
