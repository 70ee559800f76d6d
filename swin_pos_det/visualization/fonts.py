"""A font that has the characters of the class names."""
from __future__ import annotations

import functools
import logging
import os
import re
from pathlib import Path
from typing import Iterable, Union

from PIL import ImageFont

from ..errors import MissingFileError, SettingError

FONT_VARIABLE = 'SWIN_POS_DET_FONT'

# Sans-serif families with Chinese, Japanese and Korean characters, as systems ship them; regular weights only.
_CJK = re.compile(r'noto ?sans ?(mono ?)?(cjk|sc|tc|hk|jp|kr)|source ?han ?sans|wqy|wenquanyi|droid ?sans ?fallback|'
                  r'pingfang|hiragino|msyh|simhei|msgothic|yugoth|meiryo|malgun|nanum ?gothic|unifont|arial ?unicode',
                  re.IGNORECASE)
_STYLED = re.compile(r'bold|italic|oblique|black|light|thin|condensed', re.IGNORECASE)


def find_font(texts: Iterable[str], font: Union[str, Path, None] = None) -> str:
    """Find a font file that has the characters of some texts.

    Matplotlib's DejaVu Sans serves Latin, Greek and Cyrillic; fonts of the system are searched when it lacks a
    character. If no font has all of them, a warning names ``--font`` and the environment variable.

    Args:
        texts: class names.
        font: path of the font to use. Default: the environment variable ``SWIN_POS_DET_FONT``, else a search.

    Returns:
        The path of a TrueType or OpenType font.

    Raises:
        MissingFileError: if ``font`` does not exist.
        SettingError: if ``font`` is not a font.
    """
    characters = frozenset(character for text in texts for character in text if not character.isspace())
    return _find_font(characters, str(font or os.environ.get(FONT_VARIABLE) or ''))


@functools.lru_cache(maxsize=256)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font at a size in pixels."""
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=32)
def _find_font(characters: frozenset[str], named: str) -> str:
    if named:
        _check_font(named)
        best = named
    else:
        best = _default_font()
    missing = characters - _characters_of(best)
    if missing and not named:
        for path in _system_fonts():
            still_missing = characters - _characters_of(path)
            if len(still_missing) < len(missing):
                best, missing = path, still_missing
            if not missing:
                break
    if missing:
        _warn(f'class names have {len(missing)} characters that {Path(best).name} lacks, such as '
              f'{min(missing)!r}: pictures show boxes instead. Name a font that has them with --font or the '
              f'environment variable {FONT_VARIABLE}')
    return best


def _warn(message: str) -> None:
    from mmengine.logging import print_log
    print_log(message, logger='current', level=logging.WARNING)


def _check_font(path: str) -> None:
    if not os.path.isfile(path):
        raise MissingFileError(f'font {path} does not exist')
    try:
        ImageFont.truetype(path, 12)
    except OSError as error:
        raise SettingError(f'{path} is not a TrueType or OpenType font ({error})') from error


def _default_font() -> str:
    import matplotlib
    return str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'))


def _system_fonts() -> list[str]:
    """Return font files of the system, those made for East Asian text first."""
    from matplotlib.font_manager import findSystemFonts
    return sorted(findSystemFonts(), key=lambda path: (
        not _CJK.search(Path(path).name), bool(_STYLED.search(Path(path).name)), path))


@functools.lru_cache(maxsize=512)
def _characters_of(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # bitmap fonts, damaged files
        return frozenset()
