"""Every name of TensorRT that a module uses, read off its syntax tree.

That is `trt.BuilderFlag.TF32`, and of a variable or attribute annotated with a class under `api`, what is taken from
it: `config: api.IBuilderConfig` and later `config.set_flag`.
"""

import ast


def used_names(source: str) -> set[str]:
    """Dotted names without the leading `trt`, e.g. {"BuilderFlag.TF32", "IBuilderConfig.set_flag"}."""
    tree = ast.parse(source)
    classes: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            target = node.arg if isinstance(node, ast.arg) else _last(node.target)
            name = _api(node.annotation)
            if name and classes.setdefault(target, name) != name:
                raise AssertionError(f"{target} is annotated as {name} and as {classes[target]}")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chain = _chain(node.value)
            if chain[:1] == ["trt"] and len(chain) > 1:
                aliases[node.targets[0].id] = ".".join(chain[1:])
    names = set(classes.values())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        chain = _chain(node)
        if "trt" in chain[:2]:
            names.add(".".join(chain[chain.index("trt") + 1 :]))
        elif chain and chain[0] in aliases:
            names.add(".".join([aliases[chain[0]], *chain[1:]]))
        elif chain and len(chain) > 1 and chain[-2] in classes and chain[-1] not in classes:
            names.add(f"{classes[chain[-2]]}.{chain[-1]}")
    return names - {""}


def _chain(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = _chain(node.value)
        return [*before, node.attr] if before else []
    return []


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _api(annotation: ast.AST) -> str:
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    return text.removeprefix("api.") if isinstance(text, str) and text.startswith("api.") else ""
