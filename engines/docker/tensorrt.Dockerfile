# ncdeploy on NVIDIA GPUs: builds TensorRT engines and samples with them. The base image brings TensorRT 11.2 and CUDA.
#
#   docker build -f engines/docker/tensorrt.Dockerfile -t ncdeploy:tensorrt .
#   docker run --rm --gpus all -v "$PWD:/data" --user "$(id -u):$(id -g)" ncdeploy:tensorrt build model.onnx
#
# PyTorch keeps the samples on the GPU between sweeps. Without it, with EXTRAS=gpu, the image is smaller by its size, and
# they travel.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ncdeploy ncdeploy
COPY cli cli
RUN python -m pip install --no-cache-dir -c constraints.txt hatchling \
    && python -m pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels .

FROM nvcr.io/nvidia/tensorrt:26.08-py3
ARG EXTRAS=torch,gpu
# The packages of the image, TensorRT's among them, are seen from within; those installed here come first.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --without-pip --system-site-packages /opt/ncdeploy \
    && python3 -m pip --python /opt/ncdeploy/bin/python install --no-cache-dir -c /constraints.txt \
        "$(echo /wheels/ncdeploy-*.whl)[${EXTRAS}]" \
    && useradd --create-home --uid 10001 ncdeploy
ENV PATH=/opt/ncdeploy/bin:$PATH ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /data
ENTRYPOINT ["ncdeploy"]
CMD ["doctor"]
