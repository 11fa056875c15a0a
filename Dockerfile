# Every command of tcm-d2 on a CPU; without arguments the page of `tcm-d2 serve`.
#   docker build -t tcm_d2 .
#   docker run --rm -p 127.0.0.1:8000:8000 tcm_d2
#   docker run --rm -v "$PWD:/work" tcm_d2 predict --images /work/scenes --output /work/found
# In the container the page listens on all of its addresses; -p decides who reaches it.
FROM python:3.12-slim-bookworm AS build
# pip's own options are allowed here, such as the index of a CPU-only torch.
ARG TORCH_SPEC="torch torchvision"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/tcm_d2
ENV PATH="/opt/tcm_d2/bin:$PATH"
WORKDIR /src
# hadolint ignore=DL3013,SC2086
RUN pip install --no-cache-dir ${TORCH_SPEC} "setuptools>=77" wheel ninja
COPY . .
# hadolint ignore=DL3013
RUN python tools/install_detectron2.py \
    && TCM_D2_CUDA=0 pip install --no-cache-dir --no-build-isolation ".[geo,serve]"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 tcm
COPY --from=build /opt/tcm_d2 /opt/tcm_d2
ENV PATH="/opt/tcm_d2/bin:$PATH" OMP_WAIT_POLICY="PASSIVE"
USER 1000
WORKDIR /home/tcm
EXPOSE 8000
ENTRYPOINT ["tcm-d2"]
CMD ["serve", "--host", "0.0.0.0"]
