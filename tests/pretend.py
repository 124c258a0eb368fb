"""A GPU that is not there: tensors of the CPU that say they are on one, and errors where torch would have them.

Every storage is marked or not. What is asked of torch with `device="cuda"` is computed on the CPU and marked. An operation on
marked and unmarked tensors together raises what torch raises. No kernel of a GPU is tried by this, and no rounding of one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
BETWEEN = ("aten::_to_copy", "aten::copy_")  # from one device to another
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # whose indices may be on the CPU
STRICT = ("aten::cat", "aten::stack", "aten::gather", "aten::index_select", "aten::mm", "aten::bmm")  # no numbers of the CPU


class Marks:
    """Which storages are on the GPU."""

    def __init__(self) -> None:
        self.marked: dict[int, StorageWeakRef] = {}  # as long as it is held, no other storage has the address
        self.inherited = False  # what C++ makes inside a call on tensors of the GPU is there, too

    def has(self, tensor: Tensor) -> bool:
        return _storage(tensor)._cdata in self.marked

    def put(self, value: Any, there: bool) -> None:
        for tensor in _tensors(value):
            storage = _storage(tensor)
            if there:
                self.marked[storage._cdata] = StorageWeakRef(storage)
            else:
                self.marked.pop(storage._cdata, None)


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Checked(TorchDispatchMode):
    """What is computed of marked tensors is marked, and nothing is of both kinds."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, op._schema.name
        given = _tensors((args, kwargs))
        there = any(map(self.marks.has, given)) if given else self.marks.inherited
        if there and name not in BETWEEN:
            for tensor in _tensors([args[0], *args[2:]] if name in INDEXED else (args, kwargs)):
                if not self.marks.has(tensor) and (tensor.ndim or name in STRICT):
                    raise RuntimeError(f"Expected all tensors to be on the same device, {name} got cuda:0 and cpu")
        before = {_storage(tensor)._cdata for tensor in given}
        found = op(*args, **kwargs)
        self.marks.put([tensor for tensor in _tensors(found) if _storage(tensor)._cdata not in before], there)
        return found


def _device(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda") else None


class Asked(TorchFunctionMode):
    """Calls that name a device."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.is_cpu.__get__):
            there = self.marks.has(args[0])
            return {Tensor.device.__get__: GPU if there else CPU, Tensor.is_cuda.__get__: there}.get(func, not there)
        if func in (Tensor.numpy, Tensor.__array__) and self.marks.has(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is Tensor.cuda:
            return self.moved(args[0], GPU, args[0].clone())
        if func is Tensor.cpu:
            return self.moved(args[0], CPU, args[0])
        if func is Tensor.to:
            return self.to(*args, **kwargs)
        asked = _device(kwargs.pop("device", None))
        if asked:
            kwargs["device"] = CPU
        given = _tensors((args, kwargs))
        there = asked.type == "cuda" if asked else any(map(self.marks.has, given))
        if there and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return self.called(func, args, kwargs, asked, there)

    def called(self, func: Any, args: Any, kwargs: Any, asked: torch.device | None, there: bool) -> Any:
        before, self.marks.inherited = self.marks.inherited, there
        try:
            found = func(*args, **kwargs)
        finally:
            self.marks.inherited = before
        if asked or func in (torch.from_numpy, torch.tensor, torch.frombuffer):
            self.marks.put(found, there if asked else False)
        return found

    def to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        likes = [value for value in values if isinstance(value, Tensor)]
        named = [device for device in map(_device, values) if device]
        asked = named[0] if named else GPU if likes and self.marks.has(likes[0]) else CPU if likes else None
        dtypes = [value for value in values if isinstance(value, torch.dtype)] + [like.dtype for like in likes]
        found = Tensor.to(tensor, dtypes[0]) if dtypes else tensor
        return self.moved(tensor, asked, found) if asked else found

    def moved(self, tensor: Tensor, asked: torch.device, found: Tensor) -> Tensor:
        if self.marks.has(tensor) == (asked.type == "cuda"):
            return found
        found = found.clone()
        self.marks.put(found, asked.type == "cuda")
        return found


FREE = 2**34


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A block in which this machine has a GPU, as far as torch's Python can tell."""
    for name, value in {
        "is_available": True,
        "synchronize": None,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "max_memory_allocated": 2**20,
        "mem_get_info": (FREE, FREE),
        "get_device_name": "a GPU that is not there",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_args, value=value: value)

    @contextmanager
    def block() -> Iterator[None]:
        marks = Marks()
        with Asked(marks), Checked(marks):
            yield

    return block
