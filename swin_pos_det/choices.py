"""Names that settings and command lines accept. Imports nothing, so that ``--help`` can list them at once."""
from __future__ import annotations

WINDOW_POLICIES = ('fixed', 'fit', 'scale')
RESAMPLING_MODES = ('bicubic', 'bilinear', 'nearest', 'geometric')
# The names and layouts that a backbone's weights can be written in: keys of ``checkpoints.EXPORTS``.
CHECKPOINT_LAYOUTS = ('mmdet', 'timm', 'microsoft', 'hf', 'torchvision')
WEIGHTS_ENDINGS = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt')
EXPORT_ENDINGS = ('.onnx', '.pt2')
HALF_DTYPES = ('float16', 'bfloat16')
EVALUATORS = ('pycocotools', 'faster')
# Detections per image at which COCO's average recall is taken: MMDetection's. COCO's own are 1, 10, 100.
MAX_DETS = (100, 300, 1000)
AP_NAMES = ('box AP', 'mask AP')  # of the model index
LOG = 'log'  # the name of a training's own log among the sources of figures

# Of the studies in ``analysis/``: Swin's table 4 first, then Swin V2, then RoPE-ViT and CPVT.
ABLATED_SCHEMES = ('none', 'absolute', 'absolute+relative', 'relative_only', 'relative', 'linear_cpb', 'log_cpb',
                   'rope_axial', 'rope_mixed', 'peg', 'swin_v2')
ABLATION_RECIPES = ('demo', 'short')
STUDY_TRAININGS = ('window7', 'elastic', 'window7-ms', 'elastic-ms', 'mask')
BENCHMARK_MODELS = ('ours', 'mmdet', 'timm', 'hf', 'torchvision')
BENCHMARK_DETECTORS = ('ours', 'mmdet', 'fast')
BENCHMARK_VARIANTS = ('T', 'S', 'B', 'L', 'nano')
