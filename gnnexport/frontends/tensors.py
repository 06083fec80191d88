"""Tensors rebuilt from a file's storages, with every size checked against what is really there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnnexport.frontends import vocabulary
from gnnexport.frontends.archive import Archive
from gnnexport.frontends.records import Call, Global, Pairs, StorageRef, Value
from gnnexport.frontends.refusal import broken, quoted, unsafe

MOST_DIMENSIONS = 16


class TensorRebuilder:
    """Rebuild the tensors of one archive; views of one storage stay views of one storage."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._path = archive.path
        self._storages: dict[str, Tensor] = {}

    def parameter(self, record: Call) -> torch.nn.Parameter:
        """Rebuild a parameter: (tensor, requires_grad, no hooks)."""
        match record.args:
            case (Call(function=Global(name=vocabulary.TENSOR)) as data, bool(requires_grad), hooks):
                self._require_no_hooks(hooks)
                tensor = self.tensor(data)
                if requires_grad and not tensor.is_floating_point():
                    raise unsafe(self._path, "asks for gradients of integers")
                return torch.nn.Parameter(tensor, requires_grad)
        raise unsafe(self._path, "holds a parameter that torch.save does not write")

    def tensor(self, record: Call) -> Tensor:
        """Rebuild a tensor: (storage, offset, sizes, strides, requires_grad, no hooks[, no metadata]).

        Raises:
            UnsafeFileError: hooks, or sizes that reach outside the storage.
            UsageError: the storage is truncated.
        """
        match record.args:
            case (StorageRef() as storage, int(offset), tuple(sizes), tuple(strides), bool(gradient), hooks, *rest):
                self._require_no_hooks(hooks)
                if rest not in ([], [None]) and not (isinstance(rest[0], Pairs) and not rest[0].items):
                    raise unsafe(self._path, "holds a tensor with metadata")
                flat = self._storage(storage)
                self._check_view(flat, offset, sizes, strides)
                tensor = flat.as_strided(sizes, strides, offset)
                return tensor.requires_grad_() if gradient and tensor.is_floating_point() else tensor
        raise unsafe(self._path, "holds a tensor that torch.save does not write")

    def _require_no_hooks(self, hooks: Value) -> None:
        empty = isinstance(hooks, Call) and hooks.function.name == "collections.OrderedDict"
        if not empty or hooks.args or hooks.items or hooks.state is not None:
            raise unsafe(self._path, "holds a tensor with hooks")

    def _check_view(self, flat: Tensor, offset: int, sizes: tuple[Value, ...], strides: tuple[Value, ...]) -> None:
        numbers = (offset, *sizes, *strides)
        plain = all(type(number) is int and 0 <= number < 2**62 for number in numbers)
        if not plain or len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
            raise unsafe(self._path, "holds a tensor with impossible sizes")
        numel = math.prod(sizes)
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if numel and last >= flat.numel():
            raise unsafe(self._path, "holds a tensor that reaches outside its storage")
        if numel > flat.numel():
            raise broken(self._path, "holds an expanded tensor", "Save a copy of it: tensor.clone()")

    def _storage(self, reference: StorageRef) -> Tensor:
        dtype = vocabulary.STORAGES.get(reference.kind)
        if dtype is None:
            raise unsafe(self._path, f"holds a storage of kind {quoted(reference.kind)}")
        if reference.key not in self._storages:
            self._storages[reference.key] = self._read(reference, dtype)
        storage = self._storages[reference.key]
        if storage.dtype is not dtype or storage.numel() != reference.numel:
            raise unsafe(self._path, f"reads storage {quoted(reference.key)} in two ways")
        return storage

    def _read(self, reference: StorageRef, dtype: torch.dtype) -> Tensor:
        size = self._archive.storage_size(reference.key)
        if size != reference.numel * dtype.itemsize:
            raise broken(self._path, f"storage {quoted(reference.key)} has {size} bytes, not what its tensors need")
        raw = torch.empty(size, dtype=torch.uint8)
        if size:
            self._archive.read_storage_into(reference.key, raw.numpy().data)
        return raw != 0 if dtype is torch.bool else raw.view(dtype)
