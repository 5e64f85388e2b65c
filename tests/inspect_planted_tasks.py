"""Tasks of Inspect for tests: one whose data are here, one whose data cannot be reached, and one that needs a tool."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import think


@task
def sums() -> Task:
    """Ten sums, of which a model that always says 4 does one."""
    samples = [Sample(f"What is 2 + {i}?", target=str(2 + i)) for i in range(10)]
    return Task(dataset=MemoryDataset(samples), scorer=match())


@task
def unreachable() -> Task:
    """Raises what a download without a network does."""
    raise ConnectionError("no route to the data")


@task
def with_tool() -> Task:
    """A sum that offers a tool."""
    return Task(MemoryDataset([Sample("What is 2 + 2?", target="4")]), [use_tools(think()), generate()], match())
