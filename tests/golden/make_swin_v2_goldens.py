#!/usr/bin/env python
r"""Write the golden fixtures of Swin V2: micro checkpoints as other libraries write them, with their features.

The environments are those of make_swin_goldens.py, with one more folder beside them::

    venv/bin/pip install --target timm06 --no-deps timm==0.6.13

    venv/bin/python make_swin_v2_goldens.py --only timm torchvision hf5_saved keys_timm keys_hf
    PYTHONPATH=timm06 venv/bin/python make_swin_v2_goldens.py --only timm_old
    PYTHONPATH=tf4 venv/bin/python make_swin_v2_goldens.py --only hf_backbone hf_classifier
    PYTHONPATH=mmpre venv/bin/python make_swin_v2_goldens.py --only mmpretrain
    venv/bin/python make_swin_v2_goldens.py --only microsoft simmim keys_microsoft --microsoft MS

MS is a checkout of microsoft/Swin-Transformer (on GitHub, MIT License); its code is not copied here.
"""

import argparse
import json
import tempfile
from pathlib import Path

import make_swin_goldens as v1
import torch
from torch import nn

IMAGE_SIZE = 192  # maps of 48, 24 and 12: all larger than the window, where every library shifts and masks alike
WINDOW_SIZE = 6
PRETRAINED = (4, 4, 3)  # windows that the position network is taken to be learned for; torchvision knows no such thing
EMBED_DIM, DEPTHS, NUM_HEADS, MLP_RATIO, NUM_CLASSES = v1.EMBED_DIM, v1.DEPTHS, v1.NUM_HEADS, v1.MLP_RATIO, 5
NORMALISED = ('attn.proj.bias', 'w_msa.proj.bias', 'mlp.fc2.bias', 'mlp.3.bias', 'ffn.layers.1.bias',
              'output.dense.bias')
v1.IMAGE_SIZE = IMAGE_SIZE
INPUT = v1.golden_input(IMAGE_SIZE)


def randomise(model, name):
    """Fill every parameter with seeded noise; see `make_swin_goldens.randomise`.

    Logit scales are about their first. What is normalised after attention and feed-forward gets a large bias: of eight
    channels that hardly differ a norm would make the more of their round-off.
    """
    v1.randomise(model, f'v2_{name}')
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(NORMALISED):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif key.endswith('logit_scale'):  # it is the exponent
                parameter.copy_(2.3 + 0.3 * torch.randn(parameter.shape, generator=generator).clamp(-2, 2))
    return model


def last_block_features(model, blocks, *inputs):
    """Compute `make_swin_goldens.last_block_features` for this file's input in float64, rounded at the end.

    Cosine attention and norms after it enlarge round-off, of which there is then half as much to compare.
    """
    features = v1.last_block_features(lambda _: model.double()(INPUT.double(), *inputs), blocks)
    model.float()  # to what it was: float64 keeps every float32
    return [feature.float() for feature in features]


def without_masks(state):
    """Drop the attention masks; no library needs them to load its own files."""
    return {key: value for key, value in state.items() if not key.endswith('attn_mask')}


def settings(**changes):
    """Return the arguments of Microsoft's model, which timm's has too."""
    return dict(
        img_size=IMAGE_SIZE, embed_dim=EMBED_DIM, depths=DEPTHS, num_heads=NUM_HEADS, window_size=WINDOW_SIZE,
        mlp_ratio=MLP_RATIO, drop_path_rate=0.0, num_classes=NUM_CLASSES, pretrained_window_sizes=PRETRAINED) | changes


def make_timm(_args):
    """Make timm's: patch merging opens a stage; no buffers are saved."""
    import timm
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    model = randomise(SwinTransformerV2(**settings()), 'timm')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    return model.state_dict(), features, f'timm {timm.__version__}'


def make_timm_old(_args):
    """Make timm 0.6.13's: Microsoft's layout, with its buffers except the coordinates."""
    import timm
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    assert timm.__version__ == '0.6.13', timm.__version__
    model = randomise(SwinTransformerV2(**settings()), 'timm_old')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    return without_masks(model.state_dict()), features, f'timm {timm.__version__}'


def make_microsoft(args):
    """Make Microsoft's classification repository's: the state dict below 'model'."""
    module = v1.import_models(args.microsoft, 'swin_transformer_v2')
    model = randomise(module.SwinTransformerV2(**settings()), 'microsoft')
    features = last_block_features(model, [layer.blocks[-1] for layer in model.layers])
    return {'model': without_masks(model.state_dict())}, features, 'microsoft/Swin-Transformer'


def make_simmim(args):
    """Make SimMIM's of Microsoft's repository around a V2."""
    module = v1.import_models(args.microsoft, 'simmim')
    encoder = module.SwinTransformerV2ForSimMIM(**settings(num_classes=0, pretrained_window_sizes=(0, 0, 0)))
    model = randomise(module.SimMIM(None, encoder, encoder_stride=16, in_chans=3, patch_size=4), 'simmim')
    nothing_masked = torch.zeros(1, IMAGE_SIZE // 4, IMAGE_SIZE // 4)
    features = last_block_features(encoder, [layer.blocks[-1] for layer in encoder.layers], nothing_masked)
    state = {key: value if key.startswith('encoder.') else v1.hollow(value)
             for key, value in without_masks(model.state_dict()).items()}
    return v1.training_checkpoint(model, state), features, 'microsoft/Swin-Transformer, models/simmim.py'


def hf_config():
    """Return the configuration of all models of transformers."""
    from transformers import Swinv2Config

    return Swinv2Config(
        image_size=IMAGE_SIZE, patch_size=4, num_channels=3, embed_dim=EMBED_DIM, depths=list(DEPTHS),
        num_heads=list(NUM_HEADS), window_size=WINDOW_SIZE, pretrained_window_sizes=list(PRETRAINED),
        mlp_ratio=MLP_RATIO, qkv_bias=True, drop_path_rate=0.0, layer_norm_eps=v1.EPS, num_labels=NUM_CLASSES,
        out_features=['stage1', 'stage2', 'stage3'])


def hf_blocks(encoder):
    """Return the last block of each stage."""
    return [layer.blocks[-1] for layer in encoder.layers]


def make_hf_backbone(_args):
    """Make transformers 4.x Swinv2Backbone, which has no norms of its outputs."""
    from transformers import Swinv2Backbone

    model = randomise(Swinv2Backbone(hf_config()), 'hf_backbone')
    return model.state_dict(), last_block_features(model, hf_blocks(model.encoder)), v1.hf_version(4)


def make_hf_classifier(_args):
    """Make transformers 4.x Swinv2ForImageClassification: 'swinv2.' before all but the classifier."""
    from transformers import Swinv2ForImageClassification

    model = randomise(Swinv2ForImageClassification(hf_config()), 'hf_classifier')
    return model.state_dict(), last_block_features(model, hf_blocks(model.swinv2.encoder)), v1.hf_version(4)


def make_hf5_saved(_args):
    """Make what `save_pretrained` of transformers 5.x Swinv2Model writes."""
    from safetensors.torch import load_file
    from transformers import Swinv2Model

    model = randomise(Swinv2Model(hf_config()), 'hf5_saved')
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        checkpoint = load_file(Path(folder) / 'model.safetensors')
    return checkpoint, last_block_features(model, hf_blocks(model.encoder)), v1.hf_version(5)


def make_torchvision(_args):
    """Make torchvision's: one flat sequence; a bias of queries, keys and values, with an unused keys' part."""
    import torchvision
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    model = randomise(
        SwinTransformer(
            patch_size=[4, 4], embed_dim=EMBED_DIM, depths=list(DEPTHS), num_heads=list(NUM_HEADS),
            window_size=[WINDOW_SIZE] * 2, mlp_ratio=MLP_RATIO, stochastic_depth_prob=0.0, num_classes=NUM_CLASSES,
            block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        'torchvision')
    features = last_block_features(model, [model.features[i][-1] for i in (1, 3, 5)])
    return model.state_dict(), features, f'torchvision {torchvision.__version__}'


def make_mmpretrain(_args):
    """Make MMPretrain's: patch merging opens a stage, in Unfold's order; the norm of the last stage alone."""
    import mmpretrain
    from mmpretrain.models.backbones import SwinTransformerV2

    model = SwinTransformerV2(
        arch={'embed_dims': EMBED_DIM, 'depths': list(DEPTHS), 'num_heads': list(NUM_HEADS),
              'extra_norm_every_n_blocks': 0}, img_size=IMAGE_SIZE, window_size=[WINDOW_SIZE] * len(DEPTHS),
        drop_path_rate=0.0, out_indices=(len(DEPTHS) - 1,), pretrained_window_sizes=list(PRETRAINED),
        stage_cfgs={'block_cfgs': {'ffn_ratio': MLP_RATIO}},
    )
    classifier = nn.ModuleDict({'backbone': model, 'head': nn.ModuleDict({})})
    classifier['head']['fc'] = nn.Linear(EMBED_DIM * 2 ** (len(DEPTHS) - 1), NUM_CLASSES)
    randomise(classifier, 'mmpretrain')
    features = last_block_features(model, [stage.blocks[-1] for stage in model.stages])
    return {'state_dict': without_masks(classifier.state_dict())}, features, f'mmpretrain {mmpretrain.__version__}'


def keys_timm(_args):
    """Return the keys of current timm without a classifier."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return SwinTransformerV2(**settings(num_classes=0)).state_dict()


def keys_hf(_args):
    """Return the keys that transformers 5.x Swinv2Backbone saves."""
    from transformers import Swinv2Backbone

    v1.hf_version(5)
    return Swinv2Backbone(hf_config()).state_dict()


def keys_microsoft(args):
    """Return the keys of Microsoft's model without a classifier."""
    module = v1.import_models(args.microsoft, 'swin_transformer_v2')
    return without_masks(module.SwinTransformerV2(**settings(num_classes=0)).state_dict())


FIXTURES = {
    'timm': make_timm,
    'timm_old': make_timm_old,
    'microsoft': make_microsoft,
    'simmim': make_simmim,
    'hf_backbone': make_hf_backbone,
    'hf_classifier': make_hf_classifier,
    'hf5_saved': make_hf5_saved,
    'torchvision': make_torchvision,
    'mmpretrain': make_mmpretrain,
}
KEYS = {'timm': keys_timm, 'hf': keys_hf, 'microsoft': keys_microsoft}


def write_fixture(name, args):
    """Make one fixture and write it to `swinv2_NAME.pth`."""
    checkpoint, features, library = FIXTURES[name](args)
    for stage, feature in enumerate(features):
        side = IMAGE_SIZE // 4 // 2**stage
        assert feature.shape == (1, EMBED_DIM * 2**stage, side, side) and feature.dtype == torch.float32
        assert feature.isfinite().all() and feature.std() > 0.1
    path = args.out / f'swinv2_{name}.pth'
    torch.save(dict(
        checkpoint=v1.compact(checkpoint, {}), features=[feature.contiguous().clone() for feature in features],
        features_are=v1.LAST_BLOCK, library=library, torch=torch.__version__.split('+')[0]), path)
    print(f'{path}: {path.stat().st_size} bytes, {library}')


def write_keys(name, args):
    """Add one library's keys and shapes to `keys_v2.json`, leaving those made in other environments."""
    path = args.out / 'keys_v2.json'
    content = json.loads(path.read_text()) if path.exists() else {}
    content[name] = {key: list(value.shape) for key, value in KEYS[name](args).items()}
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        if name.startswith('keys_'):
            write_keys(name[len('keys_'):], args)
        else:
            write_fixture(name, args)


if __name__ == '__main__':
    main()
