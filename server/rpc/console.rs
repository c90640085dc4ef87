//! The console: one page that draws what the contract says of the cluster, at `/console`.
//!
//! The page and its two files hold nothing of the cluster and are for everybody; what they show
//! they ask for as any client does, in JSON (`json`), so that a viewer sees what a viewer may see.
//! Nothing is loaded from elsewhere, and nothing else may be: the headers say so to the browser.

use axum::{
    Router,
    http::{
        HeaderName,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Redirect},
    routing::get,
};

/// The page and its files: where each stands, what it is, and what it holds.
pub const FILES: [(&str, &str, &str); 3] = [
    ("/console", "text/html; charset=utf-8", include_str!("console/page.html")),
    ("/console/app.js", "text/javascript; charset=utf-8", include_str!("console/app.js")),
    ("/console/style.css", "text/css; charset=utf-8", include_str!("console/style.css")),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Lays the page beside other pages.
pub fn pages<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let router = router.route("/", get(|| async { Redirect::temporary("/console") }));
    FILES.iter().fold(router, |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // After an upgrade the page is that of the new version.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
