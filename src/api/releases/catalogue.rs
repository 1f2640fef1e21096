//! The catalogue: which versions there are of which product, and which of them are ready to deploy.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Deserialize;

use super::{Wish, view};
use crate::api::Shared;
use crate::api::auth::ReleaseReader;
use crate::api::docs::Guarded;
use crate::api::error::ApiError;
use crate::api::extract::{Query, optional_version, optional_word};
use crate::dispatch::SeenRelease;
use crate::model::ids::Word;
use crate::model::release::Verdict;
use crate::store::ReleaseFilter;
use crate::wire::{Catalogue, CatalogueProduct, CatalogueVersion};

/// Filter of the catalogue.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Which {
    /// Only this product
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    product: Option<String>,
    /// Only with this service
    #[param(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    service: Option<String>,
    /// Only with this version of that service, or of any
    #[param(min_length = 1, max_length = 512)]
    version: Option<String>,
    /// Only those that are ready to deploy, or only those that are not
    ready: Option<bool>,
    /// Only those that were decided so
    #[param(inline)]
    decision: Option<Verdict>,
}

/// Show the catalogue
///
/// Of the newest 5,000 releases. A reporter sees the products that it is subscribed to.
#[utoipa::path(
    get, path = "/api/v1/catalogue", tag = "releases", operation_id = "catalogue",
    params(Which),
    responses((status = 200, description = "Products, and of each its releases, newest first", body = Catalogue), Guarded),
    security(("operator" = []), ("viewer" = []), ("releaser" = []), ("reporter" = [])),
)]
pub(in crate::api) async fn catalogue(
    State(api): State<Shared>,
    reader: ReleaseReader,
    Query(Which { product, service, version, ready, decision }): Query<Which>,
) -> Result<axum::Json<Catalogue>, ApiError> {
    let product = optional_word("product", product)?;
    let service = optional_word("service", service)?;
    let version = optional_version(version)?;
    let wish = Wish { service, version, ready, decision, ..Wish::default() };
    let mut products = match &reader {
        ReleaseReader::All => product.clone().map(|product| [product].into()),
        ReleaseReader::Reporter(name) => Some(api.dispatcher.store().subscriptions(name).await?),
    };
    if let (Some(products), Some(product)) = (&mut products, &product) {
        products.retain(|it| it == product);
    }
    if products.as_ref().is_some_and(|products| products.is_empty()) {
        return Ok(axum::Json(Catalogue { products: vec![] }));
    }
    let filter = ReleaseFilter { active: false, products, before: None };
    let shown = |seen: &SeenRelease| {
        let of = || (seen.release.product.clone(), seen.release.pipeline.clone());
        wish.fits(seen).then(|| (of(), view::version(seen)))
    };
    let (found, _) = api.shown_releases(filter, usize::MAX, shown).await?;
    let mut by_product: BTreeMap<(Word, Word), Vec<CatalogueVersion>> = BTreeMap::new();
    for (of, version) in found {
        by_product.entry(of).or_default().push(version);
    }
    let products = by_product.into_iter().map(|((product, pipeline), versions)| CatalogueProduct {
        product: product.into(),
        pipeline: pipeline.into(),
        versions,
    });
    Ok(axum::Json(Catalogue { products: products.collect() }))
}
