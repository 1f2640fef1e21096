//! From a [`Spec`] to Docker's description of a container, and back from what Docker shows to [`Found`].

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, HostConfig, HostConfigLogConfig, Mount, MountType, RestartPolicy, RestartPolicyNameEnum,
};

use crate::engine::{Found, Labels, Spec};
use crate::model::lock::Fence;
use crate::model::settle::Phase;

pub(super) const INSTANCE: &str = "lockstep.instance";
const JOB: &str = "lockstep.job";
const DEPLOYMENT: &str = "lockstep.deployment";
const INVENTORY: &str = "lockstep.inventory";
const FENCE: &str = "lockstep.fence";
const ACTION: &str = "lockstep.action";

/// A small mount whose only use is that its mount point is made in the container's own layer when its mounts are made. Docker, killed
/// between starting a process and noting so, shows the container as never started; by this folder one can tell.
pub(super) const SET_UP: &str = "/run/lockstep/.started";
/// The bit of a directory in the modes that Docker tells, which are those of Go.
pub(super) const DIRECTORY: u32 = 1 << 31;

/// Period over which the CPU limit is counted, in microseconds: the kernel's own default.
const CPU_PERIOD: i64 = 100_000;

/// Docker's description of a container.
pub(super) fn body(spec: &Spec) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: Some(spec.argv.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(labels(&spec.labels)),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(host_config(spec)),
        ..Default::default()
    }
}

fn host_config(spec: &Spec) -> HostConfig {
    let memory = i64::try_from(spec.memory).unwrap_or(i64::MAX);
    HostConfig {
        memory: Some(memory),
        // Memory and swap together: none of the latter.
        memory_swap: Some(memory),
        // Not NanoCpus: Docker refuses more of those than the host has CPUs, and a limit above that is no mistake.
        cpu_period: Some(CPU_PERIOD),
        cpu_quota: Some(i64::try_from(spec.millicpus).unwrap_or(i64::MAX).saturating_mul(CPU_PERIOD / 1000)),
        pids_limit: Some(i64::try_from(spec.pids).unwrap_or(i64::MAX)),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        // Said outright, because the engine's own default may be to put one in front: a command that is not there would then be
        // an ended job with exit code 127 instead of a refused start. An image that wants an init brings its own.
        init: Some(false),
        tmpfs: Some([(SET_UP.to_owned(), "ro,size=4k,mode=0555".to_owned())].into()),
        extra_hosts: Some(vec!["host.docker.internal:host-gateway".to_owned()]),
        network_mode: spec.network.clone(),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        // The ended container is evidence, and holds the output: it goes when Lockstep says so.
        auto_remove: Some(false),
        log_config: Some(log_config()),
        mounts: Some(
            spec.mounts
                .iter()
                .map(|mount| Mount {
                    // Not Binds: for those Docker makes an empty folder where the source is missing.
                    typ: Some(MountType::BIND),
                    source: Some(mount.source.clone()),
                    target: Some(mount.target.clone()),
                    read_only: Some(mount.read_only),
                    ..Default::default()
                })
                .collect(),
        ),
        ..Default::default()
    }
}

/// The log is where output lives until it has been read, so it must be readable, from its first byte to its last, as it was written.
///
/// The engine's own default may be a driver that cannot be read back, or may rotate, or drop what comes too fast; options that
/// are not set here are taken from that default when its driver is this one, so all that could lose something are set.
/// `json-file`, the usual one, keeps text: it replaces what is no UTF-8, and with it every character that its pieces of 16 KiB cut in two.
fn log_config() -> HostConfigLogConfig {
    let options = [("mode", "blocking"), ("max-size", "1000000g"), ("max-file", "1"), ("compress", "false")];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
    }
}

fn labels(labels: &Labels) -> HashMap<String, String> {
    [
        (INSTANCE, labels.instance.to_string()),
        (JOB, labels.job.to_string()),
        (DEPLOYMENT, labels.deployment_id.to_string()),
        (INVENTORY, labels.inventory.to_string()),
        (FENCE, labels.fence.to_string()),
        (ACTION, labels.action.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn read_labels(found: &HashMap<String, String>) -> Option<Labels> {
    let label = |name: &str| found.get(name).map(String::as_str);
    Some(Labels {
        instance: label(INSTANCE)?.parse().ok()?,
        job: label(JOB)?.parse().ok()?,
        deployment_id: label(DEPLOYMENT)?.parse().ok()?,
        inventory: label(INVENTORY)?.parse().ok()?,
        fence: Fence(label(FENCE)?.parse().ok()?),
        action: label(ACTION)?.parse().ok()?,
    })
}

/// What an inspection shows.
pub(super) struct Shown {
    pub(super) found: Found,
    /// Why the last start failed; empty: none did.
    pub(super) error: String,
}

/// What an inspection shows. None: it cannot be read.
pub(super) fn found(shown: ContainerInspectResponse) -> Option<Shown> {
    let state = shown.state?;
    let phase = phase(&state)?;
    let found = Found {
        container: shown.id?,
        name: shown.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        phase,
        labels: shown.config.and_then(|config| config.labels).as_ref().and_then(read_labels),
        out_of_memory: state.oom_killed.unwrap_or(false),
    };
    Some(Shown { found, error: state.error.unwrap_or_default() })
}

/// A start that Docker refused leaves the container `created`, with an exit code that nothing returned (126 to 128): it never ran.
fn phase(state: &ContainerState) -> Option<Phase> {
    use ContainerStateStatusEnum as Status;
    Some(match state.status? {
        Status::CREATED => Phase::Created,
        Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING => Phase::Running,
        Status::EXITED => Phase::Ended { exit_code: state.exit_code? },
        Status::REMOVING => Phase::Dying,
        // Its removal broke off, with the engine's process for instance, and nobody goes on with it: it cannot run any more, and is
        // what it was before.
        Status::DEAD if state.started_at.as_deref().is_none_or(|at| at.starts_with("0001-")) => Phase::Created,
        Status::DEAD => Phase::Ended { exit_code: state.exit_code? },
        Status::EMPTY => return None,
    })
}

/// What a line of the list shows, if that is enough: an ended container's exit code is not in it.
pub(super) fn listed(shown: &ContainerSummary) -> Option<Found> {
    use ContainerSummaryStateEnum as Status;
    let phase = match shown.state? {
        Status::CREATED => Phase::Created,
        Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING => Phase::Running,
        Status::REMOVING => Phase::Dying,
        Status::EXITED | Status::DEAD | Status::EMPTY => return None,
    };
    // Links from other containers are listed as names with two slashes.
    let name =
        shown.names.iter().flatten().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'))?;
    Some(Found {
        container: shown.id.clone()?,
        name: name.to_owned(),
        phase,
        labels: shown.labels.as_ref().and_then(read_labels),
        out_of_memory: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_back_or_not_at_all() {
        let ours = Labels {
            instance: "lockstep".parse().expect("a name"),
            job: "01GZEC5GJHFKWMK4Z5A1NM9DPF".parse().expect("an id"),
            deployment_id: "app-one".parse().expect("a name"),
            inventory: "app-one.epfl.ch".parse().expect("a name"),
            fence: Fence(1_700_000_000_001),
            action: "app-deploy".parse().expect("a name"),
        };
        let written = labels(&ours);
        assert_eq!(read_labels(&written), Some(ours));
        for name in written.keys() {
            let mut without = written.clone();
            without.remove(name);
            assert_eq!(read_labels(&without), None, "without {name}");
            let mut spoilt = written.clone();
            spoilt.insert(name.clone(), "../x".to_owned());
            assert_eq!(read_labels(&spoilt), None, "with a bad {name}");
        }
    }

    #[test]
    fn phases() {
        let state = |status, exit_code| ContainerState { status: Some(status), exit_code, ..Default::default() };
        use ContainerStateStatusEnum as Status;
        for (status, exit_code, expected) in [
            (Status::CREATED, Some(127), Some(Phase::Created)),
            (Status::PAUSED, Some(0), Some(Phase::Running)),
            (Status::RESTARTING, Some(1), Some(Phase::Running)),
            (Status::EXITED, Some(3), Some(Phase::Ended { exit_code: 3 })),
            (Status::EXITED, None, None),
            (Status::DEAD, Some(0), Some(Phase::Created)),
            (Status::REMOVING, Some(0), Some(Phase::Dying)),
        ] {
            assert_eq!(phase(&state(status, exit_code)), expected, "{status}");
        }
        for (started, expected) in [
            ("0001-01-01T00:00:00Z", Phase::Created),
            ("2026-11-21T04:53:00.40090496Z", Phase::Ended { exit_code: 137 }),
        ] {
            let started_at = Some(started.to_owned());
            let dead = ContainerState { started_at, ..state(Status::DEAD, Some(137)) };
            assert_eq!(phase(&dead), Some(expected), "a removal that broke off");
        }
    }
}
