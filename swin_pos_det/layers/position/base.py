"""The interface of position schemes, and their registry.

A scheme is a small frozen dataclass of settings and a few functions; it holds no tensors. Its parameters live on the
modules that use them, under the names of the original code, so that copying, moving, averaging and distributing a
model work as usual, and checkpoints of other libraries load.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Type, Union

from torch import Tensor, nn

from ...errors import SettingError, SettingTypeError
from ...ops.position_bias import PositionBias
from ...ops.windows import Pair

Normal = Callable[[Tensor], Any]
PositionSetting = Union[str, Mapping[str, Any], 'PositionScheme', Sequence[Any]]

POSITIONS: Dict[str, Type[PositionScheme]] = {}


class Host(Protocol):
    """The attention module that a scheme serves, an ``nn.Module``.

    Attributes:
        num_heads: heads.
        head_dims: channels of a head.
        table_window_size: the window (h, w) that position parameters are learned for; None is possible only for schemes
            that do not use it.
        resampling: how a table is resampled, see :func:`~swin_pos_det.layers.resample_table`.
    """

    num_heads: int
    head_dims: int
    table_window_size: Optional[Pair]
    resampling: str


@dataclass(frozen=True)
class PositionScheme:
    """A way to add position to attention. This one adds nothing; subclasses override what they need.

    The attention within a window is ``softmax(q' k'^T * scale + bias + mask) v`` with ``(q', k') = rotate(q, k)``.
    Functions are called with the module that holds the parameters. They must not keep state or tensors, and must be
    differentiable with respect to these parameters and free of Python branches on values of tensors.

    To add a scheme, subclass this in your own package, register it, and import it with ``custom_imports``:

    .. code-block:: python

        @register_position('distance')
        @dataclass(frozen=True)
        class Distance(PositionScheme):
            '''Less attention at larger distances, with a learned slope per head.'''

            start: float = 0.1
            parameters = ('slope', )

            def build(self, host):
                host.slope = nn.Parameter(torch.full((host.num_heads, 1), self.start))

            def table(self, host, window):
                rows = torch.arange(1 - window[0], window[0], device=host.slope.device)
                cols = torch.arange(1 - window[1], window[1], device=host.slope.device)
                distances = torch.hypot(rows[:, None].float(), cols[None, :].float()).flatten()
                return (-host.slope * distances).t()

    and set ``position='distance'``, or ``position=dict(type='distance', start=0.2)``.

    Attributes:
        name: the name that it is registered under.
        parameters: names of its parameters and submodules, on any module.
        no_decay: the names of those without weight decay. Default: all.
        heads_axis: maps the name, in the state dict, of a parameter of attention with an entry for each head to its
            number of dimensions and the axis of the heads, from which a checkpoint's number of heads is read.
        uses: the backbone's settings that it depends on: ``'table_window_size'`` if its parameters are learned for a
            window, ``'resampling'`` if they are resampled for others.
        absolute: whether the backbone adds its absolute position embedding.
        appearance: whether logits depend on queries and keys.
        conditional: whether :meth:`encode` adds something to the tokens of a stage, which depends on them.
    """

    name: ClassVar[str] = ''
    parameters: ClassVar[Tuple[str, ...]] = ()
    no_decay: ClassVar[Optional[Tuple[str, ...]]] = None
    heads_axis: ClassVar[Mapping[str, Tuple[int, int]]] = {}
    uses: ClassVar[Tuple[str, ...]] = ()
    absolute: ClassVar[bool] = False
    appearance: ClassVar[bool] = True
    conditional: ClassVar[bool] = False

    @property
    def turns(self) -> bool:
        """Return whether the scheme rotates queries and keys by their place in the window."""
        return type(self).rotate is not PositionScheme.rotate

    def build(self, host: nn.Module) -> None:
        """Make the parameters of an attention module, see :class:`Host`, and set them on it.

        Raises:
            ValueError: if the module's shape does not suit the scheme.
        """

    def reset_parameters(self, host: nn.Module, normal: Normal) -> None:
        """Draw initial values for an attention module's parameters, for training from scratch.

        Args:
            host: the attention module. The backbone initializes its linear layers, after this.
            normal: fills a parameter from the truncated normal distribution of std 0.02 that Swin draws from.
        """

    def table(self, host: nn.Module, window: Pair) -> Optional[Tensor]:
        """Return the bias of each offset between two tokens, in windows of ``window`` = (h, w) tokens.

        Returns:
            ((2 h - 1) * (2 w - 1), num_heads) floating point, offsets ``query - key`` from negative to positive, down
            and across, row-major; None for nothing.
        """
        return None

    def bias(self, host: nn.Module, window: Pair) -> Optional[Tensor]:
        """Return the bias of each pair of tokens, for schemes whose bias does not depend on offsets only.

        Returns:
            (num_heads, N, N) floating point with ``N = h * w`` in row-major order, entry [head, query, key]; None for
            nothing, or if there is a :meth:`table`.
        """
        return None

    def window_bias(self, host: nn.Module, window: Pair) -> Optional[PositionBias]:
        """Return the scheme's :meth:`table`, or else its :meth:`bias`, for attention."""
        table = self.table(host, window)
        pairs = self.bias(host, window) if table is None else None
        return None if table is None and pairs is None else PositionBias(window, table, pairs)

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        """Rotate queries and keys by their places in the window.

        Args:
            host: the attention module.
            q: (nW, heads, N, head_dims).
            k: the same.
            window: (h, w) in tokens, row-major in N.

        Returns:
            Both, of the same shapes and dtypes.
        """
        return q, k

    def convert(self, name: str, value: Tensor, source: Optional[Pair], target: Optional[Pair], mode: str) -> Tensor:
        """Convert a parameter from a checkpoint for a module with another ``table_window_size``.

        Args:
            name: on the attention module, such as ``'relative_position_bias_table'`` or ``'cpb_mlp.0.weight'``.
            value: from the checkpoint.
            source: the window (h, w) that it was learned for; None if unknown.
            target: the module's ``table_window_size``.
            mode: the module's ``resampling``.

        Returns:
            A value that the module can load; ``value`` itself if it needs no conversion.

        Raises:
            ValueError: if no conversion exists.
        """
        return value

    def build_stage(self, stage: nn.Module, dims: int) -> None:
        """Make the parameters of a stage with ``dims`` channels, and set them on it."""

    def encode(self, stage: nn.Module, maps: Tensor) -> Tensor:
        """Return the map to add to a stage's tokens after its first block, if :attr:`conditional`: (B, C, H, W)."""
        raise NotImplementedError

    @property
    def schemes(self) -> Tuple[PositionScheme, ...]:
        """Return the schemes that are joined; for one that is not :class:`Combined`, itself."""
        return (self, )


def register_position(name: str) -> Callable[[Type[PositionScheme]], Type[PositionScheme]]:
    """Return a decorator that makes a scheme available as ``position=name``.

    Raises:
        ValueError: if the name is taken by another class, or contains a '+', which joins schemes.
        TypeError: if the class is not a :class:`PositionScheme`.
    """
    def register(cls: Type[PositionScheme]) -> Type[PositionScheme]:
        if not (isinstance(cls, type) and issubclass(cls, PositionScheme)):
            raise SettingTypeError(f'a position scheme must be a subclass of PositionScheme, got {cls!r}')
        taken = POSITIONS.get(name)
        # The same class again: its module was reloaded.
        if '+' in name or (taken is not None and taken.__qualname__ != cls.__qualname__):
            raise SettingError(f'{name!r} is not allowed as the name of a position scheme: ' + (
                "'+' joins schemes" if '+' in name else f'it is the name of {taken.__name__}'))
        cls.name = name
        POSITIONS[name] = cls
        return cls
    return register


def build_position(setting: PositionSetting) -> PositionScheme:
    """Make a scheme from a setting.

    Args:
        setting: a registered name such as ``'relative'``; ``dict(type=name, **settings)``; names joined by ``'+'``
            or a list of these, with biases added and rotations applied in order; or a scheme.

    Raises:
        SettingError: for a name that is not registered (the message lists the registered ones), invalid settings, or
            schemes that exclude each other.
        TypeError: if the setting has another type.
    """
    if isinstance(setting, PositionScheme):
        return setting
    if isinstance(setting, str):
        names = setting.split('+')
        return _build_one(setting, {}) if len(names) == 1 else Combined(tuple(_build_one(name, {}) for name in names))
    if isinstance(setting, Mapping):
        settings = dict(setting)
        name = settings.pop('type', None)
        if isinstance(name, str):
            return _build_one(name, settings)
    elif isinstance(setting, Sequence) and setting:
        return Combined(tuple(scheme for part in setting for scheme in build_position(part).schemes))
    raise SettingTypeError("position takes a name such as 'relative', dict(type=name, ...), or a list of these, "
                           f'got {setting!r}')


def _build_one(name: str, settings: Mapping[str, Any]) -> PositionScheme:
    if name not in POSITIONS:
        raise SettingError(f'position must be one of {sorted(POSITIONS)}, or several joined by +, got {name!r}')
    cls = POSITIONS[name]
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        takes = ', '.join(known) if known else 'no settings'
        raise SettingError(f'position {name!r} takes {takes}, got {", ".join(unknown)}')
    return cls(**settings)


@dataclass(frozen=True)
class Combined(PositionScheme):
    """Several schemes at once, in order.

    Raises:
        SettingError: if two schemes share a parameter, or a scheme without the appearance term is joined with one that
            acts on queries and keys.
    """

    parts: Tuple[PositionScheme, ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        taken: List[str] = []
        for part in self.parts:
            if part.name in taken or set(part.parameters) & set(self._parameters_of(taken)):
                raise SettingError(f'{" and ".join(names)} do not combine: these position schemes would share '
                                   'parameters')
            taken.append(part.name)
        rotating = [part.name for part in self.parts if part.turns]
        if rotating and not self.appearance:
            raise SettingError(f'{rotating[0]!r} acts on queries and keys, which have no effect without the appearance '
                               f'term: {" and ".join(names)} do not combine')

    def _parameters_of(self, names: Sequence[str]) -> List[str]:
        return [parameter for part in self.parts if part.name in names for parameter in part.parameters]

    @property
    def schemes(self) -> Tuple[PositionScheme, ...]:
        """Return the schemes that are joined; for one that is not :class:`Combined`, itself."""
        return self.parts

    name = property(lambda self: '+'.join(part.name for part in self.parts))
    parameters = property(lambda self: tuple(name for part in self.parts for name in part.parameters))
    uses = property(lambda self: tuple({name: None for part in self.parts for name in part.uses}))
    absolute = property(lambda self: any(part.absolute for part in self.parts))
    appearance = property(lambda self: all(part.appearance for part in self.parts))
    conditional = property(lambda self: any(part.conditional for part in self.parts))

    def build(self, host: nn.Module) -> None:
        for part in self.parts:
            part.build(host)

    def reset_parameters(self, host: nn.Module, normal: Normal) -> None:
        for part in self.parts:
            part.reset_parameters(host, normal)

    def window_bias(self, host: nn.Module, window: Pair) -> Optional[PositionBias]:
        biases = [bias for bias in (part.window_bias(host, window) for part in self.parts) if bias is not None]
        return sum(biases[1:], biases[0]) if biases else None

    @property
    def turns(self) -> bool:
        return any(part.turns for part in self.parts)

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        for part in self.parts:
            q, k = part.rotate(host, q, k, window)
        return q, k

    def convert(self, name: str, value: Tensor, source: Optional[Pair], target: Optional[Pair], mode: str) -> Tensor:
        owner = next(part for part in self.parts if name.split('.')[0] in part.parameters)
        return owner.convert(name, value, source, target, mode)

    def build_stage(self, stage: nn.Module, dims: int) -> None:
        for part in self.parts:
            part.build_stage(stage, dims)

    def encode(self, stage: nn.Module, maps: Tensor) -> Tensor:
        return sum(part.encode(stage, maps) for part in self.parts if part.conditional)


def parameters_of_position() -> Tuple[str, ...]:
    """Return the names of all parameters and submodules that registered schemes have on stages or attention."""
    return tuple(sorted({name for cls in POSITIONS.values() for name in cls.parameters}))


def axes_of_heads() -> Dict[str, Tuple[int, int]]:
    """Return the ``heads_axis`` of every registered scheme."""
    return {name: axis for cls in POSITIONS.values() for name, axis in cls.heads_axis.items()}


def without_weight_decay() -> Tuple[str, ...]:
    """Return the parts of parameter names without weight decay, as in the authors' code.

    They are those of every registered scheme, and the scale of cosine attention.
    """
    return tuple(sorted({'logit_scale', *(name for cls in POSITIONS.values() for name in (
        cls.parameters if cls.no_decay is None else cls.no_decay))}))
