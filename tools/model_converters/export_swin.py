"""Writes a trained backbone for another library: ``convert_swin.py`` with a format to choose."""
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.abspath(__file__)))

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

import convert_swin


def get_parser():
    """The command line of ``convert_swin.py``, where ``--to`` has to be said."""
    parser = convert_swin.get_parser()
    parser.description = 'Write the backbone of a trained detector, or of any Swin checkpoint, for another library.'
    parser.epilog = ('Example: python tools/model_converters/export_swin.py work_dirs/demo/epoch_4.pth swin_timm.pth '
                     '--to timm')
    next(action for action in parser._actions if action.dest == 'to').required = True
    return parser


if __name__ == '__main__':
    sys.exit(convert_swin.run_cli(convert_swin.run, get_parser()))
