"""README.md of a bundle: what it holds, and how to sample from Python and from C++."""

from collections.abc import Mapping, Sequence

from ncdeploy.errors import install
from ncdeploy.formats.bundle import BundledPlan
from ncdeploy.formats.parts import Part, Role
from ncdeploy.modelinfo import ModelInfo

_TEXT = """# {title}

A diffusion model and its plans, made by `ncdeploy bundle`.

- samples: {shape}, in data units after `offset + scale * sample` (offset {offset:g}, scale {scale:g})
- classes: {classes}
{conditions}{parts}- engine: `{engine}`{others}

| plan | network calls, one after another | parallel: window | tolerance |
| --- | --- | --- | --- |
{rows}

The first plan is the default. `manifest.json` lists every file with its SHA-256, what was compared when the bundle
was made, and what the model is; its format is specified in `ncdeploy/bundle/__init__.py`, that of a plan in
`ncdeploy/formats/planfile.py`.

## Command line

    ncdeploy sample . --parallel -n 64{cli_labels} -o samples.{suffix}

## Python

NumPy{and_runtime} are enough: {packages}.

```python
import ncdeploy

bundle = ncdeploy.open_bundle(".")  # every digest is checked
engine = ncdeploy.open_engine(bundle{device})
stored = bundle.plan("{plan}")
result = ncdeploy.sample(
    engine, stored.plan, seeds=range(4),{python_labels} window=stored.window, tolerance=stored.tolerance
)
samples = result.to_data()  # [4, {sizes}], in the units of the training data
print(result.depth, "network calls instead of", stored.plan.evaluations)
```

## C++

```cpp
#include <ncdeploy/ncdeploy.hpp>

#include <iostream>

int main() {{
    ncdeploy::Bundle bundle(".");  // every digest is checked
    auto engine = ncdeploy::open_{backend}(bundle);
    ncdeploy::Sampler sampler(*engine, bundle.plan("{plan}"), bundle.options("{plan}"));
    ncdeploy::Result result = sampler.sample({{0, 1, 2, 3}}{cpp_labels});  // as in Python
    std::cout << result.depth << " network calls instead of " << bundle.plan("{plan}").evaluations() << "\\n";
}}
```

```cmake
find_package(ncdeploy REQUIRED)
target_link_libraries(app PRIVATE ncdeploy::{backend})
```
"""


def readme(
    engine: str,
    info: ModelInfo,
    plans: Mapping[str, BundledPlan],
    others: Sequence[str],
    parts: Mapping[Role, Part],
) -> str:
    """The text for a bundle with this engine, model, plans, further files, and encoder and decoder among them."""
    encoder, decoder = parts.get("encoder"), parts.get("decoder")
    made = () if encoder is None else tuple(value.name for value in encoder.outputs)
    takes = [*(encoder.inputs if encoder else ()), *(c for c in info.conditions if c.name not in made)]
    onnx = engine == "model.onnx"
    classes = [i % max(1, info.num_classes) for i in range(4)]
    listed = ", ".join(map(str, classes))
    given = [f'"labels": {classes}'] if info.num_classes else []
    given += [f'"{value.name}": {value.name.replace(".", "_")}' for value in takes]
    return _TEXT.format(
        title=info.data or "Diffusion model",
        shape=" x ".join(map(str, info.shape)),
        sizes=", ".join(map(str, decoder.outputs[0].shape if decoder else info.shape)),
        offset=info.offset,
        scale=info.scale,
        classes=info.describe_labels() if info.num_classes else "none",
        conditions="".join(f"- condition {c.describe()} of every sample\n" for c in info.conditions),
        parts="".join(f"- {role}, run once a sample: {_flow(part)}\n" for role, part in parts.items()),
        engine=engine,
        others="".join(f", `{name}`" for name in others),
        rows="\n".join(f"| {n} | {p.plan.evaluations} | {p.window} | {p.tolerance:g} |" for n, p in plans.items()),
        plan=next(iter(plans)),
        suffix="png" if not decoder and (len(info.shape) == 3 or info.shape == (2,)) else "npz",
        and_runtime=" and ONNX Runtime" if onnx else " and TensorRT",
        packages=install("cpu" if onnx else "tensorrt"),
        device="" if onnx else ', device="cuda"',
        backend="onnxruntime" if onnx else "tensorrt",
        cli_labels=(" --labels all" if info.num_classes else "")
        + "".join(f" --condition {value.name}={value.name}.npy" for value in takes),
        python_labels=f" conditions={{{', '.join(given)}}}," if given else "",
        cpp_labels=f', {{{{"labels", std::vector<std::int64_t>{{{listed}}}}}}}' if info.num_classes else "",
    )


def _flow(part: Part) -> str:
    takes, gives = (", ".join(v.describe() for v in values) for values in (part.inputs, part.outputs))
    return f"{takes} to {gives}"
