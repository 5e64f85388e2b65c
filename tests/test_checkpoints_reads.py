"""The byte ranges of each device, from headers alone: every byte once a replica, and those that a load really reads."""

import json
import math

import jax
import numpy as np
import pytest

from msm_jax.checkpoints import huggingface, reads, safetensors
from msm_jax.errors import InputError
from msm_jax.models import families, parameters, presets, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import sharding
from msm_jax.parallel.mesh import AXES, MeshConfig, make_mesh

TINY = ModelConfig(96, 32, 2, 4, 2, 8, 48, qk_norm=True, tie_embeddings=False)


def write_sparse(directory, model, shards, dtype="BF16"):
    """A checkpoint of the model's exact shapes that takes no space: headers, and holes where the weights would be."""
    config = families.to_config(model) | {"torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    named = list(families.tensors(model).items())
    size = safetensors.DTYPES[dtype].itemsize
    total = sum(math.prod(weight.hf_shape) for _, (weight, _) in named) * size
    placed, files = {}, [{}]
    for name, (weight, _) in named:
        if sum(end for _, end in (e["data_offsets"] for e in files[-1].values())) and (
            max(e["data_offsets"][1] for e in files[-1].values()) > total / shards
        ):
            files.append({})
        start = max((e["data_offsets"][1] for e in files[-1].values()), default=0)
        end = start + math.prod(weight.hf_shape) * size
        files[-1][name] = {"dtype": dtype, "shape": list(weight.hf_shape), "data_offsets": [start, end]}
        placed[name] = f"model-{len(files):05d}.safetensors"
    for number, header in enumerate(files, 1):
        text = json.dumps(header).encode()
        with open(directory / f"model-{number:05d}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(e["data_offsets"][1] for e in header.values()))
    (directory / safetensors.INDEX_FILE).write_text(json.dumps({"weight_map": placed}))


def rectangle(each):
    """First and last row, first and last byte of a row."""
    width = each.tensor.shape[-1] * each.tensor.dtype.itemsize
    row, column = divmod(each.offset - each.tensor.offset, width)
    if each.count == 1 and each.length >= width:
        return row, row + each.length // width, 0, width
    return row, row + each.count, column, column + each.length


def times_read(ranges, tensor):
    """How often each byte is read, on the grid that the ranges' edges make."""
    boxes = np.array([rectangle(each) for each in ranges])
    rows, columns = np.unique(boxes[:, :2]), np.unique(boxes[:, 2:])
    grid = np.zeros((len(rows) - 1, len(columns) - 1), int)
    for r0, r1, c0, c1 in boxes:
        grid[slice(*np.searchsorted(rows, (r0, r1))), slice(*np.searchsorted(columns, (c0, c1)))] += 1
    assert (rows[-1] - rows[0]) * (columns[-1] - columns[0]) == tensor.nbytes, "the ranges reach from end to end"
    return grid


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=64), MeshConfig(fsdp=8, tensor=8), MeshConfig(data=2, fsdp=32)])
def test_qwen3_32b_on_64_devices(mesh, tmp_path):
    model = presets.PRESETS["qwen3-32b"]
    write_sparse(tmp_path, model, shards=17)
    source = huggingface.Directory(tmp_path)
    assert len(source.files) == 17
    tensors = safetensors.read_directory(tmp_path)
    assert sum(tensor.nbytes for tensor in tensors.values()) == 2 * 32_762_123_264
    found = reads.plan(tensors, source.model, mesh)
    assert len(found) == 64
    by_tensor = {}
    for each in found.values():
        for ranges in each.ranges:
            by_tensor.setdefault(ranges.tensor.name, []).append(ranges)
    assert by_tensor.keys() == tensors.keys()
    for name, (weight, _) in families.tensors(source.model).items():
        axes = weight.parameter.full_axes
        partition = [entry for entry in sharding.spec(axes) if entry]
        ways = math.prod(getattr(mesh, entry) for entry in partition)
        assert (times_read(by_tensor[name], tensors[name]) == 64 // ways).all(), name
    most = max(each.largest_buffer for each in found.values())
    stacked = max(2 * math.prod(weight.full_shape) for weight in families.weights(source.model))
    print(f"{mesh}: {max(each.nbytes for each in found.values()) / 1e9:.2f} GB a device, largest buffer "
          f"{most / 1e6:.0f} MB, largest parameter {stacked / 1e9:.1f} GB")  # fmt: skip
    assert stacked > 16.7e9
    assert most < 0.6e9


def test_ranges_are_what_a_device_holds(tmp_path):
    """Byte for byte, on a model small enough to have every byte of it its own value."""
    write_sparse(tmp_path, TINY, shards=2, dtype="F32")
    rng = np.random.default_rng(0)
    for file in tmp_path.glob("*.safetensors"):
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        content = rng.normal(size=(file.stat().st_size - header) // 4).astype(np.float32)
        file.write_bytes(file.read_bytes()[:header] + content.tobytes())
    source = huggingface.Directory(tmp_path)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    devices = make_mesh(mesh)
    abstract = transformer.abstract_params(source.model)
    shardings = sharding.tree_shardings(devices, transformer.logical_axes(abstract), abstract)
    target = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
    params = huggingface.load(source, target)
    found = reads.plan(safetensors.read_directory(tmp_path), source.model, mesh)
    for position, each in found.items():
        device = devices.devices[position]
        held = sorted(
            float(x)
            for leaf in jax.tree.leaves(params)
            for shard in leaf.addressable_shards
            if shard.device == device
            for x in np.asarray(shard.data).reshape(-1)
        )
        read = b"".join(
            ranges.tensor.file.read_bytes()[begin:end] for ranges in each.ranges for begin, end in ranges
        )
        assert sorted(np.frombuffer(read, np.float32).tolist()) == held
        shards = [shard for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
        largest = max(shard.data.nbytes for shard in shards if shard.device == device)
        assert each.largest_part == largest


def test_blocks_are_those_of_jax():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    devices = make_mesh(mesh)
    for row in parameters.PARAMETERS:
        axes = row.full_axes
        shape = tuple(8 * (i + 1) for i in range(len(axes)))
        theirs = sharding.sharding(devices, axes).devices_indices_map(shape)
        for position, device in np.ndenumerate(devices.devices):
            ours = sharding.block(axes, shape, mesh, dict(zip(AXES, position, strict=True)))
            bounds = tuple(slice(*part.indices(n)[:2]) for part, n in zip(theirs[device], shape, strict=True))
            assert ours == bounds, row.name


def test_a_mesh_that_does_not_divide_the_model_is_refused(tmp_path):
    write_sparse(tmp_path, TINY, shards=1)
    with pytest.raises(InputError, match="does not divide kv_heads = 2"):
        reads.plan(safetensors.read_directory(tmp_path), TINY, MeshConfig(tensor=4))
