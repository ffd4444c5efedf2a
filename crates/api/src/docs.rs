//! `/openapi.json`, and the page at `/docs/` that browses it. The page's assets are in the binary; it loads nothing from
//! elsewhere, and its content security policy says so.

use crate::error::{ApiError, ErrorCode};
use crate::openapi;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ContentType, LOCATION,
};
use actix_web::{HttpRequest, HttpResponse};
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

static DOCUMENT: LazyLock<String> = LazyLock::new(openapi::to_json);
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from("/openapi.json")));

pub(crate) async fn openapi_json() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(ContentType::json())
        .body(DOCUMENT.as_str())
}

pub(crate) async fn to_docs() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, "/docs/"))
        .finish()
}

pub(crate) async fn page(req: HttpRequest) -> Result<HttpResponse, ApiError> {
    let path = req.match_info().get("file").unwrap_or_default();
    let file = utoipa_swagger_ui::serve(path, Arc::clone(&CONFIG))
        .map_err(|error| ApiError::new(ErrorCode::InternalError).caused_by(error.to_string()))?
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_TYPE, file.content_type.as_str()));
    if file.gzpipped {
        response.insert_header((CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(file.bytes.into_owned()))
}
