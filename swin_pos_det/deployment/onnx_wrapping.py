"""Steps before and after an exported detector, in ONNX's text form: resizing of the image, pasting of masks.

They are nodes of their own because the size of the resized image depends on numbers that a traced graph does not have.
"""
from __future__ import annotations

from typing import Any, Dict, List

_HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'

# Half-pixel centres and no antialiasing, as cv2.resize; its fixed-point arithmetic differs by one level of 255 at most.
_RESIZE = '''
resize (uint8[h, w, 3] image) => (float[1, 3, H, W] net_image, int64[2] size, float[4] factor) {{
    shape = Shape(image)
    first = Constant<value_ints = [0, 1]>()
    size = Gather(shape, first)
    real_size = Cast<to = 11>(size)
    {new_size}
    batch = Constant<value_ints = [1, 3]>()
    sizes = Concat<axis = 0>(batch, new_size)
    float_image = Cast<to = 1>(image)
    planes = Transpose<perm = [2, 0, 1]>(float_image)
    zero = Constant<value_ints = [0]>()
    one_image = Unsqueeze(planes, zero)
    resized = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(one_image, , , sizes)
    net_image = Round(resized)
    real_new_size = Cast<to = 11>(new_size)
    real_factor = Div(real_new_size, real_size)
    box_order = Constant<value_ints = [1, 0, 1, 0]>()
    box_factor = Gather(real_factor, box_order)
    factor = Cast<to = 1>(box_factor)
}}'''
_KEEP_RATIO = '''longest = ReduceMax<keepdims = 1>(real_size)
    shortest = ReduceMin<keepdims = 1>(real_size)
    long_limit = Constant<value = double[1] {{ {long} }}>()
    short_limit = Constant<value = double[1] {{ {short} }}>()
    long_ratio = Div(long_limit, longest)
    short_ratio = Div(short_limit, shortest)
    ratio = Min(long_ratio, short_ratio)
    half = Constant<value = double[1] {{ 0.5 }}>()
    scaled = Mul(real_size, ratio)
    raised = Add(scaled, half)
    floored = Floor(raised)
    new_size = Cast<to = 7>(floored)'''
_FIXED_SIZE = 'new_size = Constant<value_ints = [{height}, {width}]>()'

_SIZE = '''
size (float[b, 3, h, w] image) => (int64[2] size) {
    image_shape = Shape(image)
    last = Constant<value_ints = [2, 3]>()
    size = Gather(image_shape, last)
}'''

_RESCALE = '''
rescale (float[d, 4] net_boxes, float[4] factor) => (float[d, 4] boxes) {
    boxes = Div(net_boxes, factor)
}'''

# Bilinear interpolation is separable: weights of the mask's rows and columns for each pixel, and two products.
_PASTE = '''
paste (float[d, 4] boxes, float[d, m, n] net_masks, int64[2] size) => (bool[d, H, W] masks) {{
    {rows}
    {columns}
    columns_last = Transpose<perm = [0, 2, 1]>(x_weights)
    tall = MatMul(y_weights, net_masks)
    pasted = MatMul(tall, columns_last)
    mask_threshold = Constant<value_float = {threshold}>()
    masks = GreaterOrEqual(pasted, mask_threshold)
}}'''
_WEIGHTS = '''{a}_axis = Constant<value_int = {axis}>()
    {a}_side = Gather(size, {a}_axis)
    {a}_zero = Constant<value_float = 0.0>()
    {a}_one = Constant<value_float = 1.0>()
    {a}_half = Constant<value_float = 0.5>()
    {a}_int_zero = Constant<value_int = 0>()
    {a}_int_one = Constant<value_int = 1>()
    {a}_int_starts = Range({a}_int_zero, {a}_side, {a}_int_one)
    {a}_starts = Cast<to = 1>({a}_int_starts)
    {a}_pixels = Add({a}_starts, {a}_half)
    {a}_low_at = Constant<value_ints = [{axis_of_box}]>()
    {a}_high_at = Constant<value_ints = [{end_of_box}]>()
    {a}_low = Gather<axis = 1>(boxes, {a}_low_at)
    {a}_high = Gather<axis = 1>(boxes, {a}_high_at)
    {a}_extent = Sub({a}_high, {a}_low)
    {a}_flat = LessOrEqual({a}_extent, {a}_zero)
    {a}_divisor = Where({a}_flat, {a}_one, {a}_extent)
    {a}_from = Sub({a}_pixels, {a}_low)
    {a}_share = Div({a}_from, {a}_divisor)
    {a}_middle_share = Where({a}_flat, {a}_half, {a}_share)
    {a}_samples = Shape<start = {mask_axis}, end = {mask_end}>(net_masks)
    {a}_float_samples = Cast<to = 1>({a}_samples)
    {a}_scaled = Mul({a}_middle_share, {a}_float_samples)
    {a}_place = Sub({a}_scaled, {a}_half)
    {a}_new_axis = Constant<value_ints = [2]>()
    {a}_column = Unsqueeze({a}_place, {a}_new_axis)
    {a}_count = Squeeze({a}_samples)
    {a}_int_numbers = Range({a}_int_zero, {a}_count, {a}_int_one)
    {a}_numbers = Cast<to = 1>({a}_int_numbers)
    {a}_difference = Sub({a}_column, {a}_numbers)
    {a}_distance = Abs({a}_difference)
    {a}_hat = Sub({a}_one, {a}_distance)
    {a}_positive = Relu({a}_hat)
    {a}_floor = Floor({a}_low)
    {a}_ceil = Ceil({a}_high)
    {a}_first = Sub({a}_floor, {a}_one)
    {a}_last = Add({a}_ceil, {a}_one)
    {a}_after = Greater({a}_pixels, {a}_first)
    {a}_before = Less({a}_pixels, {a}_last)
    {a}_inside = And({a}_after, {a}_before)
    {a}_inside_column = Unsqueeze({a}_inside, {a}_new_axis)
    {a}_weights = Where({a}_inside_column, {a}_positive, {a}_zero)'''


def resize_text(about: Dict[str, Any]) -> str:
    """Return the graph that resizes an image as the metadata of a detector say."""
    scale = about['test_scale']
    new_size = _KEEP_RATIO.format(long=float(max(scale)), short=float(min(scale))) if about['keep_ratio'] else (
        _FIXED_SIZE.format(height=scale[1], width=scale[0]))
    return _HEADER + _RESIZE.format(new_size=new_size)


def wrap(model: Any, about: Dict[str, Any], raw: bool, pasted: bool) -> Any:
    """Return a detector with further steps.

    Args:
        model: of :func:`~swin_pos_det.deployment.detector_export.to_onnx`; it is not changed.
        about: its metadata.
        raw: take one image (H, W, 3) uint8 and resize it; boxes and masks are in its own pixels.
        pasted: give masks of the size of the input image, (D, H, W) booleans, in place of probabilities.
    """
    import onnx
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    names = {'image': 'net_image', 'boxes': 'net_boxes'} if raw else {}
    _rename(wrapped.graph, dict(names, masks='net_masks') if pasted else names)
    before, after = [], []
    if raw:
        before.append(_parse(resize_text(about)))
        after.append(_parse(_HEADER + _RESCALE))
    elif pasted:
        before.append(_parse(_HEADER + _SIZE))
    if pasted:
        rows = _WEIGHTS.format(a='y', axis=0, axis_of_box=1, end_of_box=3, mask_axis=1, mask_end=2)
        columns = _WEIGHTS.format(a='x', axis=1, axis_of_box=0, end_of_box=2, mask_axis=2, mask_end=3)
        after.append(_parse(_HEADER + _PASTE.format(rows=rows, columns=columns, threshold=about['mask_threshold'])))
    nodes = [node for graph in before for node in graph.node] + list(wrapped.graph.node)
    nodes += [node for graph in after for node in graph.node]
    del wrapped.graph.node[:]
    wrapped.graph.node.extend(nodes)
    _replace(wrapped.graph.input, [value for graph in before[:raw] for value in graph.input])
    _replace(wrapped.graph.output, [value for graph in after for value in graph.output])
    return wrapped


def _parse(text: str) -> Any:
    import onnx
    return onnx.parser.parse_model(text).graph


def _replace(values: Any, new: List[Any]) -> None:
    """Replace those graph inputs or outputs that got another name by the new one of the old name."""
    for value in new:
        for old in values:
            if old.name == f'net_{value.name}':
                old.CopyFrom(value)


def _rename(graph: Any, names: Dict[str, str]) -> None:
    for node in graph.node:
        for list_of_names in (node.input, node.output):
            for index, name in enumerate(list_of_names):
                list_of_names[index] = names.get(name, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
