# ncdeploy on CPUs. As it stands it samples .onnx files and bundles, with NumPy and ONNX Runtime alone.
#
#   docker build -f engines/docker/cpu.Dockerfile -t ncdeploy:cpu .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" ncdeploy:cpu sample --engine model.onnx --parallel
#
# With EXTRAS=torch,cpu it also trains, imports and exports.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ncdeploy ncdeploy
COPY cli cli
RUN python -m pip install --no-cache-dir -c constraints.txt hatchling \
    && python -m pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels .
ARG EXTRAS=cpu
RUN python -m venv --without-pip /opt/ncdeploy \
    && python -m pip --python /opt/ncdeploy/bin/python install --no-cache-dir -c constraints.txt \
        "$(echo /wheels/ncdeploy-*.whl)[${EXTRAS}]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 ncdeploy
COPY --from=build /opt/ncdeploy /opt/ncdeploy
ENV PATH=/opt/ncdeploy/bin:$PATH ORT_DISABLE_TELEMETRY=1
USER 10001
WORKDIR /data
ENTRYPOINT ["ncdeploy"]
CMD ["--help"]
