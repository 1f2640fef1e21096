//! Seeing to it that an image is there.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt as _;

use super::errors::Failure;
use super::{Docker, QUESTION};
use crate::engine::{Cause, EngineError, Pull, RegistryLogin, Result};

/// How long a pull may show no progress at all.
const STALL: Duration = Duration::from_secs(120);

const LOOK: &str = "look for the image";
const PULL: &str = "pull the image";

impl Docker {
    /// See [`Engine::ensure_image`](crate::engine::Engine::ensure_image).
    pub(super) async fn ensure(&self, image: &str, pull: Pull, login: Option<&RegistryLogin>) -> Result<String> {
        let refused = |cause: Cause| EngineError::NoImage { image: image.to_owned(), cause };
        let there = match pull {
            Pull::Always => None,
            Pull::Missing | Pull::Never => self.digest(image).await?,
        };
        match (there, pull) {
            (Some(digest), _) => return Ok(digest),
            (None, Pull::Never) => {
                return Err(refused("the engine has none and runner.pull is `never`; build or load it there".into()));
            }
            (None, Pull::Always | Pull::Missing) => {}
        }
        match self.pull(image, login).await {
            Ok(()) => self.digest(image).await?.ok_or_else(|| refused("it was pulled and is gone again".into())),
            Err(Failure::Silence(cause)) => Err(EngineError::NotReached { doing: PULL, cause }),
            Err(Failure::Answer { message, .. }) => {
                let advice = if pull == Pull::Always && matches!(self.digest(image).await, Ok(Some(_))) {
                    "it is on the engine, but runner.pull is `always` and it cannot be pulled; with `missing` it would be used"
                } else {
                    "it is not on the engine and cannot be pulled; see runner.image and the registry's credentials"
                };
                Err(refused(Cause { advice, said: message }))
            }
        }
    }

    /// The digest of an image that is there, or its id.
    async fn digest(&self, image: &str) -> Result<Option<String>> {
        match self.ask(QUESTION, self.client(LOOK)?.inspect_image(image)).await {
            Ok(shown) => Ok(Some(digest_of(image, shown))),
            Err(Failure::Answer { status: 404, .. }) => Ok(None),
            Err(Failure::Answer { status, message }) if status < 500 => {
                Err(EngineError::NoImage { image: image.to_owned(), cause: message.into() })
            }
            Err(failure) => Err(failure.sort(LOOK, image)),
        }
    }

    async fn pull(&self, image: &str, login: Option<&RegistryLogin>) -> std::result::Result<(), Failure> {
        let mut options = CreateImageOptionsBuilder::new().from_image(image);
        if is_name_only(image) {
            // Without a tag Docker would pull them all.
            options = options.tag("latest");
        }
        let credentials = login.map(|login| DockerCredentials {
            username: Some(login.user.clone()),
            password: Some(login.password.expose().to_owned()),
            ..Default::default()
        });
        let client = self.client(PULL).map_err(|error| Failure::Silence(error.to_string()))?;
        // bollard writes credentials in base 64 with `+` and `/`; Docker reads `-` and `_`, and pulls without any when it cannot.
        let client = client.with_request_modifier(|mut request| {
            if let Some(auth) = request.headers_mut().get_mut("X-Registry-Auth")
                && let Ok(text) = auth.to_str()
                && let Ok(mut safe) = text.replace('+', "-").replace('/', "_").parse::<hyper::header::HeaderValue>()
            {
                safe.set_sensitive(true);
                *auth = safe;
            }
            request
        });
        let mut progress = client.create_image(Some(options.build()), None, credentials);
        loop {
            match tokio::time::timeout(STALL, progress.next()).await {
                Err(_) => return Err(Failure::Silence(format!("no progress for {} s", STALL.as_secs()))),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(bollard::errors::Error::DockerStreamError { error }))) => {
                    return Err(Failure::Answer { status: 500, message: error });
                }
                Ok(Some(Err(error))) => return Err(error.into()),
            }
        }
    }
}

/// The part of a reference that comes after the last slash holds the tag; a digest says all.
fn is_name_only(image: &str) -> bool {
    !image.contains('@') && !image.rsplit('/').next().unwrap_or(image).contains(':')
}

/// The digest under which the image's own repository knows it, else any, else its id.
fn digest_of(image: &str, shown: ImageInspect) -> String {
    let digests = shown.repo_digests.unwrap_or_default();
    let name = image.split('@').next().unwrap_or(image);
    let name = if is_name_only(name) { name } else { name.rsplit_once(':').map_or(name, |(name, _)| name) };
    let of_name = digests.iter().filter_map(|known| known.split_once('@')).find(|(repository, _)| *repository == name);
    let any = digests.iter().find_map(|known| known.split_once('@'));
    of_name.or(any).map(|(_, digest)| digest.to_owned()).or(shown.id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port() {
        for (image, name_only) in [
            ("busybox", true),
            ("busybox:1", false),
            ("registry:5000/runner", true),
            ("registry:5000/runner:2", false),
            ("runner@sha256:00", false),
        ] {
            assert_eq!(is_name_only(image), name_only, "{image}");
        }
    }

    #[test]
    fn the_digest_of_the_named_repository_comes_first() {
        let shown = |digests: &[&str]| ImageInspect {
            id: Some("sha256:id".to_owned()),
            repo_digests: Some(digests.iter().map(|&digest| digest.to_owned()).collect()),
            ..Default::default()
        };
        let both = ["other@sha256:1", "registry:5000/runner@sha256:2"];
        assert_eq!(digest_of("registry:5000/runner:7", shown(&both)), "sha256:2");
        assert_eq!(digest_of("registry:5000/runner", shown(&both)), "sha256:2");
        assert_eq!(digest_of("third", shown(&both)), "sha256:1");
        assert_eq!(digest_of("third", shown(&[])), "sha256:id");
    }
}
