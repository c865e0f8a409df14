//! `/healthz` (the process lives), `/readyz` (it has reached the API server, and leads or stands by) and `/metrics`.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Serves until the listener fails.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, metrics: Metrics) -> std::io::Result<()> {
    axum::serve(listener, app(metrics)).await
}

fn app(metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(text))
        .with_state(metrics)
}

async fn readiness(State(metrics): State<Metrics>) -> Response {
    if metrics.is_ready() {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet").into_response()
    }
}

async fn text(State(metrics): State<Metrics>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_waits_for_the_api_server() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(readiness(State(metrics.clone())).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        metrics.set_ready();
        assert_eq!(readiness(State(metrics)).await.status(), StatusCode::OK);
    }

    #[test]
    fn results_are_counted_by_name() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciliations.with_label_values(&["RuntimePool", "applied"]).inc();
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        assert!(text.contains("emulsion_operator_reconciliations_total{kind=\"RuntimePool\",result=\"applied\"} 1"), "{text}");
    }
}
