"""YAML as data: plain values only, read in a time that grows with the file and not with what it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from armory_mdnf.errors import BundleError, cause, quoted, shown

MAX_CONFIG_BYTES = 1 << 17  # those of published vocoders have some thousand
MAX_NUMBER = 400  # characters: more than any float has
NUMBERS = ("int", "float")
TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, a tuple of Python's as a list.

    Raises :class:`BundleError` naming the file if it holds other objects, a key twice, or merges mappings.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # makes plain values only
        def flatten_mapping(self, node: Any) -> None:
            """Merging (``<<``) copies: nine lines of it can make a billion keys."""
            for key, _ in node.value:
                if key.tag == f"{TAG}merge":
                    raise yaml.constructor.ConstructorError(None, None, "it merges mappings (<<)", key.start_mark)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            if isinstance(node, yaml.MappingNode):
                self.flatten_mapping(node)
            found: dict[Any, Any] = {}
            for key_node, _ in node.value:
                if (key := self.construct_object(key_node, True)) in found:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {quoted(key)} is there twice", key_node.start_mark
                    )
                found[key] = None
            return super().construct_mapping(node, deep)

        def construct_scalar(self, node: Any) -> Any:
            """Numbers to the base of sixty (``1:59:59``) take the square of their length to read."""
            if node.tag in [f"{TAG}{name}" for name in NUMBERS] and len(node.value) > MAX_NUMBER:
                raise yaml.constructor.ConstructorError(
                    None, None, f"a number of {len(node.value)} characters", node.start_mark
                )
            return super().construct_scalar(node)

    Loader.add_constructor(f"{TAG}python/tuple", lambda loader, node: loader.construct_sequence(node, True))
    try:
        if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
            raise BundleError(f"{path}: expected a configuration of at most {MAX_CONFIG_BYTES} bytes, found {size}")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except BundleError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = shown((error.problem or "")[:120])
        raise BundleError(f"{path} is not a readable configuration: {where}{reason}") from error
    except Exception as error:  # those of the dates, numbers and depths that it knows
        raise BundleError(f"{path} is not a readable configuration: {cause(error)}") from error
