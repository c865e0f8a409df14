//! Counts what is asked of the API server.

use http::{Method, Request, StatusCode};
use kube::{Client, client::Body};

use crate::metrics::Metrics;

/// A client whose requests are counted.
pub fn counted(client: Client, metrics: &Metrics) -> Client {
    let namespace = client.default_namespace().to_owned();
    let requests = metrics.requests.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, requests, method) = (client.clone(), requests.clone(), method(&request));
        async move {
            let answer = client.send(request).await;
            let status = answer.as_ref().ok().map(|answer| answer.status());
            let code = status.as_ref().map_or("none", StatusCode::as_str);
            requests.with_label_values(&[method.as_str(), code]).inc();
            answer
        }
    });
    Client::new(service, namespace)
}

fn method(request: &Request<Body>) -> String {
    let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
    if request.method() == Method::GET && is_watch { "WATCH".to_owned() } else { request.method().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_from_other_reads() {
        let asked = |method: &str, uri: &str| super::method(&Request::builder().method(method).uri(uri).body(Body::empty()).unwrap());
        assert_eq!(asked("GET", "/api/v1/pods?labelSelector=a%3Db&watch=true"), "WATCH");
        assert_eq!(asked("GET", "/api/v1/pods?labelSelector=watch"), "GET");
        assert_eq!(asked("PATCH", "/api/v1/namespaces/a/pods/b"), "PATCH");
    }
}
