# The dispatcher's image. Two ways to the same image:
#   --target prebuilt --build-arg PREBUILT=lockstep   copies that binary from the build context
#   the default                                       compiles, for machines without cargo that reach an image registry
ARG BASE=debian:bookworm-slim
ARG RUST=rust:1-bookworm

FROM ${BASE} AS base
LABEL lockstep.project=lockstep
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /
ENTRYPOINT ["/usr/local/bin/lockstep"]
CMD ["serve"]

FROM base AS prebuilt
# The default is a file that is always there: on its way to the last stage, the classic builder builds this one as well.
ARG PREBUILT=Dockerfile
COPY ${PREBUILT} /usr/local/bin/lockstep

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin lockstep

FROM base
COPY --from=build /src/target/release/lockstep /usr/local/bin/lockstep
