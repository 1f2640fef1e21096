//! The OpenAPI document and its page.

use super::*;

#[test]
fn the_document_that_is_checked_in_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let made = api::openapi().to_pretty_json().expect("JSON") + "\n";
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "docs/openapi.json is not up to date; run: lockstep openapi > docs/openapi.json");
}

#[test]
fn every_operation_says_who_may_and_what_may_go_wrong() {
    let document = serde_json::to_value(api::openapi()).expect("JSON");
    let open = ["/healthz", "/readyz", "/metrics", "/app-deploy/", "/job-status/"];
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let shown = format!("{method} {path}");
            assert_eq!(operation.get("security").is_none(), open.contains(&path.as_str()), "{shown}");
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{shown}");
            let responses = operation["responses"].as_object().expect("responses");
            if path.starts_with("/api/v1/") {
                for status in ["401", "403", "429", "503"] {
                    assert!(responses.contains_key(status), "{shown} {status}");
                }
            }
            if operation.get("requestBody").is_some() {
                for status in ["400", "413", "422"] {
                    assert!(responses.contains_key(status), "{shown} {status}");
                }
            }
        }
    }
}

#[tokio::test]
async fn document_and_page_come_from_the_binary() {
    let service = Service::start().await;
    let document = service.call(Ask::get("/openapi.json")).await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json(), serde_json::to_value(api::openapi()).expect("JSON"));
    assert_eq!(service.call(Ask::get("/docs")).await.status.as_u16(), 303);
    let page = service.call(Ask::get("/docs/")).await;
    assert_eq!(page.status.as_u16(), 200);
    assert!(page.text().contains("swagger-ui"));
    let script = service.call(Ask::get("/docs/swagger-ui-bundle.js")).await;
    assert!(script.status.is_success() && script.body.len() > 100_000);
    let start = service.call(Ask::get("/docs/swagger-initializer.js")).await;
    assert!(start.text().contains("/openapi.json"), "{}", start.text());
    service.stop().await;
}
