"""What a position scheme is, and the registry that it is found in.

A scheme is a small frozen dataclass of settings and a few functions; it holds no tensors. Its parameters live on the
modules that use them, under the names of the original code, so that copying, moving, averaging and distributing a
model needs nothing special, and other people's checkpoints load.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Type, Union

from torch import Tensor, nn

from ...errors import SettingError, SettingTypeError

Pair = Tuple[int, int]
Draw = Callable[[Tensor], Any]
PositionSetting = Union[str, Mapping[str, Any], 'PositionScheme', Sequence[Any]]

POSITIONS: Dict[str, Type[PositionScheme]] = {}


class Host(Protocol):
    """What a scheme may know about the attention module that it serves, an ``nn.Module``.

    Attributes:
        num_heads: heads.
        head_dims: channels of a head.
        table_window_size: the window (h, w) that position parameters are learned for; None if it was not said, which
            can only be with schemes that do not use it.
        resampling: how a table is resampled, see :func:`~swin_pos_det.layers.resample_table`.
    """

    num_heads: int
    head_dims: int
    table_window_size: Optional[Pair]
    resampling: str


@dataclass(frozen=True)
class PositionScheme:
    """A way to tell attention where tokens are. This one tells nothing; subclasses override what they need.

    The attention within a window is ``softmax(q' k'^T * scale + bias + mask) v`` with ``(q', k') = rotate(q, k)``.
    Functions are called with the module that holds the parameters. They must not keep state or tensors, and must be
    differentiable with respect to these parameters and free of Python branches on values of tensors.

    To add a scheme, subclass this in your own package, register it, and import it with ``custom_imports``:

    .. code-block:: python

        @register_position('distance')
        @dataclass(frozen=True)
        class Distance(PositionScheme):
            '''The farther, the less: a learned slope per head.'''

            start: float = 0.1
            parameters = ('slope', )

            def build(self, host):
                host.slope = nn.Parameter(torch.full((host.num_heads, 1), self.start))

            def bias(self, host, window):
                rows = torch.arange(1 - window[0], window[0], device=host.slope.device)
                cols = torch.arange(1 - window[1], window[1], device=host.slope.device)
                distances = torch.hypot(rows[:, None].float(), cols[None, :].float()).flatten()
                return gather_bias((-host.slope * distances).t(), window)

    and set ``position='distance'``, or ``position=dict(type='distance', start=0.2)``.

    Attributes:
        name: what it is registered as.
        parameters: names of its parameters and submodules, on whichever module they are.
        no_decay: those of them that should have no weight decay. Default: all.
        uses: the backbone's settings that it depends on: ``'table_window_size'`` if its parameters are learned for a
            window, ``'resampling'`` if they are resampled for others.
        absolute: whether the backbone adds its absolute position embedding.
        appearance: whether logits depend on queries and keys.
        conditional: whether :meth:`encode` adds something to the tokens of a stage.
    """

    name: ClassVar[str] = ''
    parameters: ClassVar[Tuple[str, ...]] = ()
    no_decay: ClassVar[Optional[Tuple[str, ...]]] = None
    uses: ClassVar[Tuple[str, ...]] = ()
    absolute: ClassVar[bool] = False
    appearance: ClassVar[bool] = True
    conditional: ClassVar[bool] = False

    @property
    def turns(self) -> bool:
        """Whether queries and keys are turned, so that they depend on where in a window they are."""
        return type(self).rotate is not PositionScheme.rotate

    def build(self, host: nn.Module) -> None:
        """Make the parameters of an attention module, see :class:`Host`, and set them on it.

        Raises:
            ValueError: if the module's shape does not suit the scheme.
        """

    def draw(self, host: nn.Module, normal: Draw) -> None:
        """Draw initial values for an attention module's parameters, for a training from scratch.

        Args:
            host: the attention module. Its linear layers are drawn by the backbone, after this.
            normal: fills a parameter from the truncated normal distribution of std 0.02 that Swin draws from.
        """

    def bias(self, host: nn.Module, window: Pair) -> Optional[Tensor]:
        """What is added to the logits in windows of ``window`` = (h, w) tokens.

        Returns:
            (num_heads, N, N) floating point with ``N = h * w`` in row-major order, entry [head, query, key]; None for
            nothing.
        """
        return None

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        """Queries and keys with position worked into them.

        Args:
            host: the attention module.
            q: (nW, heads, N, head_dims).
            k: the same.
            window: (h, w) in tokens, row-major in N.

        Returns:
            Both, of the same shapes and dtypes.
        """
        return q, k

    def refit(self, name: str, value: Tensor, source: Optional[Pair], target: Optional[Pair], mode: str) -> Tensor:
        """A parameter from a checkpoint, made to fit a module that learns for another window: the resampling rule.

        Args:
            name: on the attention module, such as ``'relative_position_bias_table'`` or ``'cpb_mlp.0.weight'``.
            value: from the checkpoint.
            source: the window (h, w) that it was learned for; None if that is not known.
            target: the module's ``table_window_size``.
            mode: the module's ``resampling``.

        Returns:
            What the module can load; ``value`` itself where nothing is to be done.

        Raises:
            ValueError: if it cannot serve the module.
        """
        return value

    def build_stage(self, stage: nn.Module, dims: int) -> None:
        """Make the parameters of a stage with ``dims`` channels, and set them on it."""

    def encode(self, stage: nn.Module, maps: Tensor) -> Tensor:
        """What is added to a stage's tokens after its first block, with :attr:`conditional`: (B, C, H, W) each."""
        raise NotImplementedError

    @property
    def schemes(self) -> Tuple[PositionScheme, ...]:
        """The schemes that it consists of: itself."""
        return (self, )


def register_position(name: str) -> Callable[[Type[PositionScheme]], Type[PositionScheme]]:
    """A decorator that makes a scheme available as ``position=name``.

    Raises:
        ValueError: if the name is taken by another class, or holds a '+', which joins schemes.
        TypeError: if the class is no :class:`PositionScheme`.
    """
    def register(cls: Type[PositionScheme]) -> Type[PositionScheme]:
        if not (isinstance(cls, type) and issubclass(cls, PositionScheme)):
            raise SettingTypeError(f'a position scheme must be a subclass of PositionScheme, got {cls!r}')
        taken = POSITIONS.get(name)
        # The same class again is a module that is reloaded.
        if '+' in name or (taken is not None and taken.__qualname__ != cls.__qualname__):
            raise SettingError(f'{name!r} cannot name a position scheme: ' + (
                "'+' joins schemes" if '+' in name else f'it is the name of {taken.__name__}'))
        cls.name = name
        POSITIONS[name] = cls
        return cls
    return register


def build_position(setting: PositionSetting) -> PositionScheme:
    """Make a scheme from a setting.

    Args:
        setting: a registered name such as ``'relative'``; ``dict(type=name, **settings)``; names joined by ``'+'``
            or a list of these, whose biases add up and whose rotations follow each other; or a scheme.

    Raises:
        ValueError: for a name that is not registered (those that are, are listed), unknown or impossible settings, or
            schemes that cannot be joined.
        TypeError: if it is none of these.
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
        ValueError: if a parameter would be two schemes', or a scheme without the appearance term is to meet one that
            acts on queries and keys.
    """

    parts: Tuple[PositionScheme, ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        taken: List[str] = []
        for part in self.parts:
            if part.name in taken or set(part.parameters) & set(self._parameters_of(taken)):
                raise SettingError(f'position schemes {" and ".join(names)} cannot be joined: they would share their '
                                   'parameters')
            taken.append(part.name)
        rotating = [part.name for part in self.parts if type(part).rotate is not PositionScheme.rotate
                    and part.appearance]
        if rotating and not self.appearance:
            raise SettingError(f'{rotating[0]!r} acts on queries and keys, which have no effect without the appearance '
                               f'term: {" and ".join(names)} cannot be joined')

    def _parameters_of(self, names: Sequence[str]) -> List[str]:
        return [parameter for part in self.parts if part.name in names for parameter in part.parameters]

    @property
    def schemes(self) -> Tuple[PositionScheme, ...]:
        """The schemes that are joined."""
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

    def draw(self, host: nn.Module, normal: Draw) -> None:
        for part in self.parts:
            part.draw(host, normal)

    def bias(self, host: nn.Module, window: Pair) -> Optional[Tensor]:
        total = None
        for part in self.parts:
            bias = part.bias(host, window)
            if bias is not None:
                total = bias if total is None else total + bias
        return total

    @property
    def turns(self) -> bool:
        return any(part.turns for part in self.parts)

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        for part in self.parts:
            q, k = part.rotate(host, q, k, window)
        return q, k

    def refit(self, name: str, value: Tensor, source: Optional[Pair], target: Optional[Pair], mode: str) -> Tensor:
        owner = next(part for part in self.parts if name.split('.')[0] in part.parameters)
        return owner.refit(name, value, source, target, mode)

    def build_stage(self, stage: nn.Module, dims: int) -> None:
        for part in self.parts:
            part.build_stage(stage, dims)

    def encode(self, stage: nn.Module, maps: Tensor) -> Tensor:
        return sum(part.encode(stage, maps) for part in self.parts if part.conditional)


def parameters_of_position() -> Tuple[str, ...]:
    """Names of parameters and submodules of every registered scheme that are on a stage or its attention modules."""
    return tuple(sorted({name for cls in POSITIONS.values() for name in cls.parameters}))


def without_weight_decay() -> Tuple[str, ...]:
    """Names, between the dots of parameters' names, that should have no weight decay, as in the authors' codes.

    Those of every registered scheme, and the scale of cosine attention.
    """
    return tuple(sorted({'logit_scale', *(name for cls in POSITIONS.values() for name in (
        cls.parameters if cls.no_decay is None else cls.no_decay))}))
