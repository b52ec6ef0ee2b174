"""The variables that a template reads from its context, by itself and through what it includes, extends and imports."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import nodes

from app.domain.recipe import Method
from app.domain.run import RunKind
from app.web.pages.run.overview import LOG_KINDS
from app.web.pages.run.stream import PARTS
from app.web.pages.run.tabs import tabs_of
from app.web.rendering.environment import environment
from tests.architecture.tree import list_files, read

OF_MACROS = {"caller", "varargs", "kwargs"}
# The names of includes that are put together: the log's lines, the tabs of a run.
PUT_TOGETHER = {
    "runs/_*.html": [f"runs/_{PARTS.get(kind, (kind,))[-1]}.html" for kind in LOG_KINDS],
    "runs/tabs/_*.html": [f"runs/tabs/_{tab.id}.html" for tab in tabs_of(RunKind.TRAINING, Method.VAR)],
}


@cache
def list_templates() -> tuple[str, ...]:
    return tuple(path.relative_to("templates").as_posix() for path in list_files() if path.parts[0] == "templates")


@cache
def parse_template(name: str) -> nodes.Template:
    return environment().parse(read(Path("templates") / name))


@cache
def find_reads(name: str) -> frozenset[str]:
    """Return the variables that must be passed for `name` to be rendered; the environment's own are left out."""
    return frozenset(Reader().read_template(name)) - environment().globals.keys()


@cache
def find_parts(name: str) -> frozenset[str]:
    """Return the templates that are rendered with `name`, in the same context."""
    tree = parse_template(name)
    parts = {one for include in tree.find_all((nodes.Include, nodes.Extends)) for one in named_in(include.template)}
    return frozenset(parts).union(*map(find_parts, parts))


def named_in(expression: nodes.Expr) -> list[str]:
    """Return the templates that an include may name: one, or those that stand for its pattern."""
    if isinstance(expression, nodes.Const):
        return [expression.value]
    assert isinstance(expression, nodes.Concat), expression
    return PUT_TOGETHER["".join(part.value if isinstance(part, nodes.Const) else "*" for part in expression.nodes)]


class Reader:
    """Walks a template's tree with the names that are bound where it stands.

    `blocks`: those of the templates that extend it, each with what its own template binds at its top.
    """

    def __init__(self) -> None:
        self.blocks: dict[str, tuple[nodes.Block, frozenset[str]]] = {}

    def read_template(self, name: str) -> set[str]:
        body, bound = parse_template(name).body, set[str]()
        parents = [node for node in body if isinstance(node, nodes.Extends)]
        if not parents:
            return self.read_body(body, bound)
        reads = self.read_body((node for node in body if not isinstance(node, nodes.Extends | nodes.Block)), bound)
        for block in (node for node in body if isinstance(node, nodes.Block)):
            self.blocks.setdefault(block.name, (block, frozenset(bound)))
        return reads.union(*(self.read_template(parent) for parent in named_in(parents[0].template)))

    def read_body(self, body: Iterable[nodes.Node], bound: set[str]) -> set[str]:
        """Return what these nodes read in turn; `bound` grows with what they set."""
        return {name for node in body for name in self.read(node, bound)}

    def read_apart(self, body: Iterable[nodes.Node], bound: set[str], *more: str) -> set[str]:
        return self.read_body(body, {*bound, *more})

    def read(self, node: nodes.Node, bound: set[str]) -> set[str]:
        match node:
            case nodes.Name(ctx="load"):
                return {node.name} - bound
            case nodes.Name():
                bound.add(node.name)
                return set()
            case nodes.Assign() | nodes.AssignBlock():
                value = [node.node] if isinstance(node, nodes.Assign) else node.body
                reads = self.read_apart(value, bound)
                return reads | self.read(node.target, bound)
            case nodes.For():
                inside = {*bound, "loop"}
                reads = self.read(node.iter, bound) | self.read(node.target, inside)
                reads |= self.read_body([node.test] if node.test else [], inside)
                return reads | self.read_apart(node.body, inside) | self.read_apart(node.else_, bound)
            case nodes.With():
                inside = set(bound)
                return (
                    self.read_body(node.values, bound) | self.read_body(node.targets, inside) | self.read_body(node.body, inside)
                )
            case nodes.Macro() | nodes.CallBlock():
                return self.read_macro(node, bound)
            case nodes.FromImport():
                bound.update(name if isinstance(name, str) else name[1] for name in node.names)
                return set()
            case nodes.Block():
                return self.read_block(node, bound)
            case nodes.Include():
                return set().union(*(Reader().read_template(name) for name in named_in(node.template))) - bound
        return self.read_body(node.iter_child_nodes(), bound)

    def read_macro(self, node: nodes.Macro | nodes.CallBlock, bound: set[str]) -> set[str]:
        inside = {*bound, *OF_MACROS, *(arg.name for arg in node.args)}
        reads = self.read_apart(node.defaults, bound) | self.read_apart(node.body, inside)
        if isinstance(node, nodes.CallBlock):
            return reads | self.read(node.call, bound)
        bound.add(node.name)
        return reads

    def read_block(self, node: nodes.Block, bound: set[str]) -> set[str]:
        """Read the block of the outermost child, with what that child sets or imports at its top."""
        block, top = self.blocks.get(node.name, (node, frozenset()))
        return self.read_apart(block.body, {*bound, *top})
