"""Class names in any script are drawn with a font that has their characters."""
from __future__ import annotations

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from swin_pos_det.errors import MissingFileError, SettingError
from swin_pos_det.visualization import InstanceDrawer, find_font, fonts


def make_font(path, characters):
    """Return a font of which every glyph is a full square."""
    pen = TTGlyphPen(None)
    for step, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    names = ['.notdef', *(f'u{ord(character):04X}' for character in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): name for character, name in zip(characters, names[1:])})
    empty = TTGlyphPen(None).glyph()
    builder.setupGlyf({name: empty if name == '.notdef' else pen.glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable(dict(familyName='Squares', styleName='Regular'))
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.delenv(fonts.FONT_VARIABLE, raising=False)
    fonts._find_font.cache_clear()
    yield
    fonts._find_font.cache_clear()


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(fonts, '_warn', lines.append)
    return lines


def test_latin_needs_no_search(monkeypatch, said):
    monkeypatch.setattr(fonts, '_system_fonts', lambda: pytest.fail('searched'))
    assert find_font(['cat', 'Löwe', 'кот']).endswith('DejaVuSans.ttf')
    assert said == []


def test_a_font_of_the_system_is_found(tmp_path, monkeypatch, said):
    some, every = make_font(tmp_path / 'some.ttf', '猫'), make_font(tmp_path / 'every.ttf', '猫犬개ねこ cat')
    (tmp_path / 'broken.ttf').write_text('no font')
    monkeypatch.setattr(fonts, '_system_fonts', lambda: [str(tmp_path / 'broken.ttf'), some, every])
    assert find_font(['猫', '犬 cat', '개', 'ねこ']) == every
    assert find_font(['猫']) == some
    assert said == []
    grey = np.full((100, 200, 3), 128, np.uint8)
    drawn = InstanceDrawer(['猫'], [(0, 0, 0)]).draw(grey, [0], boxes=[[50, 50, 150, 90]])
    assert (drawn[30:50] == 255).all(2).sum() > 80, 'the glyph, which is a full square, is on the picture'


def test_fonts_made_for_east_asia_are_tried_first(monkeypatch):
    files = ['/f/Zebra.ttf', '/f/NotoSansCJK-Bold.ttc', '/f/NotoSansCJK-Regular.ttc', '/f/wqy-zenhei.ttc']
    monkeypatch.setattr('matplotlib.font_manager.findSystemFonts', lambda: files)
    assert fonts._system_fonts() == ['/f/NotoSansCJK-Regular.ttc', '/f/wqy-zenhei.ttc', '/f/NotoSansCJK-Bold.ttc',
                                     '/f/Zebra.ttf']


def test_one_line_where_no_font_has_them(monkeypatch, said):
    monkeypatch.setattr(fonts, '_system_fonts', list)
    for _ in range(2):
        find_font(['猫', '犬'])
    assert len(said) == 1, 'said once'
    assert "2 characters that DejaVuSans.ttf lacks, such as '犬'" in said[0] and '--font' in said[0]


def test_a_font_of_ones_own(tmp_path, monkeypatch, said):
    own = make_font(tmp_path / 'own.ttf', '猫')
    assert find_font(['猫'], own) == own
    monkeypatch.setenv(fonts.FONT_VARIABLE, own)
    assert find_font(['猫']) == own
    assert said == []
    assert find_font(['犬']) == own, 'what was asked for is used'
    assert 'own.ttf lacks' in said[0]
    with pytest.raises(MissingFileError, match='font nowhere.ttf does not exist'):
        find_font(['cat'], 'nowhere.ttf')
    (tmp_path / 'text.ttf').write_text('no font')
    with pytest.raises(SettingError, match='text.ttf is not a TrueType or OpenType font'):
        find_font(['cat'], tmp_path / 'text.ttf')
