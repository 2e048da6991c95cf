"""The bundle: the folder that is shipped. An engine, plans as coefficients, and what a host has to know of both.

    bundle/
      model.onnx        the denoiser D(x, sigma[, labels[, guidance]]); or model.plan, with model.plan.json beside it
      plans/NAME.ncplan one file a plan, specified at the top of ncdeploy/formats/planfile.py
      *.onnx            further graphs of the same model, such as sweep.onnx and sampler.onnx
      ...               files that these graphs have values in (external data of ONNX), if any
      README.md         how to run it from Python and C++
      manifest.json     what the folder holds, below
      manifest.sha256   "<SHA-256 of manifest.json in lower-case hex>  manifest.json\\n", as sha256sum writes it

manifest.json is one object in UTF-8, at most 64 MiB, with "format": "ncdeploy bundle", "version": 1 and the fields of
`ncdeploy.formats.manifest.Manifest`, which docs/stability.md lists together with what may change.

An engine that describes itself, in ONNX metadata or in model.plan.json, does so in the words of `model`.

A name of a file is relative, its parts are separated by "/" and match [A-Za-z0-9_][A-Za-z0-9_.-]*, and neither it nor
a folder on the way may be a link. A reader refuses a manifest whose digest differs, that repeats a key, holds NaN, an
infinity or an integer beyond 2^53, or breaks a rule of these fields; any listed file whose size or digest differs;
and a graph with values in a file that is not listed.

Digests find damage. They do not say who made a bundle: whoever can write all its files can make another valid one.
"""

from ncdeploy.bundle.writer import make_bundle
from ncdeploy.formats.bundle import Bundle, BundledPlan, open_bundle

__all__ = ["Bundle", "BundledPlan", "make_bundle", "open_bundle"]
