# The dispatcher's image. Two ways to the same image:
#   --target prebuilt   copies a binary from the build context (the classic builder stops at this stage)
#   the default         builds it, for machines without cargo that reach an image registry
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
COPY lockstep /usr/local/bin/lockstep

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin lockstep

FROM base
COPY --from=build /src/target/release/lockstep /usr/local/bin/lockstep
